#include "outstep/apps/printable.h"

#include <algorithm>
#include <cstdint>

namespace outstep::apps {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

unsigned char byte_at(std::string_view text, size_t i) {
  return static_cast<unsigned char>(text[i]);
}

size_t length_by_lead(unsigned char lead) {
  return lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
}

// The length of the character at i, 0 if the bytes there are none. Unicode 15, table 3-7.
size_t character_at(std::string_view text, size_t i) {
  const unsigned char lead = byte_at(text, i);
  if (lead < 0x80) return 1;
  const size_t length = length_by_lead(lead);
  if (lead < 0xC2 || lead > 0xF4 || i + length > text.size()) return 0;
  for (size_t k = 1; k < length; ++k) {
    if ((byte_at(text, i + k) & 0xC0) != 0x80) return 0;
  }
  const unsigned char second = byte_at(text, i + 1);
  const bool is_overlong = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
  const bool is_surrogate = lead == 0xED && second > 0x9F;
  const bool is_too_large = lead == 0xF4 && second > 0x8F;
  return is_overlong || is_surrogate || is_too_large ? 0 : length;
}

bool is_control(std::string_view character) {
  const unsigned char first = byte_at(character, 0);
  if (character.size() == 1)
    return (first < 0x20 && first != '\n' && first != '\t') || first == 0x7F;
  return character.size() == 2 && first == 0xC2 && byte_at(character, 1) < 0xA0;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size();) {
    const size_t length = character_at(text, i);
    const std::string_view character = text.substr(i, std::max<size_t>(length, 1));
    result += length == 0 || is_control(character) ? kReplacement : character;
    i += character.size();
  }
  return result;
}

size_t whole_characters(std::string_view text) {
  // At most the last three bytes can be the beginning of a character.
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const unsigned char byte = byte_at(text, text.size() - back);
    if ((byte & 0xC0) == 0x80) continue;  // the middle of one
    return length_by_lead(byte) > back ? text.size() - back : text.size();
  }
  return text.size();
}

}  // namespace outstep::apps
