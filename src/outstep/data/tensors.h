#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "outstep/data/dataset.h"

namespace outstep::data {

// Examples that lie ready in a safetensors file, in two tensors with the examples along dim 0:
//
//   inputs  floating point [N, …] and labels integer [N]
//           samples with a class each; images when inputs are [N, C, H, W]
//   inputs  floating point [M, B, …] and labels integer [M, B]
//           the same, micro-batch after micro-batch: M·B examples, to be read in their order
//   inputs  integer [N, T] and labels integer [N, T]
//           tokens and their targets
//
// Integers are of any type but U64. Inputs reach the batch as float32 (float64 where they are), or
// int64, labels as int64. Nothing is drawn at random.
class TensorDataset : public Dataset {
 public:
  // Throws DataError: no such file, a tensor missing, shapes or types other than these, labels or
  // tokens that are negative or of 2^31 and more.
  explicit TensorDataset(const std::filesystem::path& path);
  // Examples [begin, end) of it, sharing the tensors.
  TensorDataset slice(int64_t begin, int64_t end) const;

  int64_t size() const override { return inputs_.size(0); }
  Batch gather(std::span<const Example> examples, const Draw& draw) const override;
  std::string unit() const override;
  std::string describe() const override;

  bool is_tokens() const;
  // B of a file of micro-batches; else 0.
  int64_t micro_batch() const { return micro_batch_; }
  std::vector<int64_t> input_shape() const;  // of one example
  // One more than the largest label, and for tokens the largest input.
  int64_t num_classes() const { return num_classes_; }

 private:
  at::Tensor inputs_;  // read-only
  at::Tensor labels_;  // read-only
  int64_t num_classes_ = 0;
  int64_t micro_batch_ = 0;
};

}  // namespace outstep::data
