#include "outstep/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>

#include "outstep/base/errors.h"

namespace outstep::optim {
namespace {

using Shape = Schedule::Shape;

// How much of [begin, end) lies behind position, in [0, 1].
double share_done(double position, double begin, double end) {
  if (end <= begin) return position < begin ? 0 : 1;
  return std::clamp((position - begin) / (end - begin), 0.0, 1.0);
}

// As usual for images: at one half and three quarters of the run; in one of two steps these are
// one, in one of a single step none.
std::vector<int64_t> usual_milestones(int64_t total_steps) {
  std::vector<int64_t> milestones = {total_steps / 2, total_steps * 3 / 4};
  if (milestones[0] == milestones[1]) milestones.pop_back();
  if (milestones[0] == 0) milestones.clear();
  return milestones;
}

void read_milestones(io::Section& section, Schedule& schedule) {
  const auto total_steps = static_cast<int64_t>(schedule.total_steps);
  schedule.milestones = section.integers("milestones", usual_milestones(total_steps), {.min = 0});
  if (std::ranges::adjacent_find(schedule.milestones, std::greater_equal()) !=
      schedule.milestones.end()) {
    throw ConfigError("{}: milestones must be in increasing order, each once, as [100, 150]",
                      section.origin("milestones"));
  }
  if (!schedule.milestones.empty() && schedule.milestones.back() >= total_steps) {
    throw ConfigError(
        "{}: milestone {} is never reached in a run of {} steps; lower it or raise train.steps",
        section.origin("milestones"), schedule.milestones.back(), total_steps);
  }
  schedule.gamma =
      section.number("gamma", schedule.gamma, {.min = 0, .max = 1, .excludes_min = true});
}

void read_decay(io::Section& section, Schedule& schedule) {
  schedule.final_factor = section.number("final_factor", 0, {.min = 0, .max = 1});
  schedule.decay_fraction = section.number("decay_fraction", schedule.decay_fraction,
                                           {.min = 0, .max = 1, .excludes_min = true});
  const double decay_steps = schedule.decay_fraction * schedule.total_steps;
  if (schedule.warmup_steps + decay_steps > schedule.total_steps) {
    throw ConfigError(
        "{}: a warm-up of {} steps and a decay over the last {:g} do not fit in a run of {} steps; "
        "lower schedule.warmup_steps or schedule.decay_fraction",
        section.origin("decay_fraction"), schedule.warmup_steps, decay_steps, schedule.total_steps);
  }
}

}  // namespace

double Schedule::at(double step) const {
  if (step < warmup_steps) return lr * (step + 1) / (warmup_steps + 1);
  switch (shape) {
    case Shape::constant:
      return lr;
    case Shape::cosine: {
      const double done = share_done(step, warmup_steps, total_steps);
      const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * done));
      return lr * (final_factor + (1 - final_factor) * cosine);
    }
    case Shape::step: {
      double factor = 1;
      for (int64_t milestone : milestones) {
        if (step >= static_cast<double>(milestone)) factor *= gamma;
      }
      return lr * factor;
    }
    case Shape::wsd: {
      const double done = share_done(step, (1 - decay_fraction) * total_steps, total_steps);
      return lr * (1 - (1 - final_factor) * done);
    }
  }
  return lr;
}

std::vector<std::string> schedule_names() { return {"constant", "cosine", "step", "wsd"}; }

Schedule read_schedule(io::Section section, double lr, int64_t total_steps) {
  const std::string name = section.text("name", "constant", {.choices = schedule_names()});
  Schedule schedule{.lr = lr, .total_steps = static_cast<double>(total_steps)};
  const int64_t warmup_steps = section.integer("warmup_steps", 0, {.min = 0});
  if (warmup_steps > 0 && warmup_steps >= total_steps) {
    throw ConfigError(
        "{}: a warm-up of {} steps fills the whole run of {} steps; lower it or raise train.steps",
        section.origin("warmup_steps"), warmup_steps, total_steps);
  }
  schedule.warmup_steps = static_cast<double>(warmup_steps);
  if (name == "cosine") {
    schedule.shape = Shape::cosine;
    schedule.final_factor =
        section.number("final_factor", schedule.final_factor, {.min = 0, .max = 1});
  } else if (name == "step") {
    schedule.shape = Shape::step;
    read_milestones(section, schedule);
  } else if (name == "wsd") {
    schedule.shape = Shape::wsd;
    read_decay(section, schedule);
  }
  return schedule;
}

}  // namespace outstep::optim
