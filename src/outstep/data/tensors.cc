#include "outstep/data/tensors.h"

#include <algorithm>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/io/safetensors.h"

namespace outstep::data {
namespace {

bool is_integer(const at::Tensor& tensor) {
  return at::isIntegralType(tensor.scalar_type(), /*includeBool=*/false);
}

// A tensor of the file, in a type that torch can compute with: of unsigned integers that is none
// but bytes.
at::Tensor open_tensor(const io::Safetensors& file, const std::string& name) {
  at::Tensor tensor = file.tensor(name);
  const at::ScalarType type = tensor.scalar_type();
  if (type == at::kUInt64) {
    throw DataError("{}: {} are of type U64, which is not read; write them as I64",
                    file.path().string(), name);
  }
  return type == at::kUInt16 || type == at::kUInt32 ? tensor.to(at::kLong) : tensor;
}

int64_t smallest(const at::Tensor& tensor) { return tensor.min().item<int64_t>(); }
int64_t largest(const at::Tensor& tensor) { return tensor.max().item<int64_t>(); }

std::string shape_text(const at::Tensor& tensor) {
  return fmt::format("{} [{}]", c10::toString(tensor.scalar_type()),
                     fmt::join(tensor.sizes(), ", "));
}

// Classes and tokens are counted from 0, and as many as the largest says are made room for.
void check_range(const std::string& path, const char* kind, const at::Tensor& values) {
  constexpr int64_t kBound = int64_t{1} << 31;
  if (const int64_t least = smallest(values); least < 0) {
    throw DataError("{}: there is a {} {}; {}s must not be negative", path, kind, least, kind);
  }
  if (const int64_t most = largest(values); most >= kBound) {
    throw DataError("{}: there is a {} {}; {}s must be below {}", path, kind, with_commas(most),
                    kind, with_commas(kBound));
  }
}

bool are_micro_batches(const at::Tensor& inputs, const at::Tensor& labels) {
  return at::isFloatingType(inputs.scalar_type()) && inputs.dim() >= 3 && labels.dim() == 2;
}

void check_shapes(const std::string& path, const at::Tensor& inputs, const at::Tensor& labels) {
  const bool classes =
      at::isFloatingType(inputs.scalar_type()) && inputs.dim() >= 2 && labels.dim() == 1;
  const bool tokens = is_integer(inputs) && inputs.dim() == 2 && labels.dim() == 2;
  const bool micro_batches = are_micro_batches(inputs, labels);
  if (!is_integer(labels) || (!classes && !tokens && !micro_batches)) {
    throw DataError(
        "{}: inputs are {} and labels {}; expected are floating-point inputs [N, …] with integer "
        "labels [N],\n"
        "  the same by micro-batches, [M, B, …] with [M, B], or integer inputs [N, T] with integer "
        "labels [N, T]",
        path, shape_text(inputs), shape_text(labels));
  }
  if (inputs.size(0) != labels.size(0) || (labels.dim() == 2 && inputs.size(1) != labels.size(1))) {
    throw DataError("{}: inputs are {}, but labels are {}; they do not belong together", path,
                    shape_text(inputs), shape_text(labels));
  }
  if (inputs.numel() == 0) throw DataError("{}: there is no example in it", path);
  check_range(path, "label", labels);
  if (tokens) check_range(path, "token", inputs);
}

}  // namespace

TensorDataset::TensorDataset(const std::filesystem::path& path) {
  const io::Safetensors file(path);
  inputs_ = open_tensor(file, "inputs");
  labels_ = open_tensor(file, "labels");
  check_shapes(path.string(), inputs_, labels_);
  if (are_micro_batches(inputs_, labels_)) {
    micro_batch_ = inputs_.size(1);
    inputs_ = inputs_.flatten(0, 1);
    labels_ = labels_.flatten(0, 1);
  }
  num_classes_ = largest(labels_) + 1;
  if (is_tokens()) num_classes_ = std::max(num_classes_, largest(inputs_) + 1);
}

TensorDataset TensorDataset::slice(int64_t begin, int64_t end) const {
  check(begin >= 0 && begin < end && end <= size(), "a slice holds examples of its dataset");
  TensorDataset part = *this;
  part.inputs_ = inputs_.slice(0, begin, end);
  part.labels_ = labels_.slice(0, begin, end);
  return part;
}

Batch TensorDataset::gather(std::span<const Example> examples, const Draw&) const {
  const auto num = static_cast<int64_t>(examples.size());
  at::Tensor indices = at::empty({num}, at::kLong);
  for (int64_t i = 0; i < num; ++i) {
    const int64_t index = examples[static_cast<size_t>(i)].index;
    check(index >= 0 && index < size(), "an example lies in its dataset");
    indices.mutable_data_ptr<int64_t>()[i] = index;
  }
  at::NoGradGuard no_grad;
  Batch batch;
  const bool is_exact = inputs_.scalar_type() == at::kDouble;
  batch.inputs = inputs_.index_select(0, indices)
                     .to(is_tokens() ? at::kLong
                         : is_exact  ? at::kDouble
                                     : at::kFloat);
  batch.targets = labels_.index_select(0, indices).to(at::kLong);
  batch.num_samples = num;
  batch.num_units = batch.targets.numel();
  return batch;
}

std::string TensorDataset::unit() const {
  if (is_tokens()) return "tokens";
  return inputs_.dim() == 4 ? "images" : "samples";
}

std::string TensorDataset::describe() const {
  return fmt::format("{} examples of {}", with_commas(size()), fmt::join(input_shape(), "×"));
}

bool TensorDataset::is_tokens() const { return labels_.dim() == 2; }

std::vector<int64_t> TensorDataset::input_shape() const {
  const auto sizes = inputs_.sizes();
  return {sizes.begin() + 1, sizes.end()};
}

}  // namespace outstep::data
