#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "outstep/io/safetensors.h"
#include "outstep/nn/model.h"

namespace outstep::nn {

// The parameters of a list of blocks as one flat vector, their gradients as another of the same
// layout, each parameter a view of the first whose .grad() is a view of the second. Sharding is a
// range, a checkpoint is a table of (name, shape, offset), and communication never gathers little
// tensors.
//
// Each parameter begins at a multiple of kAlignment elements; the gap before it is padding that
// stays zero. Owns the vectors; the blocks hold views. Who writes: autograd the gradients (during
// backward), the synchronizer both. Not thread safe.
class FlatParams {
 public:
  static constexpr int64_t kAlignment = 16;  // elements: 64 bytes of float32, a cache line

  struct Entry {
    std::string name;
    std::vector<int64_t> shape;
    int64_t offset = 0;
    int64_t numel = 0;
    Decay decay = Decay::yes;
    int block = 0;  // the first block that lists it
  };

  // Places and initialises the parameters and buffers of all blocks of the model. A parameter
  // listed twice is placed once. The model is borrowed and outlives this.
  FlatParams(Model& model, uint64_t seed, at::Device device = at::kCPU);
  FlatParams(const FlatParams&) = delete;
  FlatParams& operator=(const FlatParams&) = delete;

  int64_t size() const { return values_.numel(); }            // elements, padding included
  int64_t num_parameters() const { return num_parameters_; }  // padding not included
  const at::Tensor& values() const { return values_; }        // [size] float32
  const at::Tensor& gradients() const { return gradients_; }  // [size] float32
  const at::Tensor& buffers() const {
    return buffers_;
  }  // [sum of buffer sizes] float32, without padding
  const std::vector<Entry>& entries() const { return entries_; }
  const std::vector<Entry>& buffer_entries() const { return buffer_entries_; }
  const std::vector<Parameter*>& parameters() const {
    return parameters_;
  }  // in the order of entries()

  void zero_gradients();
  // Throws InternalError if autograd has replaced a parameter's gradient instead of adding into the
  // flat one. Costs a pointer comparison a parameter: meant to be called after each backward.
  void check_gradients_in_place() const;

  // The tensors of model.safetensors: parameters under their names, then buffers.
  std::vector<std::pair<std::string, at::Tensor>> named_tensors() const;
  // Copies values from a file. Throws DataError naming the first tensor that is missing, unknown or
  // of another shape.
  void load(const io::Safetensors& file);
  // The same from tensors under our names; origin (a path) begins the error's text.
  void load(const std::map<std::string, at::Tensor>& tensors, const std::string& origin);

 private:
  void place_parameters(Model& model, at::Device device);
  void place_buffers(Model& model, at::Device device);

  std::vector<Entry> entries_;
  std::vector<Entry> buffer_entries_;
  std::vector<Parameter*> parameters_;    // in the order of entries_
  std::vector<Buffer*> buffer_pointers_;  // in the order of buffer_entries_
  int64_t num_parameters_ = 0;
  at::Tensor values_;
  at::Tensor gradients_;
  at::Tensor buffers_;
};

}  // namespace outstep::nn
