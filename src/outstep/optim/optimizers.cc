#include "outstep/optim/optimizers.h"

#include <utility>

#include "outstep/base/errors.h"
#include "outstep/optim/adamw.h"
#include "outstep/optim/sgd.h"

namespace outstep::optim {
namespace {

std::string read_name(io::Section& section) {
  return section.text("name", "adamw", {.choices = optimizer_names()});
}

SgdOptions read_sgd(io::Section& section) {
  SgdOptions defaults;
  SgdOptions options{
      .momentum = section.number("momentum", defaults.momentum, {.min = 0, .max = 1}),
      .nesterov = section.flag("nesterov", defaults.nesterov),
      .weight_decay = section.number("weight_decay", defaults.weight_decay, {.min = 0}),
  };
  if (options.momentum >= 1) {
    throw ConfigError("{}: momentum is {}, must be below 1", section.origin("momentum"),
                      options.momentum);
  }
  if (options.nesterov && options.momentum == 0) {
    throw ConfigError("{}: nesterov = true needs momentum above 0; set momentum (0.9 is usual)",
                      section.origin("nesterov"));
  }
  return options;
}

AdamwOptions read_adamw(io::Section& section) {
  AdamwOptions defaults;
  const std::vector<double> betas =
      section.numbers("betas", {defaults.beta1, defaults.beta2}, {.min = 0});
  if (betas.size() != 2) {
    throw ConfigError("{}: betas has {} numbers, must have 2, as [0.9, 0.999]",
                      section.origin("betas"), betas.size());
  }
  for (double beta : betas) {
    if (beta >= 1) {
      throw ConfigError("{}: betas holds {}, each must be below 1", section.origin("betas"), beta);
    }
  }
  return {.beta1 = betas[0],
          .beta2 = betas[1],
          .epsilon = section.number("eps", defaults.epsilon, {.min = 0, .excludes_min = true}),
          .weight_decay = section.number("weight_decay", defaults.weight_decay, {.min = 0})};
}

}  // namespace

std::vector<std::string> optimizer_names() { return {"sgd", "adamw"}; }

std::unique_ptr<Optimizer> make_optimizer(io::Section& section, std::vector<Segment> segments) {
  if (read_name(section) == "sgd") {
    return std::make_unique<Sgd>(read_sgd(section), std::move(segments));
  }
  return std::make_unique<Adamw>(read_adamw(section), std::move(segments));
}

double read_lr(io::Section& section) {
  const double usual = read_name(section) == "sgd" ? 0.1 : 1e-3;
  return section.number("lr", usual, {.min = 0, .excludes_min = true});
}

}  // namespace outstep::optim
