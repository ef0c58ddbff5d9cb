#pragma once

#include <exception>
#include <functional>

#include "outstep/base/errors.h"
#include "outstep/comm/group.h"
#include "outstep/io/settings.h"
#include "outstep/method/engine.h"
#include "outstep/method/synchronizer.h"
#include "outstep/optim/norm.h"
#include "outstep/optim/optimizer.h"

// The parts of a step that synchronizers share: gather a fixed number of micro-batches, judge the
// summed gradient, apply it.

namespace outstep::method {

// Calls accumulate until `count` micro-batches are in the gradient. before_last, if given, is
// called before the call that is due to complete it. Throws ConfigError if the engine adds more
// than it was asked for.
Contribution accumulate_exactly(GradientEngine& engine, int64_t count,
                                const std::function<void()>& before_last = {});
ConfigError finished_too_many(int64_t finished, int64_t asked_for);

// How replicas share the flat vector out: at multiples of the norm's grain, so that the norm does
// not depend on their number.
comm::Shards shards_of(const nn::FlatParams& params, const comm::Group& group);
// The same of a part of it, which begins at a multiple of the grain.
comm::Shards shards_of(int64_t size, const comm::Group& group);

// Throws ConfigError for an optimizer that cannot be cut at any element; sync: whose shards it is
// about.
void require_cuts_anywhere(const optim::Optimizer& optimizer, const std::string& sync);

// Ends an engine's announcements of ranges, however the scope is left.
class RangeAnnouncements {
 public:
  explicit RangeAnnouncements(GradientEngine& engine) : engine_(engine) {}
  ~RangeAnnouncements() {
    engine_.on_range_ready(nullptr);
    engine_.on_range_needed(nullptr);
  }
  RangeAnnouncements(const RangeAnnouncements&) = delete;
  RangeAnnouncements& operator=(const RangeAnnouncements&) = delete;

 private:
  GradientEngine& engine_;
};

// Aborts the group if the scope is left by an exception: what waits here ends, and the peers, who
// would wait for this rank until their deadline, learn of it at once.
class AbortOnError {
 public:
  explicit AbortOnError(comm::Group& group)
      : group_(group), num_exceptions_(std::uncaught_exceptions()) {}
  ~AbortOnError() {
    if (std::uncaught_exceptions() > num_exceptions_) group_.abort();
  }
  AbortOnError(const AbortOnError&) = delete;
  AbortOnError& operator=(const AbortOnError&) = delete;

 private:
  comm::Group& group_;
  const int num_exceptions_;
};

// What to do with a gradient that holds an infinity or a NaN.
enum class OnNonfinite {
  fail,  // throw, naming the step
  skip,  // drop it: parameters and optimizer stay as they are, the step counts as done
};
OnNonfinite read_on_nonfinite(io::Section& section);  // key on_nonfinite, "fail" or "skip"

struct Judgement {
  double norm = 0;  // of the mean gradient, before clipping
  double scale =
      0;  // what the summed gradient is multiplied by: 1/count, times the clipping factor
  bool is_skipped = false;
};

// The buffers (batch norm's running statistics) as they are before a step, whose forward passes
// move them. A step that is skipped puts them back: what spoiled its gradient is in them too.
// Copies nothing where no step is ever skipped, or there are no buffers.
class BuffersBeforeStep {
 public:
  BuffersBeforeStep(const nn::FlatParams& params, OnNonfinite on_nonfinite);
  void put_back_if_skipped(const Judgement& judgement) const;
  at::Tensor copy() const { return copy_; }  // may be undefined

 private:
  at::Tensor live_;
  at::Tensor copy_;  // undefined: none is needed
};

// Judges the sum of `count` micro-batches' gradients by its squared norm; the same on every rank
// that passes the same numbers. Throws ConfigError (training diverged: it is the recipe that has to
// change) for a gradient that is not finite, unless told to skip. local: this rank's part, for the
// error's text.
Judgement judge(const optim::ExactSum& squared_norm, int64_t count, const StepContext& context,
                OnNonfinite on_nonfinite, const Contribution& local);

// Applies the summed gradient to state.range of the live parameters, in place.
void apply(const optim::Optimizer& optimizer, nn::FlatParams& params, optim::State& state,
           const Judgement& judgement, double lr, const StepContext& context);

}  // namespace outstep::method
