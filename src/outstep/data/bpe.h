#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "outstep/data/tokenizer.h"

namespace outstep::data {

// What a byte-level BPE consists of. Strings are bytes (not GPT-2's printable stand-ins for them).
struct BpeTables {
  std::vector<std::string> tokens;                  // by id
  std::vector<std::pair<int32_t, int32_t>> merges;  // pairs of ids, best rank first
  std::vector<int32_t> merged;                      // the id that each merge makes
  std::vector<int32_t> specials;  // ids found in the text before anything else is done
  std::string name;               // where it came from
};

// GPT-2's tokenizer (Radford et al., 2019): text is cut into pieces by
//
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// and the bytes of each piece are merged, the pair of best rank first, until no pair has a rank.
//
// Bytes that are no valid UTF-8 are characters by themselves that are neither letters, numbers nor
// space; they come out of decode as they went in. Specials (<|endoftext|>) in the text become their
// own ids, as with Hugging Face.
class BpeTokenizer : public Tokenizer {
 public:
  // Throws DataError: a byte without a token, a repeated merge.
  explicit BpeTokenizer(BpeTables tables);
  ~BpeTokenizer() override;

  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> ids) const override;
  int64_t vocab_size() const override;
  std::optional<int32_t> end_of_text() const override;
  uint64_t fingerprint() const override;
  std::string describe() const override;

 private:
  struct Engine;
  std::unique_ptr<const Engine> engine_;
};

}  // namespace outstep::data
