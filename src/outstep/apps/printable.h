#pragma once

#include <string>
#include <string_view>

namespace outstep::apps {

// Text as a terminal may have it: what is not UTF-8, and control characters but line feed and tab,
// become U+FFFD. A model of bytes can write anything, escape sequences too.
std::string printable(std::string_view text);

// How many bytes at the start of text are whole UTF-8 characters (or no UTF-8 at all): what can be
// shown of text that is still growing.
size_t whole_characters(std::string_view text);

}  // namespace outstep::apps
