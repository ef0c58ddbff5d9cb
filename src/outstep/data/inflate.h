#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace outstep::data {

// Whether the bytes begin as gzip does.
bool is_gzip(std::span<const std::byte> bytes);

// Decompresses gzip piece by piece, so that the caller decides how much he is ready to take.
class Inflater {
 public:
  // `compressed` is borrowed; `name` begins errors.
  Inflater(std::span<const std::byte> compressed, std::string name);
  ~Inflater();
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  // Fills `into` from the front and returns how much; less than its size only at the end. At the
  // end the checksum has been verified. Throws DataError: damaged or cut off.
  size_t read(std::span<std::byte> into);
  // Whether nothing more comes.
  bool at_end();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Deflate cannot shrink its input more than this.
constexpr size_t kMaxDeflateRatio = 1032;

}  // namespace outstep::data
