#pragma once

#include "outstep/base/torch.h"
#include "outstep/comm/shards.h"

// Parameters sent as their difference to parameters that every replica has: a step's difference is
// small, and few bits hold it well enough where only an estimate is wanted.
//
// Blocks of kBlock elements are encoded each for itself; a shard begins with a block, so encoded
// shards are shards of the encoded vector. Every replica decodes the same bytes onto the same
// parameters, its own shard too: all have the same bits. Plain tensor operations, on any device, a
// piece at a time, so that they need little memory beside their arguments.

namespace outstep::method {

enum class DifferenceFormat {
  none,  // not a difference: the parameters themselves, float32
  bf16,  // 2 bytes an element
  int8,  // a float32 scale a block, then an int8 an element: the largest difference is 127 scales
};

class DifferenceCodec {
 public:
  static constexpr int64_t kBlock = 256;  // elements

  explicit DifferenceCodec(DifferenceFormat format) : format_(format) {}

  // Of encoded bytes, for shards whose grain is a multiple of kBlock.
  comm::Shards encoded(const comm::Shards& shards) const;
  int64_t encoded_bytes(int64_t num_elements) const;

  // values, base: [n] float32; encoded: [encoded_bytes(n)] uint8, written.
  void encode(const at::Tensor& values, const at::Tensor& base, const at::Tensor& encoded) const;
  // values may be base.
  void decode(const at::Tensor& encoded, const at::Tensor& base, const at::Tensor& values) const;

 private:
  int64_t block_bytes() const;

  DifferenceFormat format_;
};

}  // namespace outstep::method
