#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// Small things about words and numbers as a person reads and types them.

namespace outstep {

// The candidate with the smallest edit distance to word, or "" when none is close enough to be a
// slip of the fingers.
std::string nearest_spelling(std::string_view word, std::span<const std::string> candidates);

std::string with_commas(int64_t number);     // 3,323,392
std::string human_bytes(int64_t num_bytes);  // 13.3 MB (powers of 1000)
std::string human_seconds(double seconds);   // 0.93 s, 2 min 33 s, 1 h 04 min

// "200mbit", "10gbit", "1.5MB/s" as bits per second. Throws ConfigError for anything else.
double parse_bits_per_second(const std::string& text);

// The bytes of the UTF-8 character that begins at text[at]; 0 where none begins (Unicode 15, table
// 3-7: nothing overlong, no surrogates).
size_t character_length(std::string_view text, size_t at);
// Text from outside as a message may show it: quoted, at most 80 bytes of it, nothing a terminal
// would obey.
std::string shown(std::string_view text);

std::string join(const std::vector<std::string>& words, const std::string& separator);

}  // namespace outstep
