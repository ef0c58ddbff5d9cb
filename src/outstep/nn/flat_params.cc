#include "outstep/nn/flat_params.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "outstep/base/errors.h"
#include "outstep/base/hash.h"

namespace outstep::nn {
namespace {

int64_t numel_of(const std::vector<int64_t>& shape) {
  int64_t numel = 1;
  for (int64_t size : shape) numel *= size;
  return numel;
}

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Of a parameter: depends on the run's seed and the name alone, not on where it is placed.
RngKey init_key(uint64_t seed, const std::string& name) {
  const uint64_t hash = hash64(std::as_bytes(std::span(name)));
  return {.seed = seed, .purpose = purpose("nn.init"), .stream = hash & ((uint64_t{1} << 48) - 1)};
}

}  // namespace

// No view in autograd's eyes: autocast keeps the cast weights of leaves only.
at::Tensor piece_of(const at::Tensor& flat, const FlatParams::Entry& entry) {
  at::Tensor piece = at::empty({0}, flat.options());
  piece.set_(flat.storage(), flat.storage_offset() + entry.offset, entry.shape,
             c10::contiguous_strides(entry.shape));
  return piece;
}

void forget_tensors(Block& block) {
  for (Parameter* parameter : block.parameters()) parameter->tensor = at::Tensor();
  for (Buffer* buffer : block.buffers()) buffer->tensor = at::Tensor();
}

FlatParams::FlatParams(Model& model, uint64_t seed, const Placement& placement)
    : blocks_{placement.blocks.begin, std::min(placement.blocks.end, model.blocks.size())} {
  const at::NoGradGuard no_grad;
  const auto there = at::TensorOptions(placement.dtype).device(placement.device);
  place_parameters(model, there.device(at::kCPU));
  for (Parameter* parameter : parameters_) {
    parameter->init(parameter->tensor, init_key(seed, parameter->name));
  }
  if (!placement.device.is_cpu()) {
    const at::Tensor initial = values_;
    entries_.clear();
    parameters_.clear();
    place_parameters(model, there);
    values_.copy_(initial);
  }
  for (Parameter* parameter : parameters_) parameter->tensor.set_requires_grad(true);
  gradients_ = at::zeros_like(values_);
  for (size_t i = 0; i < entries_.size(); ++i) {
    parameters_[i]->tensor.mutable_grad() = piece_of(gradients_, entries_[i]);
  }
  place_buffers(model, there);
  note_others(model);
}

void FlatParams::place_parameters(Model& model, at::TensorOptions options) {
  std::set<const Parameter*> placed;
  int64_t offset = 0;
  num_parameters_ = 0;
  for (size_t block = blocks_.begin; block < blocks_.end; ++block) {
    for (Parameter* parameter : model.blocks[block]->parameters()) {
      if (!placed.insert(parameter).second) continue;
      const int64_t numel = numel_of(parameter->shape);
      entries_.push_back({parameter->name, parameter->shape, offset, numel, parameter->decay,
                          static_cast<int>(block)});
      parameters_.push_back(parameter);
      num_parameters_ += numel;
      offset += round_up(numel, kAlignment);
    }
  }
  values_ = at::zeros({offset}, options);
  for (size_t i = 0; i < entries_.size(); ++i) {
    parameters_[i]->tensor = piece_of(values_, entries_[i]);
  }
}

void FlatParams::place_buffers(Model& model, at::TensorOptions options) {
  int64_t offset = 0;
  for (size_t block = blocks_.begin; block < blocks_.end; ++block) {
    for (Buffer* buffer : model.blocks[block]->buffers()) {
      const int64_t numel = numel_of(buffer->shape);
      buffer_entries_.push_back(
          {buffer->name, buffer->shape, offset, numel, Decay::no, static_cast<int>(block)});
      buffer_pointers_.push_back(buffer);
      offset += numel;
    }
  }
  buffers_ = at::zeros({offset}, options);
  for (size_t i = 0; i < buffer_entries_.size(); ++i) {
    at::Tensor& tensor = buffer_pointers_[i]->tensor;
    tensor = piece_of(buffers_, buffer_entries_[i]);
    tensor.fill_(buffer_pointers_[i]->initial);
  }
}

void FlatParams::note_others(const Model& model) {
  for (size_t block = 0; block < model.blocks.size(); ++block) {
    if (block >= blocks_.begin && block < blocks_.end) continue;
    for (const Parameter* parameter : model.blocks[block]->parameters()) {
      others_.insert(parameter->name);
    }
    for (const Buffer* buffer : model.blocks[block]->buffers()) others_.insert(buffer->name);
  }
}

void FlatParams::zero_gradients() { gradients_.zero_(); }

void FlatParams::check_gradients_in_place() const {
  const auto* begin = static_cast<const std::byte*>(gradients_.const_data_ptr());
  const auto item_bytes = static_cast<int64_t>(gradients_.element_size());
  for (size_t i = 0; i < entries_.size(); ++i) {
    const at::Tensor& gradient = parameters_[i]->tensor.grad();
    if (!gradient.defined() ||
        gradient.const_data_ptr() != begin + entries_[i].offset * item_bytes) {
      throw InternalError(
          fmt::format("the gradient of {} has left the flat gradient vector", entries_[i].name));
    }
  }
}

std::vector<std::pair<std::string, at::Tensor>> FlatParams::named_tensors() const {
  std::vector<std::pair<std::string, at::Tensor>> named;
  named.reserve(entries_.size() + buffer_entries_.size());
  for (size_t i = 0; i < entries_.size(); ++i) {
    named.emplace_back(entries_[i].name, parameters_[i]->tensor.detach());
  }
  for (size_t i = 0; i < buffer_entries_.size(); ++i) {
    named.emplace_back(buffer_entries_[i].name, buffer_pointers_[i]->tensor);
  }
  return named;
}

void FlatParams::load(const io::Safetensors& file) {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, info] : file.tensors()) tensors.emplace(name, file.tensor(name));
  load(tensors, file.path().string());
}

void FlatParams::load(const std::map<std::string, at::Tensor>& tensors, const std::string& origin) {
  const auto own = named_tensors();
  std::set<std::string> names;
  // All is checked before anything is written: a file that does not fit changes nothing.
  for (const auto& [name, target] : own) {
    names.insert(name);
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      throw DataError("{}: tensor \"{}\" of this model is missing", origin, name);
    }
    const at::Tensor& source = found->second;
    if (source.sizes() != target.sizes()) {
      throw DataError("{}: tensor \"{}\" has shape [{}], this model needs [{}]", origin, name,
                      fmt::join(source.sizes(), ", "), fmt::join(target.sizes(), ", "));
    }
    if (!source.is_floating_point()) {
      throw DataError("{}: tensor \"{}\" is of type {}, this model needs floating-point numbers",
                      origin, name, c10::toString(source.scalar_type()));
    }
  }
  for (const auto& [name, source] : tensors) {
    if (!names.contains(name) && !others_.contains(name)) {
      throw DataError("{}: tensor \"{}\" has no place in this model", origin, name);
    }
  }
  const at::NoGradGuard no_grad;
  for (const auto& [name, target] : own) target.copy_(tensors.at(name));
  mark_changed();
}

}  // namespace outstep::nn
