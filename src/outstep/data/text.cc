#include "outstep/data/text.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "outstep/base/errors.h"
#include "outstep/base/hash.h"
#include "outstep/base/log.h"
#include "outstep/base/rng.h"
#include "outstep/base/text.h"
#include "outstep/data/token_file.h"
#include "outstep/io/files.h"

namespace outstep::data {

TokenWindows::TokenWindows(std::vector<TokenRow> texts, WindowOptions options) : options_(options) {
  if (options_.n_positions < 1) {
    throw ConfigError("model.n_positions is {}; windows of text need at least 1 token",
                      options_.n_positions);
  }
  for (TokenRow& tokens : texts) {
    if (tokens.size() == 0) throw DataError("{}: there is no text in it (0 bytes)", tokens.name());
    const int64_t num_windows = (tokens.size() - 1) / options_.n_positions;
    if (num_windows < 1) {
      throw DataError(
          "{}: {} tokens are too few for one window: model.n_positions {} needs at least {}.\n"
          "  Take a longer text, or a smaller model.n_positions.",
          tokens.name(), with_commas(tokens.size()), with_commas(options_.n_positions),
          with_commas(options_.n_positions + 1));
    }
    texts_.push_back({.tokens = std::move(tokens), .first_window = size_});
    size_ += num_windows;
  }
  check(size_ > 0, "there is a text to cut into windows");
}

int64_t TokenWindows::num_tokens() const {
  int64_t num = 0;
  for (const Text& text : texts_) num += text.tokens.size();
  return num;
}

const TokenWindows::Text& TokenWindows::text_of(int64_t index) const {
  check(index >= 0 && index < size_, "an example lies in its dataset");
  const auto after =
      std::upper_bound(texts_.begin(), texts_.end(), index,
                       [](int64_t wanted, const Text& text) { return wanted < text.first_window; });
  return *(after - 1);
}

Batch TokenWindows::gather(std::span<const Example> examples, const Draw& draw) const {
  const auto num = static_cast<int64_t>(examples.size());  // B
  const int64_t length = options_.n_positions;             // T
  Batch batch;
  batch.inputs = at::empty({num, length}, at::kLong);   // [B, T]
  batch.targets = at::empty({num, length}, at::kLong);  // [B, T]
  batch.num_samples = num;
  batch.num_units = num * length;
  auto* inputs = batch.inputs.mutable_data_ptr<int64_t>();
  auto* targets = batch.targets.mutable_data_ptr<int64_t>();
  std::vector<int64_t> window(static_cast<size_t>(length) + 1);
  for (int64_t i = 0; i < num; ++i) {
    const Example& example = examples[static_cast<size_t>(i)];
    const Text& text = text_of(example.index);
    const int64_t begin = begin_of(example, text, draw);
    text.tokens.read(begin, window);
    check_ids(window, text, begin);
    std::copy(window.begin(), window.end() - 1, inputs + i * length);
    std::copy(window.begin() + 1, window.end(), targets + i * length);
  }
  return batch;
}

int64_t TokenWindows::begin_of(const Example& example, const Text& text, const Draw& draw) const {
  const int64_t begin = (example.index - text.first_window) * options_.n_positions;
  if (!draw.augment) return begin;
  CounterRng rng({.seed = draw.seed,
                  .purpose = purpose("data.offset"),
                  .stream = static_cast<uint64_t>(example.epoch)});
  const auto offset = static_cast<int64_t>(rng.below(static_cast<uint64_t>(options_.n_positions)));
  return std::min(begin + offset, text.tokens.size() - 1 - options_.n_positions);
}

void TokenWindows::check_ids(std::span<const int64_t> ids, const Text& text, int64_t begin) const {
  const auto largest = std::max_element(ids.begin(), ids.end());
  if (*largest < options_.vocab_size) return;
  throw DataError(
      "{}: token {} is {}, but the vocabulary has {} ids, 0 to {}.\n"
      "  The file was made with another tokenizer, or is no token file; data.vocab_size says how "
      "many ids there are.",
      text.tokens.name(), with_commas(begin + (largest - ids.begin())), with_commas(*largest),
      with_commas(options_.vocab_size), with_commas(options_.vocab_size - 1));
}

std::string TokenWindows::describe() const {
  return fmt::format("{} tokens in windows of {}", with_commas(num_tokens()), options_.n_positions);
}

TokenRow tokenize(std::string_view text, const std::string& name, const Tokenizer& tokenizer,
                  const std::filesystem::path& cache_folder) {
  const auto make = [&] { return TokenRow::of_ids(tokenizer.encode(text), name); };
  if (cache_folder.empty()) return make();
  const uint64_t key = hash64(std::as_bytes(std::span(text)), tokenizer.fingerprint());
  const auto path = cache_folder / fmt::format("tokens-{:016x}-{}.bin", key, text.size());
  std::error_code unreachable;  // then it is made anew, and not kept
  if (std::filesystem::exists(path, unreachable)) {
    try {
      return open_token_file(path, {.name = name});
    } catch (const DataError& error) {
      log::warn("making the tokens of {} anew: {}", name, error.what());
    }
  }
  TokenRow row = make();
  try {
    io::make_folder(cache_folder);
    write_token_file(path, row, tokenizer.vocab_size());
    log::debug("kept the {} tokens of {} in {}", with_commas(row.size()), name, path.string());
  } catch (const std::exception& error) {
    log::warn("the tokens of {} are not kept: {}", name, error.what());
  }
  return row;
}

}  // namespace outstep::data
