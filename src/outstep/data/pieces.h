#pragma once

#include <string_view>

namespace outstep::data {

// Cuts text as GPT-2's pattern does (see bpe.h), one piece a call. Unicode's letters (L*), numbers
// (N*) and white space are utf8proc's; a byte that is no valid UTF-8 is a character of none of
// these.
class PieceCutter {
 public:
  explicit PieceCutter(std::string_view text) : text_(text) {}

  // The next piece; empty at the end. The pieces joined are the text.
  std::string_view next();

 private:
  size_t end_of_run(size_t begin) const;
  size_t end_of_space(size_t begin) const;

  std::string_view text_;
  size_t position_ = 0;
};

}  // namespace outstep::data
