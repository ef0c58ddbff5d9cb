#pragma once

#include <functional>
#include <vector>

#include "outstep/nn/model.h"

namespace outstep::nn {

struct SampleOptions {
  int64_t max_tokens = 200;  // new ones
  double temperature = 1;    // 0: always the most likely token
  int64_t top_k = 0;         // only among so many likeliest; 0: all
  uint64_t seed = 1;         // the same seed draws the same text
};

// Continues a prompt of at least one token and returns the new tokens; on_token, if set, sees each
// as it is drawn. When the model's context is full, its older half is forgotten. Runs without
// autograd, in the precision of the caller. Throws ConfigError for a model that makes no text, an
// empty prompt, or tokens outside the vocabulary.
std::vector<int64_t> sample(const Model& model, const std::vector<int64_t>& prompt,
                            const SampleOptions& options,
                            const std::function<void(int64_t token)>& on_token = {});

}  // namespace outstep::nn
