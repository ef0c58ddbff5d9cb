#include "outstep/train/gathered_model.h"

#include <set>

namespace outstep::train {
namespace {

constexpr comm::Tag kModelTag = 2;  // on the member's group, beside its statistics

// What a stage owns, in an order that every rank knows.
template <typename Visit>
void for_each_parameter(const nn::Model& model, nn::BlockRange blocks, const Visit& visit) {
  std::set<const nn::Parameter*> seen;
  for (size_t b = blocks.begin; b < blocks.end; ++b) {
    for (const nn::Parameter* parameter : model.blocks[b]->parameters()) {
      if (seen.insert(parameter).second) visit(*parameter);
    }
  }
}
template <typename Visit>
void for_each_buffer(const nn::Model& model, nn::BlockRange blocks, const Visit& visit) {
  for (size_t b = blocks.begin; b < blocks.end; ++b) {
    for (const nn::Buffer* buffer : model.blocks[b]->buffers()) visit(*buffer);
  }
}

constexpr comm::CallOptions kTransfer{.tag = kModelTag, .what = "model"};

void send_stage(const Assembly& assembly) {
  std::vector<comm::Work> sends;
  const auto send = [&](const auto& owned) {
    sends.push_back(assembly.member_group->send(owned.tensor.detach().cpu(), 0, kTransfer));
  };
  for_each_parameter(*assembly.model, assembly.params->blocks(), send);
  for_each_buffer(*assembly.model, assembly.params->blocks(), send);
  for (comm::Work& work : sends) work.wait();
}

}  // namespace

// Parameters first, as named_tensors has them: the file is that of a model that was never cut.
NamedTensors gather_stages(const Assembly& assembly) {
  if (assembly.place.replica > 0) return {};
  if (assembly.mesh.stages == 1) return assembly.params->named_tensors();
  const at::NoGradGuard no_grad;
  if (assembly.place.stage > 0) {
    send_stage(assembly);
    return {};
  }
  NamedTensors tensors;
  const auto type = assembly.params->values().scalar_type();
  for (const bool are_parameters : {true, false}) {
    for (int stage = 0; stage < assembly.mesh.stages; ++stage) {
      const auto take = [&](const auto& owned) {
        if (stage == 0) {
          tensors.emplace_back(owned.name, owned.tensor.detach());
          return;
        }
        const at::Tensor tensor = at::empty(owned.shape, type);
        assembly.member_group->recv(tensor, stage, kTransfer).wait();
        tensors.emplace_back(owned.name, tensor);
      };
      const nn::BlockRange blocks = engine::blocks_of(assembly.cut, stage);
      if (are_parameters) {
        for_each_parameter(*assembly.model, blocks, take);
      } else {
        for_each_buffer(*assembly.model, blocks, take);
      }
    }
  }
  return tensors;
}

}  // namespace outstep::train
