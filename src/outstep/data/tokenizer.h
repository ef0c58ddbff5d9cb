#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace outstep::data {

// Turns text into ids in [0, vocab_size()) and back. Text is bytes: decode(encode(x)) == x for
// every x, valid UTF-8 or not. Immutable after construction, hence thread safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  // Throws DataError for an id outside the vocabulary.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
  virtual int64_t vocab_size() const = 0;
  // The id that separates documents (GPT-2's <|endoftext|>), if there is one.
  virtual std::optional<int32_t> end_of_text() const = 0;
  // Changes whenever the same text could be encoded differently; names what is kept of it in a
  // cache.
  virtual uint64_t fingerprint() const = 0;
  virtual std::string describe() const = 0;
};

// A byte is its own id.
class ByteTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> ids) const override;
  int64_t vocab_size() const override { return 256; }
  std::optional<int32_t> end_of_text() const override { return std::nullopt; }
  uint64_t fingerprint() const override { return 1; }
  std::string describe() const override { return "bytes"; }
};

}  // namespace outstep::data
