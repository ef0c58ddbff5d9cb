#include "outstep/train/regularize.h"

#include "outstep/base/errors.h"
#include "outstep/data/image_sets.h"

namespace outstep::train {

std::optional<data::Regularization> own_regularization(Recipe& recipe, int member) {
  io::Section ensemble = recipe.settings.section("ensemble");
  const std::string kind =
      ensemble.text("regularization", "same", {.choices = {"same", "heterogeneous"}});
  if (kind == "same") return std::nullopt;
  const auto num_members = std::ssize(recipe.members.ids) + std::ssize(recipe.members.lost);
  const auto all = data::heterogeneous_members(num_members, recipe.train.seed);
  return all[static_cast<size_t>(member)];
}

void regularize(data::DataOptions& options, const data::Regularization& own) {
  if (data::find_image_set(options.name) == nullptr) {
    throw ConfigError(
        "ensemble.regularization = \"heterogeneous\" gives each member its own mixup, CutMix and "
        "random erasing, and data \"{}\" has no images; use \"same\"",
        options.name);
  }
  for (const auto& [key, value] : {std::pair("mixup", options.mixup),
                                   {"cutmix", options.cutmix},
                                   {"random_erasing", options.random_erasing}}) {
    if (value == 0) continue;
    throw ConfigError(
        "data.{} = {}, but with ensemble.regularization = \"heterogeneous\" each member has one of "
        "its own; leave it out, or use \"same\"",
        key, value);
  }
  if (!options.augment) {
    throw ConfigError(
        "data.augment = false, but ensemble.regularization = \"heterogeneous\" is augmentation; "
        "use data.crop_padding = 0 and data.flip = false in its place, or \"same\"");
  }
  options.mixup = own.mixup;
  options.cutmix = own.cutmix;
  options.random_erasing = own.random_erasing;
}

void regularize(nn::Model& model, const data::Regularization& own) {
  if (model.label_smoothing != 0) {
    throw ConfigError(
        "model.label_smoothing = {}, but with ensemble.regularization = \"heterogeneous\" each "
        "member has one of its own; leave it out, or use \"same\"",
        model.label_smoothing);
  }
  model.label_smoothing = own.label_smoothing;
}

}  // namespace outstep::train
