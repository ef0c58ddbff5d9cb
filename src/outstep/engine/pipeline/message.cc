#include "outstep/engine/pipeline/message.h"

#include <fmt/format.h>

#include "outstep/base/errors.h"

namespace outstep::engine {
namespace {

// Header: magic, kind, micro-batch, samples, units; then for each of four tensors its type (or
// kAbsent), layout, number of dims and their sizes.
constexpr int64_t kMagic = 0x6f757473746570;  // "outstep"
constexpr int64_t kAbsent = -1;
constexpr size_t kNumTensors = 4;
constexpr int64_t kMaxDims = 6;
constexpr int64_t kFirstTensor = 5;
constexpr int64_t kPerTensor = 3 + kMaxDims;
constexpr int64_t kMaxElements = int64_t{1} << 40;
static_assert(kFirstTensor + kPerTensor * static_cast<int64_t>(kNumTensors) <= kHeaderSize);

enum class Layout : int64_t { row_major, channels_last };

bool is_channels_last(const at::Tensor& tensor) {
  return tensor.dim() == 4 && tensor.is_contiguous(at::MemoryFormat::ChannelsLast) &&
         !tensor.is_contiguous();
}

bool is_known_type(int64_t type) {
  for (const at::ScalarType known :
       {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf, at::kLong}) {
    if (type == static_cast<int64_t>(known)) return true;
  }
  return false;
}

// Reads one tensor's part of a header; undefined for one that is absent.
at::Tensor empty_tensor(const int64_t* at, at::Device device, const std::string& sender) {
  if (at[0] == kAbsent) return {};
  const auto refuse = [&] {
    throw CommError("{} sent a message that cannot be read; do all ranks run the same outstep?",
                    sender);
  };
  if (!is_known_type(at[0]) || at[2] < 1 || at[2] > kMaxDims) refuse();
  std::vector<int64_t> sizes(at + 3, at + 3 + at[2]);
  int64_t num_elements = 1;
  for (const int64_t size : sizes) {
    if (size < 0 || (size > 0 && num_elements > kMaxElements / size)) refuse();
    num_elements *= std::max<int64_t>(size, 1);
  }
  const bool is_last = at[1] == static_cast<int64_t>(Layout::channels_last);
  if (is_last && at[2] != 4) refuse();
  return at::empty(sizes, at::TensorOptions(static_cast<at::ScalarType>(at[0]))
                              .device(device)
                              .memory_format(is_last ? at::MemoryFormat::ChannelsLast
                                                     : at::MemoryFormat::Contiguous));
}

}  // namespace

std::vector<at::Tensor> Message::tensors() const {
  return {streams.x, streams.other, gradient.x, gradient.other};
}

void Message::set_tensors(std::vector<at::Tensor> tensors) {
  check(tensors.size() == kNumTensors, "a message has four tensors");
  streams = {.x = std::move(tensors[0]), .other = std::move(tensors[1])};
  gradient = {.x = std::move(tensors[2]), .other = std::move(tensors[3])};
}

int64_t Message::num_bytes() const {
  int64_t total = 0;
  for (const at::Tensor& tensor : tensors()) {
    if (tensor.defined()) total += static_cast<int64_t>(tensor.nbytes());
  }
  return total;
}

at::Tensor header_of(const Message& message) {
  const at::Tensor header = at::zeros({kHeaderSize}, at::kLong);
  int64_t* out = header.mutable_data_ptr<int64_t>();
  out[0] = kMagic;
  out[1] = static_cast<int64_t>(message.kind);
  out[2] = message.micro_batch;
  out[3] = message.num_samples;
  out[4] = message.num_units;
  const std::vector<at::Tensor> tensors = message.tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    int64_t* at = out + kFirstTensor + kPerTensor * static_cast<int64_t>(i);
    const at::Tensor& tensor = tensors[i];
    if (!tensor.defined()) {
      at[0] = kAbsent;
      continue;
    }
    check(tensor.dim() >= 1 && tensor.dim() <= kMaxDims, "streams have one to six dims");
    at[0] = static_cast<int64_t>(tensor.scalar_type());
    at[1] =
        static_cast<int64_t>(is_channels_last(tensor) ? Layout::channels_last : Layout::row_major);
    at[2] = tensor.dim();
    for (int64_t d = 0; d < tensor.dim(); ++d) at[3 + d] = tensor.size(d);
  }
  return header;
}

Message message_of(const at::Tensor& header, at::Device device, const std::string& sender) {
  const bool is_header =
      header.scalar_type() == at::kLong && header.numel() == kHeaderSize && header.is_contiguous();
  if (!is_header) throw CommError("{} sent a header of another size", sender);
  const int64_t* in = header.const_data_ptr<int64_t>();
  if (in[0] != kMagic || in[1] < 0 || in[1] > static_cast<int64_t>(Message::Kind::mark)) {
    throw CommError("{} sent what is no message of a stage; do all ranks run the same outstep?",
                    sender);
  }
  Message message{.kind = static_cast<Message::Kind>(in[1]),
                  .micro_batch = in[2],
                  .num_samples = in[3],
                  .num_units = in[4]};
  std::vector<at::Tensor> tensors;
  for (size_t i = 0; i < kNumTensors; ++i) {
    tensors.push_back(
        empty_tensor(in + kFirstTensor + kPerTensor * static_cast<int64_t>(i), device, sender));
  }
  message.set_tensors(std::move(tensors));
  return message;
}

const char* describe(Message::Kind kind) {
  switch (kind) {
    case Message::Kind::activations:
      return "activations";
    case Message::Kind::gradients:
      return "gradients";
    case Message::Kind::evaluation:
      return "activations to evaluate";
    case Message::Kind::exact:
      return "an exact gradient's part";
    case Message::Kind::mark:
      return "mark";
  }
  return "";
}

std::string text_of(Message::Kind kind, std::optional<int64_t> micro_batch) {
  return micro_batch ? fmt::format("{} of micro-batch {}", describe(kind), *micro_batch)
                     : describe(kind);
}

}  // namespace outstep::engine
