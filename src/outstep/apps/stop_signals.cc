#include "outstep/apps/stop_signals.h"

#include <unistd.h>

#include <csignal>
#include <ctime>

namespace outstep::apps {
namespace {

// What a handler may touch: lock-free atomics of static storage.
std::atomic<bool> g_stop{false};
std::atomic<int> g_signal{0};
std::atomic<int64_t> g_first_at{0};
std::atomic<int> g_num_users{0};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

int64_t now_nanoseconds() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);  // async-signal-safe
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

void on_signal(int signal) {
  if (g_signal.load() == 0) {
    g_first_at = now_nanoseconds();
    g_signal = signal;
    g_stop = true;
  } else if (std::chrono::nanoseconds(now_nanoseconds() - g_first_at) > kSameWish) {
    _exit(128 + signal);
  }
}

void handle(int signal, void (*handler)(int)) {
  struct sigaction action{};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigaction(signal, &action, nullptr);
}

}  // namespace

StopSignals::StopSignals() {
  if (g_num_users++ > 0) return;
  g_stop = false;
  g_signal = 0;
  for (int signal : {SIGINT, SIGTERM}) handle(signal, on_signal);
}

StopSignals::~StopSignals() {
  if (--g_num_users > 0) return;
  for (int signal : {SIGINT, SIGTERM}) handle(signal, SIG_DFL);
}

const std::atomic<bool>& StopSignals::stop() const { return g_stop; }
int StopSignals::signal() const { return g_signal; }

}  // namespace outstep::apps
