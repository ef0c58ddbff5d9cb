#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "outstep/base/torch.h"
#include "outstep/ensemble/layers.h"

namespace outstep::ensemble {

// Which elements of the flat vector move in one shuffle, and from whom each member takes its new
// value: at position k, member n takes that of member source(k, n). At every position the sources
// are a permutation, so values are only dealt out anew.
//
//   const Plan plan = make_plan(layers, probabilities, {.seed = 1, .step = 17, .num_members = 3});
//
// A pure function of its arguments, computed on the CPU by integers and by floating-point
// operations that IEEE 754 defines to the last bit: every rank makes the same one, so only values
// travel, and a resumed run needs nothing but its step number.
struct Plan {
  int num_members = 1;
  std::vector<int64_t> positions = {};  // ascending
  std::vector<uint16_t> sources = {};   // [positions, members]

  int64_t size() const { return static_cast<int64_t>(positions.size()); }
  int source(int64_t k, int member) const {
    return sources[static_cast<size_t>(k * num_members + member)];
  }
  uint64_t hash() const;  // of all of it
};

struct PlanOptions {
  uint64_t seed = 1;
  int64_t step = 0;  // below 2^32
  int num_members = 1;
  // One random shift a position in place of a permutation: n takes from n + shift.
  bool is_cyclic = false;
};

// Takes each element of layer l by itself with probability probabilities[l], which is by the
// layer's number, and draws a permutation for it. Of a layer that begins on an earlier stage, what
// that one takes is drawn and dropped: stages together take what one process does. Time and memory
// go with what is taken, not with what there is.
Plan make_plan(std::span<const Layer> layers, std::span<const double> probabilities,
               const PlanOptions& options);

// What a plan does, to all members' vectors in one process: the definition that the exchange
// between ranks is held against.
void shuffle_in_process(const Plan& plan, std::span<const at::Tensor> members);

// ln(x) for positive normal x, to about one part in 2^52, by additions, multiplications and
// divisions alone: the same bits with every C library.
double portable_log(double x);

}  // namespace outstep::ensemble
