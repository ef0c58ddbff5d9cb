#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "outstep/base/torch.h"
#include "outstep/io/state.h"

namespace outstep::optim {

// A range [begin, end) of the flat parameter vector.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// A range of the flat vector and whether weight decay applies there. Sorted, without overlap; gaps
// are padding.
struct Segment {
  Range range;
  bool decays = true;
};

// What an optimizer remembers about a range. Owned by the synchronizer that holds the range.
struct State {
  Range range;
  int64_t step = 0;                      // updates done
  std::vector<std::string> names = {};   // e.g. "momentum"
  std::vector<at::Tensor> vectors = {};  // each [range.size()]

  // Views of a part of the range: writing through them writes here. The step is copied.
  State part(Range part) const;
  int64_t num_bytes() const;

  // Entries: the step is shared ("optimizer.step"), each vector a slice ("optimizer.NAME") of a
  // flat vector of total elements, so that any other cut of it can be read back.
  void save(io::StateWriter& writer, int64_t total) const;
  // Of a rank that owns several ranges, all at the same step; each part is loaded by itself.
  static void save_parts(std::span<const State* const> parts, io::StateWriter& writer,
                         int64_t total);
  void load(io::StateReader& reader, int64_t total);
};

// One update of a range.
//
//   gradient    [range.size()]  read
//   params_in   [range.size()]  read
//   params_out  [range.size()]  written; may be params_in
//   state_in    read; state_out written, may be the same; null: a tentative step that leaves no
//   trace (ACCO's estimate)
//
// Vectors are contiguous on one device and all float32, or all float64 (by operators, to compare
// with other implementations); but for the aliases above they do not overlap.
// Padding is copied, so that all of the outs is defined.
struct Update {
  at::Tensor gradient;
  double gradient_scale = 1;  // multiplies the gradient first: 1/count, times the clipping factor
  double lr = 0;
  at::Tensor params_in;
  at::Tensor params_out;
  const State* state_in = nullptr;
  State* state_out = nullptr;
};

// Turns a gradient into an update, as a pure function on flat ranges. Immutable, hence thread safe.
class Optimizer {
 public:
  virtual ~Optimizer() = default;

  virtual const std::string& name() const = 0;
  virtual State make_state(Range range, at::TensorOptions options = at::kFloat) const = 0;
  virtual void update(const Update& update) const = 0;
  // Whether ranges may be cut at any element, or only where a tensor begins.
  virtual bool cuts_anywhere() const { return true; }
  virtual int64_t state_bytes_per_parameter() const = 0;
};

}  // namespace outstep::optim
