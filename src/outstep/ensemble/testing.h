#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "outstep/comm/local_group.h"
#include "outstep/ensemble/parts.h"
#include "outstep/ensemble/wash.h"
#include "outstep/method/testing.h"

// What the tests of this room share: a model of given shapes, and populations whose members are
// threads.

namespace outstep::ensemble::testing {

using Shapes = std::vector<std::vector<int64_t>>;

// A parameter a block, "p0", "p1", …; the last block lists the first one's again if asked to, as a
// tied head does. One buffer.
class ShapedModel : public nn::Model {
 public:
  explicit ShapedModel(const Shapes& shapes, bool is_tied = false) {
    for (size_t i = 0; i < shapes.size(); ++i) {
      blocks.push_back(std::make_unique<Part>("p" + std::to_string(i), shapes[i]));
    }
    if (is_tied) {
      nn::Parameter& first = *blocks.front()->parameters().front();
      blocks.push_back(std::make_unique<Part>(first));
    }
  }
  const std::string& family() const override { return family_; }
  void require_takes(const nn::ModelFacts&, const nn::OriginOf&) const override {}
  nlohmann::ordered_json config() const override { return {}; }
  at::Tensor example_input(int64_t) const override { return {}; }
  at::Tensor example_target(int64_t) const override { return {}; }

 private:
  class Part : public nn::PlainBlock {
   public:
    Part(const std::string& name, const std::vector<int64_t>& shape) : PlainBlock(name) {
      add_parameter(name, shape, nn::init::normal(1));
      if (name == "p0") add_buffer("statistics", {3}, 1);
    }
    explicit Part(nn::Parameter& shared) : PlainBlock("tied") { share_parameter(shared); }
    at::Tensor transform(const at::Tensor& input, nn::ForwardContext&) override { return input; }
  };

  std::string family_ = "shapes";
};

// Matrices with vectors behind them, a scalar, an empty one: layers of 96 + 6, 35, 1 × 200 + 1 + 0.
inline Shapes some_shapes() { return {{8, 12}, {6}, {5, 7}, {1, 200}, {}, {0}}; }

// One member. Its parameters are its own, its seed is the population's.
struct Member {
  Member(comm::Group& group, const Shapes& shapes, bool is_tied = false, uint64_t seed = 1)
      : model(shapes, is_tied),
        params(model, static_cast<uint64_t>(100 + group.rank())),
        parts{.model = model, .params = params, .group = group, .seed = seed} {}

  const at::Tensor& values() const { return params.values(); }

  ShapedModel model;
  nn::FlatParams params;
  Parts parts;
};

inline void run_members(int num_members, const std::function<void(comm::Group&)>& body) {
  at::set_num_threads(1);
  comm::run_local_ranks(num_members, [&](comm::Group& group) {
    at::set_num_threads(1);
    const at::NoGradGuard no_grad;
    body(group);
  });
}

// What each member's values are after the body.
inline std::vector<at::Tensor> values_after(int num_members,
                                            const std::function<at::Tensor(comm::Group&)>& body) {
  std::vector<at::Tensor> values(static_cast<size_t>(num_members));
  run_members(num_members, [&](comm::Group& group) {
    values[static_cast<size_t>(group.rank())] = body(group).clone();
  });
  return values;
}

// [members, size], each column sorted: what a shuffle leaves as it was.
inline at::Tensor sorted(const std::vector<at::Tensor>& members) {
  return std::get<0>(at::stack(members).sort(0));
}

}  // namespace outstep::ensemble::testing
