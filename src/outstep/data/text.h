#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "outstep/data/dataset.h"
#include "outstep/data/token_row.h"
#include "outstep/data/tokenizer.h"

namespace outstep::data {

// A text, or several, as examples: windows of T = n_positions tokens, and as targets the same
// windows one token on.
//
//   inputs   tokens [s, s + T)        targets   tokens [s + 1, s + T + 1)
//
// As it is (evaluation), window i of a text begins at s = i · T; a rest of fewer than T + 1 tokens
// at the end is left out. Augmented, all windows of an epoch are moved by one offset below T, drawn
// for that epoch, so that over the epochs every token is met in every position; the last window of
// a text then stops at its end and overlaps its neighbour.
struct WindowOptions {
  int64_t n_positions = 0;
  // A larger id in the text is a DataError, thrown when its window is read.
  int64_t vocab_size = 256;
};

class TokenWindows : public Dataset {
 public:
  // No window crosses from a text to the next. Throws DataError if a text has fewer than T + 1
  // tokens.
  TokenWindows(std::vector<TokenRow> texts, WindowOptions options);

  int64_t size() const override { return size_; }
  Batch gather(std::span<const Example> examples, const Draw& draw) const override;
  std::string unit() const override { return "tokens"; }
  std::string describe() const override;

  int64_t num_tokens() const;

 private:
  struct Text {
    TokenRow tokens;
    int64_t first_window = 0;  // number of its first window in the dataset
  };
  const Text& text_of(int64_t index) const;
  int64_t begin_of(const Example& example, const Text& text, const Draw& draw) const;
  void check_ids(std::span<const int64_t> ids, const Text& text, int64_t begin) const;

  std::vector<Text> texts_;
  WindowOptions options_;
  int64_t size_ = 0;
};

// The ids of a text, made once and kept: the cache folder gets a token file named by the text's and
// the tokenizer's hashes, which later calls map. `name` says in errors and logs whose text it is.
// An empty cache_folder keeps nothing; a folder that cannot be written costs a warning.
TokenRow tokenize(std::string_view text, const std::string& name, const Tokenizer& tokenizer,
                  const std::filesystem::path& cache_folder);

}  // namespace outstep::data
