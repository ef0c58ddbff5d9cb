#pragma once

#include <filesystem>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "outstep/io/safetensors.h"
#include "outstep/nn/model.h"

namespace outstep::nn {

// Blocks [begin, end) of a model.
struct BlockRange {
  size_t begin = 0;
  size_t end = std::numeric_limits<size_t>::max();  // or as many as there are
};

// Where parameters lie, of what type, and which.
struct Placement {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // kDouble: to hold trajectories against another's
  BlockRange blocks = {};
};

// The parameters of a list of blocks as one flat vector, their gradients as another of the same
// layout, each parameter a view of the first whose .grad() is a view of the second. Sharding is a
// range, a checkpoint is a table of (name, shape, offset), and communication never gathers little
// tensors.
//
// Of a stage of a pipeline it holds a part of the model's blocks; the others' parameters stay
// undefined.
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

  // Places and initialises the parameters and buffers of the model's blocks. A parameter listed
  // twice is placed once. The model is borrowed and outlives this.
  FlatParams(Model& model, uint64_t seed, const Placement& placement = {});
  FlatParams(const FlatParams&) = delete;
  FlatParams& operator=(const FlatParams&) = delete;

  int64_t size() const { return values_.numel(); }            // elements, padding included
  int64_t num_parameters() const { return num_parameters_; }  // padding not included
  const at::Tensor& values() const { return values_; }        // [size] of the placement's type
  const at::Tensor& gradients() const { return gradients_; }  // [size] likewise
  const at::Tensor& buffers() const {
    return buffers_;
  }  // [sum of buffer sizes] likewise, without padding
  const std::vector<Entry>& entries() const { return entries_; }
  const std::vector<Entry>& buffer_entries() const { return buffer_entries_; }
  const std::vector<Parameter*>& parameters() const {
    return parameters_;
  }  // in the order of entries()
  const BlockRange& blocks() const { return blocks_; }  // of the model, that these belong to

  void zero_gradients();
  // Whoever has written the values says so; version counts how often. A stale gradient is told by
  // it.
  void mark_changed() { ++version_; }
  int64_t version() const { return version_; }
  // Throws InternalError if autograd has replaced a parameter's gradient instead of adding into the
  // flat one. Costs a pointer comparison a parameter: meant to be called after each backward.
  void check_gradients_in_place() const;

  // The tensors of model.safetensors: parameters under their names, then buffers.
  std::vector<std::pair<std::string, at::Tensor>> named_tensors() const;
  // Copies values from a file, which may hold those of the model's other blocks too. Throws
  // DataError naming the first tensor that is missing, unknown or of another shape.
  void load(const io::Safetensors& file);
  // The same from tensors under our names; origin (a path) begins the error's text.
  void load(const std::map<std::string, at::Tensor>& tensors, const std::string& origin);

 private:
  void place_parameters(Model& model, at::TensorOptions options);
  void place_buffers(Model& model, at::TensorOptions options);
  void note_others(const Model& model);

  BlockRange blocks_;
  std::set<std::string> others_;  // names of the model's other parameters and buffers

  std::vector<Entry> entries_;
  std::vector<Entry> buffer_entries_;
  std::vector<Parameter*> parameters_;    // in the order of entries_
  std::vector<Buffer*> buffer_pointers_;  // in the order of buffer_entries_
  int64_t num_parameters_ = 0;
  int64_t version_ = 0;
  at::Tensor values_;
  at::Tensor gradients_;
  at::Tensor buffers_;
};

// Lets go of a block's parameters and buffers, as if it had never been placed.
void forget_tensors(Block& block);
// A tensor of its own over an entry's piece of a flat vector.
at::Tensor piece_of(const at::Tensor& flat, const FlatParams::Entry& entry);

}  // namespace outstep::nn
