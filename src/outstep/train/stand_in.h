#pragma once

#include "outstep/data/datasets.h"
#include "outstep/nn/model.h"
#include "outstep/nn/model_facts.h"

// For planning a run whose data does not lie on this machine: what a set of that name is known to
// look like, and batches of the model's own making.

namespace outstep::train {

// Nothing is known of "tensors": the model's keys must say it all. Throws DataError if a text's
// vocabulary is not here either: how large the model is depends on it.
nn::ModelFacts usual_facts(const data::DataOptions& options, const data::Places& places);

// A training set of examples as the model makes them, and nothing to validate on. The model is
// borrowed and outlives it.
data::Datasets stand_in(const nn::Model& model, const nn::ModelFacts& facts);

}  // namespace outstep::train
