#pragma once

#include <functional>
#include <memory>
#include <string>

#include "outstep/comm/wrapped_group.h"

namespace outstep::comm::testing {

// What is about to begin, or has just ended, on the thread that communicates.
struct Moment {
  enum class When { before, after };
  When when = When::before;
  std::string operation;  // all_reduce, reduce_scatter, all_gather, or send within one of them
  std::string what;       // as the caller names it, "gradients"
  int64_t step = -1;
};

// A group that calls a function around the collectives of a step and around every send in them:
// tests delay them, or end the process there.
class Hooked : public WrappedGroup {
 public:
  using Hook = std::function<void(const Moment& moment)>;

  Hooked(std::unique_ptr<Group> inner, Hook hook)
      : WrappedGroup(std::move(inner)), hook_(std::move(hook)) {}

  void all_reduce(at::Tensor tensor, CallOptions options, Wire wire) override {
    around("all_reduce", options, [&] { Group::all_reduce(tensor, options, wire); });
  }
  void reduce_scatter(const at::Tensor& input, at::Tensor output, const Shards& shards,
                      CallOptions options, Wire wire) override {
    around("reduce_scatter", options,
           [&] { Group::reduce_scatter(input, output, shards, options, wire); });
  }
  void all_gather(const at::Tensor& input, at::Tensor output, const Shards& shards,
                  CallOptions options, Wire wire) override {
    around("all_gather", options, [&] { Group::all_gather(input, output, shards, options, wire); });
  }

 protected:
  Work do_send(const at::Tensor& tensor, int peer, const CallOptions& options) override {
    Work work;
    around("send", options, [&] { work = WrappedGroup::do_send(tensor, peer, options); });
    return work;
  }

 private:
  template <typename Call>
  void around(const char* operation, const CallOptions& options, const Call& call) {
    Moment moment{.operation = operation, .what = options.what, .step = options.step};
    hook_(moment);
    call();
    moment.when = Moment::When::after;
    hook_(moment);
  }

  const Hook hook_;
};

}  // namespace outstep::comm::testing
