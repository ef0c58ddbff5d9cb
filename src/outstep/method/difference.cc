#include "outstep/method/difference.h"

#include <algorithm>

#include "outstep/base/errors.h"

namespace outstep::method {
namespace {

constexpr int64_t kScaleBytes = sizeof(float);
constexpr double kLargestCode = 127;
constexpr int64_t kPieceBlocks = 256;

int64_t num_blocks(int64_t num_elements) {
  return (num_elements + DifferenceCodec::kBlock - 1) / DifferenceCodec::kBlock;
}

// [blocks, kBlock]; the last block is filled up with zeros.
at::Tensor in_blocks(const at::Tensor& vector) {
  const int64_t missing = num_blocks(vector.numel()) * DifferenceCodec::kBlock - vector.numel();
  return at::constant_pad_nd(vector, {0, missing}).view({-1, DifferenceCodec::kBlock});
}

// Calls body(begin, length, first block, blocks) for one piece of a vector after another.
void in_pieces(int64_t num_elements, const auto& body) {
  for (int64_t block = 0; block < num_blocks(num_elements); block += kPieceBlocks) {
    const int64_t begin = block * DifferenceCodec::kBlock;
    const int64_t length = std::min(kPieceBlocks * DifferenceCodec::kBlock, num_elements - begin);
    body(begin, length, block, num_blocks(length));
  }
}

void encode_bf16(const at::Tensor& blocks, const at::Tensor& out) {
  out.copy_(blocks.to(at::kBFloat16).view(at::kByte));
}

void encode_int8(const at::Tensor& blocks, const at::Tensor& out) {
  const at::Tensor scales = blocks.abs().amax(1, true).div_(kLargestCode);  // [blocks, 1]
  // A block of zeros has no scale to divide by.
  const at::Tensor codes = blocks.div(scales.where(scales > 0, 1)).round_().to(at::kChar);
  out.narrow(1, 0, kScaleBytes).copy_(scales.view(at::kByte));
  out.narrow(1, kScaleBytes, DifferenceCodec::kBlock).copy_(codes.view(at::kByte));
}

at::Tensor decode_bf16(const at::Tensor& in) {
  return in.contiguous().view(at::kBFloat16).to(at::kFloat);
}

at::Tensor decode_int8(const at::Tensor& in) {
  const at::Tensor scales = in.narrow(1, 0, kScaleBytes).contiguous().view(at::kFloat);
  const at::Tensor codes = in.narrow(1, kScaleBytes, DifferenceCodec::kBlock).contiguous();
  return codes.view(at::kChar).to(at::kFloat).mul_(scales);
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
  const at::NoGradGuard no_grad;
  const at::Tensor rows = encoded.view({-1, block_bytes()});
  in_pieces(values.numel(), [&](int64_t begin, int64_t length, int64_t block, int64_t count) {
    const at::Tensor blocks =
        in_blocks(values.narrow(0, begin, length) - base.narrow(0, begin, length));
    const at::Tensor out = rows.narrow(0, block, count);
    format_ == DifferenceFormat::bf16 ? encode_bf16(blocks, out) : encode_int8(blocks, out);
  });
}

void DifferenceCodec::decode(const at::Tensor& encoded, const at::Tensor& base,
                             const at::Tensor& values) const {
  const at::NoGradGuard no_grad;
  const at::Tensor rows = encoded.view({-1, block_bytes()});
  in_pieces(values.numel(), [&](int64_t begin, int64_t length, int64_t block, int64_t count) {
    const at::Tensor in = rows.narrow(0, block, count);
    const at::Tensor blocks = format_ == DifferenceFormat::bf16 ? decode_bf16(in) : decode_int8(in);
    const at::Tensor differences = blocks.view(-1).narrow(0, 0, length);
    at::Tensor out = values.narrow(0, begin, length);
    at::add_out(out, base.narrow(0, begin, length), differences);
  });
}

}  // namespace outstep::method
