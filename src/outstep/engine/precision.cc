#include "outstep/engine/precision.h"

namespace outstep::engine {

Precision read_precision(io::Section& section) {
  const std::string name = section.text("precision", "fp32", {.choices = {"fp32", "bf16", "fp64"}});
  return name == "bf16" ? Precision::bf16 : name == "fp64" ? Precision::fp64 : Precision::fp32;
}

at::ScalarType dtype_of(Precision precision) {
  return precision == Precision::fp64 ? at::kDouble : at::kFloat;
}

std::optional<bool> read_channels_last(io::Section& section) {
  const std::string layout =
      section.text("channels_last", "auto", {.choices = {"auto", "yes", "no"}});
  return layout == "auto" ? std::nullopt : std::optional(layout == "yes");
}

BatchForm form_for(const nn::Model& model, Precision precision, std::optional<bool> channels_last,
                   at::Device device) {
  return {.device = device,
          .dtype = dtype_of(precision),
          .channels_last = channels_last.value_or(model.prefers_channels_last())};
}

data::Batch placed(data::Batch batch, const BatchForm& form) {
  batch.inputs = batch.inputs.is_floating_point() ? batch.inputs.to(form.device, form.dtype)
                                                  : batch.inputs.to(form.device);
  batch.targets = batch.targets.to(form.device);
  if (form.channels_last && batch.inputs.dim() == 4) {
    batch.inputs = batch.inputs.contiguous(at::MemoryFormat::ChannelsLast);
  }
  return batch;
}

}  // namespace outstep::engine
