#include "outstep/method/difference.h"

#include "outstep/base/errors.h"

namespace outstep::method {
namespace {

constexpr int64_t kScaleBytes = sizeof(float);
constexpr double kLargestCode = 127;

int64_t num_blocks(int64_t num_elements) {
  return (num_elements + DifferenceCodec::kBlock - 1) / DifferenceCodec::kBlock;
}

// [blocks, kBlock]; the last block is filled up with zeros.
at::Tensor in_blocks(const at::Tensor& vector) {
  const int64_t missing = num_blocks(vector.numel()) * DifferenceCodec::kBlock - vector.numel();
  return at::constant_pad_nd(vector, {0, missing}).view({-1, DifferenceCodec::kBlock});
}

}  // namespace

int64_t DifferenceCodec::block_bytes() const {
  check(format_ != DifferenceFormat::none, "a difference is encoded");
  return format_ == DifferenceFormat::bf16 ? 2 * kBlock : kScaleBytes + kBlock;
}

int64_t DifferenceCodec::encoded_bytes(int64_t num_elements) const {
  return num_blocks(num_elements) * block_bytes();
}

comm::Shards DifferenceCodec::encoded(const comm::Shards& shards) const {
  check(shards.grain % kBlock == 0, "shards are cut between blocks");
  return {.total = encoded_bytes(shards.total),
          .count = shards.count,
          .grain = shards.grain / kBlock * block_bytes()};
}

void DifferenceCodec::encode(const at::Tensor& values, const at::Tensor& base,
                             const at::Tensor& encoded) const {
  if (values.numel() == 0) return;
  const at::NoGradGuard no_grad;
  const at::Tensor blocks = in_blocks(values - base);
  const at::Tensor out = encoded.view({-1, block_bytes()});
  if (format_ == DifferenceFormat::bf16) {
    out.copy_(blocks.to(at::kBFloat16).view(at::kByte));
    return;
  }
  const at::Tensor scales = blocks.abs().amax(1, true).div_(kLargestCode);  // [blocks, 1]
  // A block of zeros has no scale to divide by.
  const at::Tensor codes = blocks.div(scales.where(scales > 0, 1)).round_().to(at::kChar);
  out.narrow(1, 0, kScaleBytes).copy_(scales.view(at::kByte));
  out.narrow(1, kScaleBytes, kBlock).copy_(codes.view(at::kByte));
}

void DifferenceCodec::decode(const at::Tensor& encoded, const at::Tensor& base,
                             const at::Tensor& values) const {
  if (values.numel() == 0) return;
  const at::NoGradGuard no_grad;
  const at::Tensor in = encoded.view({-1, block_bytes()});
  at::Tensor differences;  // [blocks, kBlock]
  if (format_ == DifferenceFormat::bf16) {
    differences = in.view(at::kBFloat16).to(at::kFloat);
  } else {
    const at::Tensor scales = in.narrow(1, 0, kScaleBytes).contiguous().view(at::kFloat);
    differences =
        in.narrow(1, kScaleBytes, kBlock).contiguous().view(at::kChar).to(at::kFloat).mul_(scales);
  }
  at::add_out(const_cast<at::Tensor&>(values), base,
              differences.view(-1).narrow(0, 0, values.numel()));
}

}  // namespace outstep::method
