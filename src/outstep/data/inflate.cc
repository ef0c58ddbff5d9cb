#include "outstep/data/inflate.h"

#include <zlib.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "outstep/base/errors.h"

namespace outstep::data {

struct Inflater::State {
  z_stream stream{};
  std::span<const std::byte> rest;  // not yet given to zlib
  std::string name;
  bool ended = false;
};

bool is_gzip(std::span<const std::byte> bytes) {
  return bytes.size() >= 2 && bytes[0] == std::byte{0x1f} && bytes[1] == std::byte{0x8b};
}

Inflater::Inflater(std::span<const std::byte> compressed, std::string name)
    : state_(std::make_unique<State>()) {
  state_->rest = compressed;
  state_->name = std::move(name);
  constexpr int kGzipOnly = 15 + 16;  // the largest window, a gzip header
  check(inflateInit2(&state_->stream, kGzipOnly) == Z_OK, "zlib starts");
}

Inflater::~Inflater() { inflateEnd(&state_->stream); }

size_t Inflater::read(std::span<std::byte> into) {
  constexpr size_t kMost = std::numeric_limits<uInt>::max();
  z_stream& stream = state_->stream;
  size_t done = 0;
  while (done < into.size() && !state_->ended) {
    if (stream.avail_in == 0) {
      const auto piece = state_->rest.first(std::min(kMost, state_->rest.size()));
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(piece.data()));
      stream.avail_in = static_cast<uInt>(piece.size());
      state_->rest = state_->rest.subspan(piece.size());
    }
    const size_t room = std::min(kMost, into.size() - done);
    stream.next_out = reinterpret_cast<Bytef*>(into.data() + done);
    stream.avail_out = static_cast<uInt>(room);
    const int result = inflate(&stream, Z_NO_FLUSH);
    done += room - stream.avail_out;
    if (result == Z_STREAM_END) {
      state_->ended = true;
    } else if (result == Z_BUF_ERROR) {
      throw DataError("{}: the compressed data ends in the middle; the file was cut off",
                      state_->name);
    } else if (result != Z_OK) {
      throw DataError("{}: the compressed data is damaged ({})", state_->name,
                      stream.msg ? stream.msg : "zlib gives no reason");
    }
  }
  return done;
}

bool Inflater::at_end() {
  if (state_->ended) return true;
  std::byte next{};
  return read({&next, 1}) == 0;
}

}  // namespace outstep::data
