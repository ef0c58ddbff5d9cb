#include "outstep/train/member_soups.h"

#include <algorithm>

#include "outstep/comm/average.h"
#include "outstep/train/agree.h"
#include "outstep/train/evaluation.h"

namespace outstep::train {

void recompute_statistics(const Recipe& recipe, Assembly& assembly,
                          const std::function<void()>& go_on) {
  const auto& [num_members, num_replicas, num_stages] = assembly.mesh;
  const at::Tensor& buffers = assembly.params->buffers();
  data::StreamOptions options = assembly.stream->options();
  options.seed = recipe.train.seed;
  options.replica = assembly.place.member * num_replicas + assembly.place.replica;
  options.num_replicas = num_members * num_replicas;
  options.prefetch = 0;
  data::Stream stream(assembly.data.train, options);
  buffers.zero_();  // the first batch's replace them, and 0 · inf is none
  const int64_t num_batches =
      (assembly.soup.batches + options.num_replicas - 1) / options.num_replicas;
  for (int64_t k = 0; k < num_batches; ++k) {
    if (go_on) go_on();
    assembly.engine->predict(
        stream.next(), {.training = true, .statistics_rate = 1.0 / static_cast<double>(k + 1)});
  }
  meet(*assembly.world_group, "running statistics");
  for (comm::Group* group : {assembly.control_group.get(), assembly.population_group.get()}) {
    comm::average(*group, buffers, {.what = "running statistics"});
  }
}

bool has_buffers(const nn::Model& model) {
  return std::ranges::any_of(model.blocks,
                             [](const auto& block) { return !block->buffers().empty(); });
}

MemberSoups::MemberSoups(const Recipe& recipe, Assembly& assembly)
    : recipe_(recipe),
      assembly_(assembly),
      own_values_(assembly.params->values().clone()),
      own_buffers_(assembly.params->buffers().clone()) {
  assembly.engine->pause();
}

MemberSoups::~MemberSoups() { put_back(); }

void MemberSoups::put_back() const {
  assembly_.params->values().copy_(own_values_);
  assembly_.params->buffers().copy_(own_buffers_);
}

method::Evaluation MemberSoups::evaluate(std::span<const int64_t> parts) {
  put_back();
  comm::Group& members = *assembly_.population_group;
  const at::Tensor& buffers = assembly_.params->buffers();
  ensemble::make_soup(members, assembly_.params->values(), parts);
  if (!has_buffers(*assembly_.model)) return evaluate_shared(recipe_, assembly_);
  if (assembly_.soup.statistics == ensemble::SoupOptions::Statistics::recompute) {
    recompute_statistics(recipe_, assembly_);
  } else {
    ensemble::make_soup(members, buffers, parts);
    // Replicas have the same weights, but running statistics of their own.
    comm::average(*assembly_.control_group, buffers, {.what = "running statistics"});
  }
  return evaluate_shared(recipe_, assembly_);
}

}  // namespace outstep::train
