#pragma once

#include <functional>
#include <span>

#include "outstep/train/assembly.h"

namespace outstep::train {

// Soups of a population's members, made in place: the live parameters and buffers become those of
// a soup, of which all ranks then evaluate a share. What they were is put back in the end.
class MemberSoups {
 public:
  // Pauses the engine. Both are borrowed.
  MemberSoups(const Recipe& recipe, Assembly& assembly);
  ~MemberSoups();
  MemberSoups(const MemberSoups&) = delete;
  MemberSoups& operator=(const MemberSoups&) = delete;

  // parts: how much of each member goes in, as make_soup of ensemble/soup.h has it. The soup stays
  // live until the next one. Every rank of the world calls it.
  method::Evaluation evaluate(std::span<const int64_t> parts);

 private:
  void put_back() const;

  const Recipe& recipe_;
  Assembly& assembly_;
  const at::Tensor own_values_, own_buffers_;
};

// The buffers become their means over soup.batches batches of training data at the live parameters,
// which all members must have alike; each replica of each member makes a part of them. Collective.
// go_on is called before each batch and may throw.
void recompute_statistics(const Recipe& recipe, Assembly& assembly,
                          const std::function<void()>& go_on = {});
// Whether the model has any: batch norm's running statistics.
bool has_buffers(const nn::Model& model);

}  // namespace outstep::train
