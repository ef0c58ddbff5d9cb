#pragma once

#include <sys/signalfd.h>

#include <csignal>

#include "outstep/apps/descriptor.h"

namespace outstep::apps {

// SIGINT, SIGTERM and SIGCHLD as a descriptor, while it lives. A parent may have left SIGCHLD
// ignored, which exec keeps and which would hide every end of a child: it is not ignored any more.
class SignalsByDescriptor {
 public:
  SignalsByDescriptor() {
    std::signal(SIGCHLD, SIG_DFL);
    sigset_t taken;
    sigemptyset(&taken);
    for (int signal : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&taken, signal);
    sigprocmask(SIG_BLOCK, &taken, &before_);
    descriptor_ = Descriptor(signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  ~SignalsByDescriptor() {
    if (!is_leaving_) sigprocmask(SIG_SETMASK, &before_, nullptr);
  }
  SignalsByDescriptor(const SignalsByDescriptor&) = delete;
  SignalsByDescriptor& operator=(const SignalsByDescriptor&) = delete;

  // From here on the process is on its way out: one more signal shall not change its exit code.
  void stay_blocked() { is_leaving_ = true; }
  int number() const { return descriptor_.number(); }
  const sigset_t& before() const { return before_; }
  // 0 when there is none.
  int take() {
    signalfd_siginfo info{};
    return read(descriptor_.number(), &info, sizeof info) == sizeof info
               ? static_cast<int>(info.ssi_signo)
               : 0;
  }

 private:
  Descriptor descriptor_;
  sigset_t before_{};
  bool is_leaving_ = false;
};

}  // namespace outstep::apps
