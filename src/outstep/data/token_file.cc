#include "outstep/data/token_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/io/files.h"

namespace outstep::data {
namespace {

constexpr size_t kHeaderInts = 256;
constexpr size_t kHeaderBytes = kHeaderInts * sizeof(int32_t);

struct LlmcKind {
  int32_t magic;
  int32_t version;
  TokenFormat format;
  int width;
};
constexpr std::array kLlmcKinds = {
    LlmcKind{20240520, 1, TokenFormat::llmc_uint16, 2},
    LlmcKind{20240801, 7, TokenFormat::llmc_uint32, 4},
};
// llm.c numbers all its files by date; these are not tokens.
constexpr int32_t kLlmcModel = 20240326;
constexpr int32_t kLlmcDebugState = 20240327;
constexpr int32_t kLlmcTokenizer = 20240328;
constexpr int32_t kLlmcEvaluation = 20240522;

int32_t int_at(std::span<const std::byte> bytes, size_t index) {
  int32_t value = 0;
  std::memcpy(&value, bytes.data() + index * sizeof(value), sizeof(value));
  return value;
}

TokenFileInfo inspect_llmc(const std::string& name, std::span<const std::byte> bytes,
                           const LlmcKind& kind) {
  if (bytes.size() < kHeaderBytes) {
    throw DataError(
        "{}: {} bytes are fewer than the 1,024 of an llm.c header; the file was cut off", name,
        with_commas(static_cast<int64_t>(bytes.size())));
  }
  if (const int32_t version = int_at(bytes, 1); version != kind.version) {
    throw DataError("{}: llm.c token file (magic {}) of version {}; version {} is expected", name,
                    kind.magic, version, kind.version);
  }
  const auto num_tokens = static_cast<int64_t>(int_at(bytes, 2));
  const auto found = static_cast<int64_t>(bytes.size() - kHeaderBytes);
  if (num_tokens < 0 || num_tokens * kind.width != found) {
    throw DataError(
        "{}: the header says {} tokens of {} bytes, which makes {} bytes after it, but {} are "
        "there",
        name, with_commas(num_tokens), kind.width, with_commas(num_tokens * kind.width),
        with_commas(found));
  }
  return {.format = kind.format,
          .num_tokens = num_tokens,
          .header_bytes = kHeaderBytes,
          .width = kind.width};
}

void refuse_foreign(const std::string& name, std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(int32_t)) return;
  switch (int_at(bytes, 0)) {
    case kLlmcModel:
    case kLlmcDebugState:
      throw DataError("{}: this is an llm.c model file, not a token file", name);
    case kLlmcTokenizer:
      throw DataError("{}: this is an llm.c tokenizer file, not a token file", name);
    case kLlmcEvaluation:
      throw DataError("{}: this is an llm.c evaluation file (HellaSwag, MMLU), not a token file",
                      name);
    default:
      return;
  }
}

TokenFileInfo inspect(const std::string& name, std::span<const std::byte> bytes) {
  const auto size = static_cast<int64_t>(bytes.size());
  if (size == 0) throw DataError("{}: the token file is empty", name);
  if (bytes.size() >= sizeof(int32_t)) {
    for (const LlmcKind& kind : kLlmcKinds) {
      if (int_at(bytes, 0) == kind.magic) return inspect_llmc(name, bytes, kind);
    }
  }
  refuse_foreign(name, bytes);
  if (size % 2 != 0) {
    throw DataError(
        "{}: {} bytes is not a whole number of 2-byte tokens (one byte short), and there is no "
        "llm.c header.\n"
        "  The file was cut off, or is no token file (nanoGPT's .bin or llm.c's).",
        name, with_commas(size));
  }
  return {
      .format = TokenFormat::plain_uint16, .num_tokens = size / 2, .header_bytes = 0, .width = 2};
}

template <typename Id>
void write_ids(io::AtomicFile& file, const TokenRow& tokens) {
  constexpr int64_t kChunk = 1 << 16;
  std::vector<int64_t> ids;
  std::vector<Id> narrow;
  for (int64_t begin = 0; begin < tokens.size(); begin += kChunk) {
    ids.resize(static_cast<size_t>(std::min(kChunk, tokens.size() - begin)));
    tokens.read(begin, ids);
    narrow.assign(ids.begin(), ids.end());
    file.write(std::as_bytes(std::span(narrow)));
  }
}

}  // namespace

const char* token_format_name(TokenFormat format) {
  switch (format) {
    case TokenFormat::plain_uint16:
      return "nanoGPT tokens, 2 bytes each";
    case TokenFormat::llmc_uint16:
      return "llm.c tokens, 2 bytes each (GPT-2)";
    case TokenFormat::llmc_uint32:
      return "llm.c tokens, 4 bytes each (Llama 3)";
  }
  return "";
}

TokenFileInfo inspect_token_file(const std::filesystem::path& path) {
  const io::MappedFile file(path);
  return inspect(path.string(), file.bytes());
}

TokenRow open_token_file(const std::filesystem::path& path, const OpenTokenFileOptions& options) {
  auto file = std::make_shared<const io::MappedFile>(path);
  const auto bytes = file->bytes();
  const TokenFileInfo info = inspect(path.string(), bytes);
  return TokenRow(file, bytes.data() + info.header_bytes, info.num_tokens, info.width,
                  options.name.empty() ? path.string() : options.name);
}

void write_token_file(const std::filesystem::path& path, const TokenRow& tokens,
                      int64_t vocab_size) {
  const LlmcKind& kind = kLlmcKinds[vocab_size <= (1 << 16) ? 0 : 1];
  if (tokens.size() > std::numeric_limits<int32_t>::max()) {
    throw DataError("{}: {} tokens are more than a token file's header can count", path.string(),
                    with_commas(tokens.size()));
  }
  std::array<int32_t, kHeaderInts> header{};
  header[0] = kind.magic;
  header[1] = kind.version;
  header[2] = static_cast<int32_t>(tokens.size());
  io::AtomicFile file(path);
  file.write(std::as_bytes(std::span(header)));
  if (kind.width == 2) {
    write_ids<uint16_t>(file, tokens);
  } else {
    write_ids<uint32_t>(file, tokens);
  }
  file.commit();
}

}  // namespace outstep::data
