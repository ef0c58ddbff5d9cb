#pragma once

#include <memory>

#include "outstep/comm/group.h"

namespace outstep::comm {

// A group that hands everything to another, which it owns; what wrappers have in common. Its
// collectives are built over its own send and recv, so a wrapper that changes these changes all.
class WrappedGroup : public Group {
 public:
  void abort() noexcept override { inner_->abort(); }
  std::string describe(int peer) const override { return inner_->describe(peer); }
  int64_t bytes_sent() const override { return inner_->bytes_sent(); }

 protected:
  explicit WrappedGroup(std::unique_ptr<Group> inner)
      : Group(inner->name(), inner->rank(), inner->size(), inner->deadline()),
        inner_(std::move(inner)) {}

  Work do_send(const at::Tensor& tensor, int peer, const CallOptions& options) override {
    return inner_->send(tensor, peer, options);
  }
  Work do_recv(at::Tensor tensor, int peer, const CallOptions& options) override {
    return inner_->recv(std::move(tensor), peer, options);
  }
  Group& inner() const { return *inner_; }

 private:
  std::unique_ptr<Group> inner_;
};

}  // namespace outstep::comm
