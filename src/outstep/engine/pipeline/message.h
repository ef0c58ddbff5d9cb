#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "outstep/nn/block.h"

namespace outstep::engine {

// What one stage tells its neighbour about a micro-batch.
struct Message {
  enum class Kind : int64_t {
    activations,  // downwards: what the stage before has made
    gradients,    // upwards: the loss's gradient, and with it what to rebuild the input from
    evaluation,   // downwards: activations that no gradient will come back for
    exact,        // both ways, beside training: of an exact gradient to compare with
    mark,         // nothing more was on its way when this was sent
  };
  Kind kind = Kind::mark;
  int64_t micro_batch = -1;   // data::Batch::index
  int64_t num_samples = 0;    // of activations, also to evaluate
  int64_t num_units = 0;      // of activations
  nn::Streams streams = {};   // downwards x_j; upwards x̂_j, empty where it is of no use
  nn::Streams gradient = {};  // upwards δ_{j+1}, with respect to x_j

  // The tensors in the order in which they are sent: the four of them, undefined ones among them.
  std::vector<at::Tensor> tensors() const;
  void set_tensors(std::vector<at::Tensor> tensors);
  int64_t num_bytes() const;
};

// The header says how large the tensors behind it are, so that any micro-batch may have a size of
// its own.
inline constexpr int64_t kHeaderSize = 48;  // of int64 numbers
at::Tensor header_of(const Message& message);
// Tensors of the sizes that a header tells, on the device. Throws CommError, beginning with sender,
// for a header that no stage of this version has made.
Message message_of(const at::Tensor& header, at::Device device, const std::string& sender);

// "activations", as errors say it.
const char* describe(Message::Kind kind);
// The same, or "gradients of micro-batch 17" where it is known which.
std::string text_of(Message::Kind kind, std::optional<int64_t> micro_batch = std::nullopt);
// Whether it is not part of training, and overtakes what is.
constexpr bool is_aside(Message::Kind kind) {
  return kind == Message::Kind::evaluation || kind == Message::Kind::exact;
}

}  // namespace outstep::engine
