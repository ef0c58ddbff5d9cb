#include "outstep/nn/sample.h"

#include <algorithm>

#include "outstep/base/errors.h"
#include "outstep/nn/attention.h"
#include "outstep/nn/gpt2.h"
#include "outstep/nn/revgpt.h"

namespace outstep::nn {
namespace {

// Draws from softmax(logits / temperature), restricted to the top_k largest.
int64_t draw_token(const at::Tensor& logits, const SampleOptions& options, CounterRng& rng) {
  if (options.temperature == 0) return logits.argmax().item<int64_t>();
  const int64_t count =
      options.top_k > 0 ? std::min(options.top_k, logits.size(0)) : logits.size(0);
  const auto [values, tokens] =
      logits.to(at::kCPU, at::kDouble).div(options.temperature).topk(count);
  const at::Tensor cumulated = values.softmax(0).cumsum(0);  // likeliest first
  const double* ends = cumulated.const_data_ptr<double>();
  const auto found = std::upper_bound(ends, ends + count, rng.uniform() * ends[count - 1]) - ends;
  return tokens[std::min(found, count - 1)].item<int64_t>();
}

const Gpt2Options& sizes_of(const Model& model) {
  if (const auto* gpt2 = dynamic_cast<const Gpt2*>(&model)) return gpt2->options();
  if (const auto* revgpt = dynamic_cast<const RevGpt*>(&model)) return revgpt->options().gpt;
  throw ConfigError("a model of the family \"{}\" makes no text; only \"gpt2\" and \"revgpt\" do",
                    model.family());
}

void check_prompt(const std::vector<int64_t>& prompt, int64_t vocab_size) {
  if (prompt.empty()) throw ConfigError("the prompt is empty; it needs at least one token");
  for (int64_t token : prompt) {
    if (token < 0 || token >= vocab_size) {
      throw ConfigError("token {} of the prompt is outside the model's vocabulary of {}", token,
                        vocab_size);
    }
  }
}

}  // namespace

std::vector<int64_t> sample(const Model& model, const std::vector<int64_t>& prompt,
                            const SampleOptions& options,
                            const std::function<void(int64_t token)>& on_token) {
  const Gpt2Options& sizes = sizes_of(model);
  check_prompt(prompt, sizes.vocab_size);
  const at::NoGradGuard no_grad;
  KeyValueCache cache(sizes.n_layer, sizes.n_positions);
  ForwardContext context{.cache = &cache};
  CounterRng rng({.seed = options.seed, .purpose = purpose("nn.sample")});
  const at::Device device = model.blocks.front()->parameters().front()->tensor.device();

  std::vector<int64_t> tokens = prompt;
  int64_t num_fed = std::max<int64_t>(0, static_cast<int64_t>(prompt.size()) - sizes.n_positions);
  for (int64_t i = 0; i < options.max_tokens; ++i) {
    const auto size = static_cast<int64_t>(tokens.size());
    if (cache.length() == sizes.n_positions) {
      cache.clear();
      num_fed = size - (sizes.n_positions + 1) / 2;
    }
    const at::Tensor input =
        at::tensor(at::ArrayRef<int64_t>(tokens).slice(static_cast<size_t>(num_fed)), at::kLong);
    const at::Tensor logits = model.forward(input.unsqueeze(0).to(device), context);  // [1, t, V]
    cache.advance(size - num_fed);
    num_fed = size;
    tokens.push_back(draw_token(logits[0][-1], options, rng));
    if (on_token) on_token(tokens.back());
  }
  return {tokens.begin() + static_cast<int64_t>(prompt.size()), tokens.end()};
}

}  // namespace outstep::nn
