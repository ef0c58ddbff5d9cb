#include "outstep/engine/pipeline/schedule.h"

#include <algorithm>

#include "outstep/base/errors.h"

namespace outstep::engine {

Action Program::peek() const {
  // The micro-batch at which the present flush ends.
  const int64_t end =
      flush_every_ == kNever ? kNever : (num_backward_ / flush_every_ + 1) * flush_every_;
  const bool goes_forward = num_forward_ < end && num_in_flight() <= lead_;
  return goes_forward ? Action{Action::Kind::forward, num_forward_}
                      : Action{Action::Kind::backward, num_backward_};
}

Action Program::advance(Action::Kind kind) {
  const bool is_forward = kind == Action::Kind::forward;
  check(is_forward ? num_in_flight() <= lead_ : num_in_flight() > 0,
        "a pass is one that can be made");
  const Action action{kind, is_forward ? num_forward_ : num_backward_};
  ++(is_forward ? num_forward_ : num_backward_);
  return action;
}

void Program::seek(int64_t num_forward, int64_t num_backward) {
  check(num_backward >= 0 && num_forward >= num_backward && num_forward - num_backward <= lead_ + 1,
        "a program is somewhere in its row");
  num_forward_ = num_forward;
  num_backward_ = num_backward;
}

int64_t Schedule::lead(int stage) const {
  const int64_t behind = num_stages - 1 - stage;
  switch (order) {
    case Order::all_forward:
      return flush_every;
    case Order::one_forward:
      return behind;
    case Order::ticks:
      return 2 * behind;
  }
  return 0;
}

int64_t Schedule::most_in_flight(int stage) const {
  const bool is_last = stage + 1 == num_stages;
  if (credits > 0 && !is_last) return credits;
  return std::min(lead(stage) + 1, flush_every);
}

int64_t Schedule::delay(int stage) const {
  return order == Order::ticks ? most_in_flight(stage) - 1 : 0;
}

// Micro-batch m of a flush goes forward when all but the delay's last ones before it have come
// back, but no earlier than the flush begins: ⌊m / k⌋ updates of it are made before m goes back, of
// which ⌊max(m - delay, 0) / k⌋ before it goes forward. The sum over a flush telescopes.
double Schedule::staleness(int stage, int64_t k) const {
  const int64_t late = delay(stage);
  if (flush_every == Program::kNever) return static_cast<double>(late) / static_cast<double>(k);
  int64_t updates = 0;
  for (int64_t m = flush_every - late; m < flush_every; ++m) updates += m / k;
  return static_cast<double>(updates) / static_cast<double>(flush_every);
}

int64_t Schedule::most_staleness(int stage, int64_t k) const {
  const int64_t updates = (delay(stage) + k - 1) / k;
  return flush_every == Program::kNever ? updates : std::min(updates, flush_every / k - 1);
}

}  // namespace outstep::engine
