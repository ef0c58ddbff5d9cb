#include "outstep/data/bpe_files.h"

#include <array>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/data/bpe.h"
#include "outstep/io/files.h"
#include "outstep/io/json.h"

namespace outstep::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// GPT-2 writes each byte as a printable character: 33–126, 161–172 and 174–255 are their own code
// points, the others follow from 256 on. This is the way back, by code point; -1 where there is
// none.
std::array<int, 324> make_byte_of_code() {
  std::array<int, 324> byte_of_code;
  byte_of_code.fill(-1);
  size_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    byte_of_code[printable ? static_cast<size_t>(byte) : next++] = byte;
  }
  return byte_of_code;
}

// The bytes that a token's printable form stands for; false if a character stands for none.
bool bytes_of(const std::string& printable, std::string& bytes) {
  static const std::array<int, 324> byte_of_code = make_byte_of_code();
  bytes.clear();
  for (size_t i = 0; i < printable.size(); ++i) {
    auto code = static_cast<size_t>(static_cast<uint8_t>(printable[i]));
    if (code >= 0x80) {  // only two-byte UTF-8 can be below 324
      if ((code & 0xe0) != 0xc0 || i + 1 == printable.size()) return false;
      code = (code & 0x1f) << 6 | (static_cast<uint8_t>(printable[++i]) & 0x3f);
    }
    if (code >= byte_of_code.size() || byte_of_code[code] < 0) return false;
    bytes.push_back(static_cast<char>(byte_of_code[code]));
  }
  return true;
}

// The value of a key, or null.
const json& member(const json& object, const char* key) {
  static const json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

// Printable tokens and their ids while the tables are put together.
class Builder {
 public:
  explicit Builder(std::string name) { tables_.name = std::move(name); }

  const std::string& name() const { return tables_.name; }

  void take_vocabulary(const json& vocabulary) {
    if (!vocabulary.is_object() || vocabulary.empty()) {
      throw DataError("{}: the vocabulary is not an object of tokens and ids", name());
    }
    printable_.resize(vocabulary.size());
    for (const auto& [token, id] : vocabulary.items()) set(token, id);
    for (size_t id = 0; id < printable_.size(); ++id) {
      if (!ids_.contains(printable_[id])) throw_gap(id);
    }
  }

  void add_merge(const std::string& left, const std::string& right, const std::string& where) {
    const auto id_of = [&](const std::string& token) {
      const auto found = ids_.find(token);
      if (found == ids_.end()) {
        throw DataError(
            "{}: the merge of {} and {} needs the token {}, which is not in the vocabulary", where,
            shown(left), shown(right), shown(token));
      }
      return found->second;
    };
    tables_.merges.emplace_back(id_of(left), id_of(right));
    tables_.merged.push_back(id_of(left + right));
  }

  // A special is its own text, not printable stand-ins. It may be in the vocabulary already, or
  // follow it.
  void add_special(const std::string& text, int64_t id) {
    const auto found = ids_.find(text);
    if (found != ids_.end() ? found->second != id : id != static_cast<int64_t>(printable_.size())) {
      throw DataError("{}: the special token {} has id {}, which does not fit a vocabulary of {}",
                      name(), shown(text), id,
                      with_commas(static_cast<int64_t>(printable_.size())));
    }
    if (text.empty()) throw DataError("{}: a special token is empty", name());
    if (found == ids_.end()) {
      ids_.emplace(text, static_cast<int32_t>(id));
      printable_.push_back(text);
    }
    tables_.specials.push_back(static_cast<int32_t>(id));
  }

  bool has(const std::string& token) const { return ids_.contains(token); }
  int32_t id(const std::string& token) const { return ids_.at(token); }

  std::shared_ptr<const Tokenizer> finish() {
    tables_.tokens.resize(printable_.size());
    for (size_t id = 0; id < printable_.size(); ++id) {
      if (!bytes_of(printable_[id], tables_.tokens[id])) tables_.tokens[id] = printable_[id];
    }
    for (const int32_t id : tables_.specials) {
      tables_.tokens[static_cast<size_t>(id)] = printable_[static_cast<size_t>(id)];
    }
    return std::make_shared<BpeTokenizer>(std::move(tables_));
  }

 private:
  void set(const std::string& token, const json& id) {
    if (!id.is_number_integer())
      throw DataError("{}: the token {} has no whole number as its id", name(), shown(token));
    const bool fits = id.is_number_unsigned() ? id.get<uint64_t>() < printable_.size() : false;
    if (!fits) {
      throw DataError("{}: the token {} has id {}, but ids of {} tokens run from 0 to {}", name(),
                      shown(token), id.dump(), with_commas(static_cast<int64_t>(printable_.size())),
                      with_commas(static_cast<int64_t>(printable_.size()) - 1));
    }
    const auto index = id.get<size_t>();
    if (ids_.contains(printable_[index])) {
      throw DataError("{}: the tokens {} and {} have the same id {}", name(),
                      shown(printable_[index]), shown(token), index);
    }
    printable_[index] = token;
    ids_.emplace(token, static_cast<int32_t>(index));
  }
  [[noreturn]] void throw_gap(size_t id) const {
    throw DataError("{}: no token has id {}", name(), id);
  }

  BpeTables tables_;
  std::vector<std::string> printable_;  // by id
  std::unordered_map<std::string, int32_t> ids_;
};

// "left right", one a line; a first line "#version: …" is skipped.
void take_merges_file(Builder& builder, const fs::path& path) {
  const std::string text = io::read_text(path);
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    const auto where = fmt::format("{}:{}", path.string(), number);
    const size_t space = line.find(' ');
    if (space == std::string::npos || space == 0 || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string::npos) {
      throw DataError("{}: two tokens with a space between them are expected, found {}", where,
                      shown(line));
    }
    builder.add_merge(line.substr(0, space), line.substr(space + 1), where);
  }
}

std::shared_ptr<const Tokenizer> open_pair(const fs::path& vocabulary, const fs::path& merges) {
  Builder builder(vocabulary.string());
  builder.take_vocabulary(io::parse_json<json>(io::read_text(vocabulary), vocabulary.string()));
  take_merges_file(builder, merges);
  constexpr const char* kEndOfText = "<|endoftext|>";
  if (builder.has(kEndOfText)) builder.add_special(kEndOfText, builder.id(kEndOfText));
  return builder.finish();
}

// ---- tokenizer.json ----

bool is_unset(const json& object, const char* key) {
  const json& value = member(object, key);
  return value.is_null() || value == "" || value == false;
}

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw DataError("{}: {}; only GPT-2's byte-level BPE is read", name, what);
}

// A ByteLevel step with GPT-2's pattern and nothing put before the text.
void check_pieces(const std::string& name, const json& root) {
  if (!is_unset(root, "normalizer")) refuse(name, "it has a normalizer");
  const json& pieces = member(root, "pre_tokenizer");
  if (!pieces.is_object() || pieces.value("type", "") != "ByteLevel") {
    refuse(name, "its pre_tokenizer is not ByteLevel");
  }
  if (pieces.value("add_prefix_space", true))
    refuse(name, "its pre_tokenizer puts a space before the text");
  if (!pieces.value("use_regex", true))
    refuse(name, "its pre_tokenizer does not use GPT-2's pattern");
}

void check_model(const std::string& name, const json& model) {
  if (!model.is_object() || model.value("type", "BPE") != "BPE")
    refuse(name, "its model is not BPE");
  for (const char* key : {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                          "byte_fallback", "ignore_merges"}) {
    if (!is_unset(model, key)) refuse(name, fmt::format("its model sets {}", key));
  }
}

void take_merges(Builder& builder, const json& merges) {
  if (!merges.is_array()) throw DataError("{}: model.merges is not a list", builder.name());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const json& merge = merges[rank];
    const auto where = fmt::format("{}: model.merges[{}]", builder.name(), rank);
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      builder.add_merge(merge[0].get<std::string>(), merge[1].get<std::string>(), where);
      continue;
    }
    const std::string line = merge.is_string() ? merge.get<std::string>() : "";
    const size_t space = line.find(' ');
    if (space == std::string::npos) {
      throw DataError(
          "{}: two tokens are expected, found {}", where,
          merge.is_string() ? shown(line) : fmt::format("a JSON {}", merge.type_name()));
    }
    builder.add_merge(line.substr(0, space), line.substr(space + 1), where);
  }
}

void take_added_tokens(Builder& builder, const json& added) {
  if (added.is_null()) return;
  if (!added.is_array()) throw DataError("{}: added_tokens is not a list", builder.name());
  for (const json& token : added) {
    if (!token.is_object() || !token.contains("content") || !token["content"].is_string() ||
        !token.contains("id") || !token["id"].is_number_integer()) {
      throw DataError("{}: an added token has no content or no id", builder.name());
    }
    for (const char* key : {"lstrip", "rstrip", "single_word"}) {
      if (!is_unset(token, key)) refuse(builder.name(), fmt::format("an added token sets {}", key));
    }
    builder.add_special(token["content"].get<std::string>(), token["id"].get<int64_t>());
  }
}

std::shared_ptr<const Tokenizer> open_tokenizer_json(const fs::path& path) {
  const std::string name = path.string();
  const json root = io::parse_json<json>(io::read_text(path), name);
  if (!root.is_object() || !root.contains("model")) {
    throw DataError("{}: no tokenizer.json: there is no \"model\" in it", name);
  }
  try {
    check_pieces(name, root);
    const json& model = root["model"];
    check_model(name, model);
    Builder builder(name);
    builder.take_vocabulary(member(model, "vocab"));
    take_merges(builder, member(model, "merges"));
    take_added_tokens(builder, member(root, "added_tokens"));
    return builder.finish();
  } catch (const json::exception& error) {  // a value of another type than its key has
    throw DataError("{}: not a tokenizer.json: {}", name, error.what());
  }
}

}  // namespace

std::shared_ptr<const Tokenizer> open_bpe(const fs::path& path) {
  if (!io::is_folder(path)) return open_tokenizer_json(path);
  if (io::exists(path / "tokenizer.json")) return open_tokenizer_json(path / "tokenizer.json");
  const std::array<std::pair<const char*, const char*>, 2> pairs = {
      {{"vocab.json", "merges.txt"}, {"encoder.json", "vocab.bpe"}}};
  for (const auto& [vocabulary, merges] : pairs) {
    if (io::exists(path / vocabulary) && io::exists(path / merges)) {
      return open_pair(path / vocabulary, path / merges);
    }
  }
  throw DataError(
      "{}: no tokenizer in it; tokenizer.json, or vocab.json and merges.txt, or encoder.json and "
      "vocab.bpe are looked for",
      path.string());
}

}  // namespace outstep::data
