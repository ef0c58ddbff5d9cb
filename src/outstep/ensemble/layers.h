#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "outstep/nn/flat_params.h"
#include "outstep/nn/model.h"
#include "outstep/optim/optimizer.h"

namespace outstep::ensemble {

// A weight-bearing module: a weight of two or more dimensions, and the vectors registered behind
// it, up to the next such weight: its bias, and the gains and biases of the norms that follow it.
struct Layer {
  int number = 0;                         // in the whole model, from the input
  std::vector<optim::Range> pieces = {};  // of the flat vector, in order, without padding
  std::vector<std::string> names = {};    // of the parameters, one a piece
  // Elements of it that lie in blocks before those that the parameters are of, on other stages.
  int64_t num_before = 0;

  int64_t size() const;  // elements here
};

// The layers of the whole model.
int count_layers(const nn::Model& model);
// Those of them that these parameters hold, in order, numbered as in the whole model. What two
// blocks share is there once; what does not require a gradient is not there, and no buffer is.
std::vector<Layer> layers_of(const nn::Model& model, const nn::FlatParams& params);

// How much of the base probability p a layer takes: of L layers, layer l
enum class Depth {
  decreasing,  // 1 - l / (L - 1): all at the input, nothing at the last layer
  constant,    // 1
  increasing,  // l / (L - 1)
  custom,      // what the recipe says
};
// By layer; all are 1 where there is but one layer.
std::vector<double> depth_factors(Depth depth, int num_layers,
                                  const std::vector<double>& custom = {});

}  // namespace outstep::ensemble
