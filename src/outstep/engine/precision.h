#pragma once

#include <optional>

#include "outstep/base/torch.h"
#include "outstep/data/batch.h"
#include "outstep/io/settings.h"
#include "outstep/nn/model.h"

namespace outstep::engine {

// fp32; bf16: forward under autocast, so that matrix products and convolutions run in bfloat16,
// while parameters, gradients, normalisation and loss stay float32; fp64: everything in float64, to
// hold trajectories against another implementation's.
enum class Precision { fp32, bf16, fp64 };

// engine.precision.
Precision read_precision(io::Section& section);
// Of parameters, gradients and streams.
at::ScalarType dtype_of(Precision precision);

// How a batch reaches a model.
struct BatchForm {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // of inputs that are not integers
  bool channels_last = false;         // of images
};
// engine.channels_last: "yes", "no", or nothing for "auto", as the model prefers.
std::optional<bool> read_channels_last(io::Section& section);
BatchForm form_for(const nn::Model& model, Precision precision, std::optional<bool> channels_last,
                   at::Device device);
data::Batch placed(data::Batch batch, const BatchForm& form);

}  // namespace outstep::engine
