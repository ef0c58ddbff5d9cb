#include "outstep/train/stand_in.h"

#include <fmt/format.h>

namespace outstep::train {
namespace {

class ModelsOwnExamples : public data::Dataset {
 public:
  explicit ModelsOwnExamples(const nn::Model& model) : model_(model) {}

  int64_t size() const override { return 1 << 20; }  // more than anybody draws
  std::string unit() const override { return "samples"; }
  std::string describe() const override { return "the model's own examples"; }

  data::Batch gather(std::span<const Example> examples, const Draw&) const override {
    const int64_t count = std::ssize(examples);
    data::Batch batch{.inputs = model_.example_input(count),
                      .targets = model_.example_target(count),
                      .num_samples = count};
    batch.num_units = batch.targets.numel();
    return batch;
  }

 private:
  const nn::Model& model_;
};

}  // namespace

nn::ModelFacts usual_facts(const data::DataOptions& options, const data::Places& places) {
  nn::ModelFacts facts{.source = fmt::format("data \"{}\"", options.name)};
  if (options.name == "text" || options.name == "tokens") {
    facts.vocab_size = options.name == "tokens"
                           ? options.vocab_size
                           : data::open_tokenizer(options.tokenizer, places)->vocab_size();
    facts.context = options.n_positions;
  } else if (options.name == "cifar10" || options.name == "cifar100") {
    facts.num_classes = options.name == "cifar10" ? 10 : 100;
    facts.input_shape = {3, 32, 32};
  } else if (options.name == "mnist" || options.name == "fashion_mnist") {
    facts.num_classes = 10;
    facts.input_shape = {1, 28, 28};
  }
  return facts;
}

data::Datasets stand_in(const nn::Model& model, const nn::ModelFacts& facts) {
  data::Datasets data;
  data.train = std::make_shared<ModelsOwnExamples>(model);
  data.unit = facts.vocab_size > 0 ? "tokens" : "images";
  data.vocab_size = facts.vocab_size;
  data.num_classes = facts.num_classes;
  data.input_shape = facts.input_shape;
  return data;
}

}  // namespace outstep::train
