#include "outstep/train/gathered_model.h"

#include <set>

namespace outstep::train {
namespace {

constexpr comm::Tag kModelTag = 2;  // on the member's group, beside its statistics

// The parameters and buffers that a stage owns, in an order that every rank knows.
template <typename Visit>
void for_each_tensor(const nn::Model& model, nn::BlockRange blocks, const Visit& visit) {
  std::set<const nn::Parameter*> seen;
  for (size_t b = blocks.begin; b < blocks.end; ++b) {
    for (const nn::Parameter* parameter : model.blocks[b]->parameters()) {
      if (seen.insert(parameter).second)
        visit(parameter->name, parameter->shape, parameter->tensor);
    }
  }
  for (size_t b = blocks.begin; b < blocks.end; ++b) {
    for (const nn::Buffer* buffer : model.blocks[b]->buffers()) {
      visit(buffer->name, buffer->shape, buffer->tensor);
    }
  }
}

}  // namespace

NamedTensors gather_stages(const Assembly& assembly) {
  const comm::Mesh::Place place = assembly.place;
  if (place.replica > 0) return {};
  if (assembly.mesh.stages == 1) return assembly.params->named_tensors();
  comm::Group& member = *assembly.member_group;
  const at::NoGradGuard no_grad;
  std::vector<comm::Work> sends;
  if (place.stage > 0) {
    for_each_tensor(*assembly.model, assembly.params->blocks(),
                    [&](const std::string&, const std::vector<int64_t>&, const at::Tensor& tensor) {
                      sends.push_back(member.send(tensor.detach().cpu(), 0,
                                                  {.tag = kModelTag, .what = "model"}));
                    });
    for (comm::Work& send : sends) send.wait();
    return {};
  }
  NamedTensors tensors = assembly.params->named_tensors();
  const auto type = assembly.params->values().scalar_type();
  for (int stage = 1; stage < assembly.mesh.stages; ++stage) {
    const nn::BlockRange blocks = engine::blocks_of(assembly.cut, stage);
    for_each_tensor(
        *assembly.model, blocks,
        [&](const std::string& name, const std::vector<int64_t>& shape, const at::Tensor&) {
          const at::Tensor tensor = at::empty(shape, type);
          member.recv(tensor, stage, {.tag = kModelTag, .what = "model"}).wait();
          tensors.emplace_back(name, tensor);
        });
  }
  return tensors;
}

}  // namespace outstep::train
