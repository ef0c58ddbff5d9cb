#include "outstep/data/pieces.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace outstep::data {
namespace {

enum class Kind : uint8_t { letter, number, space, other };

struct Character {
  Kind kind;
  uint8_t num_bytes;
};

// Unicode's White_Space, which utf8proc has no property for.
constexpr bool is_white_space(int32_t code) {
  return (code >= 0x09 && code <= 0x0d) || code == 0x20 || code == 0x85 || code == 0xa0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 ||
         code == 0x202f || code == 0x205f || code == 0x3000;
}

constexpr std::array<Kind, 128> kAscii = [] {
  std::array<Kind, 128> kinds{};
  for (int c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool number = c >= '0' && c <= '9';
    kinds[static_cast<size_t>(c)] = letter              ? Kind::letter
                                    : number            ? Kind::number
                                    : is_white_space(c) ? Kind::space
                                                        : Kind::other;
  }
  return kinds;
}();

Kind kind_of(int32_t code) {
  if (is_white_space(code)) return Kind::space;
  switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return Kind::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return Kind::number;
    default:
      return Kind::other;
  }
}

inline Character character_at(std::string_view text, size_t at) {
  const auto first = static_cast<uint8_t>(text[at]);
  if (first < 128) return {kAscii[first], 1};
  utf8proc_int32_t code = -1;
  const auto length =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at),
                       static_cast<utf8proc_ssize_t>(std::min<size_t>(text.size() - at, 4)), &code);
  if (length <= 0) return {Kind::other, 1};
  return {kind_of(code), static_cast<uint8_t>(length)};
}

// 's, 't, 're, 've, 'm, 'll, 'd at the front: how many bytes, or 0.
size_t contraction(std::string_view rest) {
  if (rest.size() < 2) return 0;
  switch (rest[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return rest.size() > 2 && rest[2] == 'e' ? 3 : 0;
    case 'l':
      return rest.size() > 2 && rest[2] == 'l' ? 3 : 0;
    default:
      return 0;
  }
}

}  // namespace

std::string_view PieceCutter::next() {
  const size_t begin = position_;
  if (begin == text_.size()) return {};
  size_t end = 0;
  if (text_[begin] == '\'') end = begin + contraction(text_.substr(begin, 3));
  if (end <= begin) {
    if (character_at(text_, begin).kind != Kind::space) {
      end = end_of_run(begin);
    } else if (text_[begin] == ' ' && begin + 1 < text_.size() &&
               character_at(text_, begin + 1).kind != Kind::space) {
      end = end_of_run(begin + 1);
    } else {
      end = end_of_space(begin);
    }
  }
  position_ = end;
  return text_.substr(begin, end - begin);
}

// Where the run of characters of one kind ends that begins here.
size_t PieceCutter::end_of_run(size_t begin) const {
  const Character first = character_at(text_, begin);
  size_t end = begin + first.num_bytes;
  while (end < text_.size()) {
    const Character character = character_at(text_, end);
    if (character.kind != first.kind) break;
    end += character.num_bytes;
  }
  return end;
}

// \s+(?!\S)|\s+ : before something visible, the last white space of several is left to what
// follows.
size_t PieceCutter::end_of_space(size_t begin) const {
  size_t last = begin;
  size_t end = begin;
  while (end < text_.size()) {
    const Character character = character_at(text_, end);
    if (character.kind != Kind::space) return last > begin ? last : end;
    last = end;
    end += character.num_bytes;
  }
  return end;
}

}  // namespace outstep::data
