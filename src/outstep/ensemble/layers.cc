#include "outstep/ensemble/layers.h"

#include <map>

#include "outstep/base/errors.h"

namespace outstep::ensemble {
namespace {

struct Place {
  int layer = 0;
  size_t block = 0;
};

// Of every parameter in the whole model, the first one of those that are listed twice.
std::map<const nn::Parameter*, Place> places_of(const nn::Model& model) {
  std::map<const nn::Parameter*, Place> places;
  int layer = -1;
  for (size_t block = 0; block < model.blocks.size(); ++block) {
    for (const nn::Parameter* parameter : model.blocks[block]->parameters()) {
      if (places.contains(parameter)) continue;
      if (parameter->shape.size() >= 2 || layer < 0) ++layer;
      places.emplace(parameter, Place{.layer = layer, .block = block});
    }
  }
  return places;
}

// By shape: what other stages hold is not placed here.
int64_t size_before(const std::map<const nn::Parameter*, Place>& places, int layer, size_t block) {
  int64_t size = 0;
  for (const auto& [parameter, place] : places) {
    if (place.layer != layer || place.block >= block) continue;
    size += c10::multiply_integers(parameter->shape);
  }
  return size;
}

}  // namespace

int64_t Layer::size() const {
  int64_t size = 0;
  for (const optim::Range& piece : pieces) size += piece.size();
  return size;
}

int count_layers(const nn::Model& model) {
  int count = 0;
  for (const auto& [parameter, place] : places_of(model)) {
    count = std::max(count, place.layer + 1);
  }
  return count;
}

std::vector<Layer> layers_of(const nn::Model& model, const nn::FlatParams& params) {
  const auto places = places_of(model);
  std::vector<Layer> layers;
  for (size_t i = 0; i < params.entries().size(); ++i) {
    const nn::Parameter* parameter = params.parameters()[i];
    const nn::FlatParams::Entry& entry = params.entries()[i];
    if (!parameter->tensor.requires_grad() || entry.numel == 0) continue;
    const int number = places.at(parameter).layer;
    if (layers.empty() || layers.back().number != number) {
      layers.push_back(
          {.number = number, .num_before = size_before(places, number, params.blocks().begin)});
    }
    layers.back().pieces.push_back({entry.offset, entry.offset + entry.numel});
    layers.back().names.push_back(entry.name);
  }
  return layers;
}

std::vector<double> depth_factors(Depth depth, int num_layers, const std::vector<double>& custom) {
  if (depth == Depth::custom) {
    if (std::ssize(custom) != num_layers) {
      throw ConfigError(
          "ensemble.depth_factors has {} numbers, but the model has {} layers (weights of two or "
          "more dimensions); give one for each, from the input",
          custom.size(), num_layers);
    }
    return custom;
  }
  std::vector<double> factors(static_cast<size_t>(num_layers), 1);
  if (depth == Depth::constant || num_layers == 1) return factors;
  for (int l = 0; l < num_layers; ++l) {
    const double depth_of_layer = static_cast<double>(l) / (num_layers - 1);
    factors[static_cast<size_t>(l)] =
        depth == Depth::increasing ? depth_of_layer : 1 - depth_of_layer;
  }
  return factors;
}

}  // namespace outstep::ensemble
