#pragma once

#include <optional>

#include "outstep/data/datasets.h"
#include "outstep/data/regularization.h"
#include "outstep/nn/model.h"
#include "outstep/train/recipe.h"

// ensemble.regularization = "heterogeneous": each member of a population is regularised in its own
// way, as data/regularization.h deals it out.

namespace outstep::train {

// The member's; null: all have what [data] and [model] say.
std::optional<data::Regularization> own_regularization(Recipe& recipe, int member);

// Put it in place of what the recipe says, which must be nothing. Throw ConfigError if it is
// something, or if the data has no images.
void regularize(data::DataOptions& options, const data::Regularization& own);
void regularize(nn::Model& model, const data::Regularization& own);

}  // namespace outstep::train
