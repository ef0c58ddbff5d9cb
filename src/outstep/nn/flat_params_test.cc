#include "outstep/nn/flat_params.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "outstep/nn/testing.h"

namespace outstep::nn {
namespace {

class Scale : public PlainBlock {
 public:
  Scale(const std::string& name, int64_t size, Parameter* shared = nullptr) : PlainBlock(name) {
    gain = &add_parameter(name + ".gain", {size}, init::normal(1), Decay::no);
    bias = &add_parameter(name + ".bias", {3, 1}, init::constant(0.5));
    count = &add_buffer(name + ".count", {2}, 7);
    if (shared) share_parameter(*shared);
  }
  at::Tensor transform(const at::Tensor& x, ForwardContext&) override {
    return x * gain->tensor + bias->tensor.sum();
  }

  Parameter* gain;
  Parameter* bias;
  Buffer* count;
};

class TwoScales : public Model {
 public:
  explicit TwoScales(bool shares = true) {
    auto first = std::make_unique<Scale>("first", 5);
    Parameter* shared = shares ? first->gain : nullptr;
    blocks.push_back(std::move(first));
    blocks.push_back(std::make_unique<Scale>("second", 5, shared));
  }
  const std::string& family() const override { return family_; }
  void require_takes(const ModelFacts&, const OriginOf&) const override {}
  nlohmann::ordered_json config() const override { return {}; }
  at::Tensor example_input(int64_t batch) const override { return at::ones({batch, 5}); }
  at::Tensor example_target(int64_t batch) const override { return at::zeros({batch}, at::kLong); }

 private:
  std::string family_ = "test";
};

std::map<std::string, at::Tensor> copies_of(const FlatParams& params) {
  std::map<std::string, at::Tensor> copies;
  for (const auto& [name, tensor] : params.named_tensors()) copies[name] = tensor.clone();
  return copies;
}

TEST(FlatParams, PlacesEachParameterOnceAtAnAlignedOffset) {
  TwoScales model;
  const FlatParams params(model, 1);
  ASSERT_EQ(params.entries().size(), 4u);
  EXPECT_EQ(params.num_parameters(), 16);
  EXPECT_EQ(params.num_parameters(), model.num_parameters());
  EXPECT_EQ(params.size(), 64);
  const std::vector<std::string> names = {"first.gain", "first.bias", "second.gain", "second.bias"};
  for (size_t i = 0; i < 4; ++i) {
    const FlatParams::Entry& entry = params.entries()[i];
    EXPECT_EQ(entry.name, names[i]);
    EXPECT_EQ(entry.offset, static_cast<int64_t>(i) * FlatParams::kAlignment);
    EXPECT_EQ(entry.block, static_cast<int>(i / 2));
    EXPECT_EQ(entry.decay, i % 2 == 0 ? Decay::no : Decay::yes);
    const at::Tensor& tensor = params.parameters()[i]->tensor;
    EXPECT_EQ(tensor.data_ptr<float>(), params.values().data_ptr<float>() + entry.offset);
    EXPECT_TRUE(tensor.requires_grad() && tensor.is_leaf() && !tensor.is_view());
  }
}

TEST(FlatParams, PaddingIsZeroAndStaysZero) {
  TwoScales model;
  FlatParams params(model, 1);
  ForwardContext context;
  model.forward(model.example_input(2), context).sum().backward();
  for (const at::Tensor& flat : {params.values(), params.gradients()}) {
    EXPECT_EQ(flat.narrow(0, 5, 11).count_nonzero().item<int64_t>(), 0);
    EXPECT_EQ(flat.narrow(0, 19, 13).count_nonzero().item<int64_t>(), 0);
  }
}

TEST(FlatParams, InitialValuesDependOnSeedAndNameAlone) {
  TwoScales model, again(false), other;
  const FlatParams a(model, 1), b(again, 1), c(other, 2);
  EXPECT_TRUE(bits_equal(a.values(), b.values()));
  EXPECT_FALSE(
      bits_equal(find_parameter(a, "first.gain").tensor, find_parameter(c, "first.gain").tensor));
  EXPECT_FALSE(
      bits_equal(find_parameter(a, "first.gain").tensor, find_parameter(a, "second.gain").tensor));
  EXPECT_EQ(find_parameter(a, "first.bias").tensor.sum().item<float>(), 1.5f);
  EXPECT_EQ(a.buffers().sum().item<float>(), 28.f);
}

TEST(FlatParams, BackwardAddsIntoTheFlatGradient) {
  TwoScales model;
  FlatParams params(model, 1);
  ForwardContext context;
  const auto backward = [&] { model.forward(model.example_input(2), context).sum().backward(); };
  backward();
  params.check_gradients_in_place();
  const at::Tensor once = params.gradients().clone();
  EXPECT_EQ(params.gradients().narrow(0, 48, 3).sum().item<float>(), 30.f);
  backward();
  params.check_gradients_in_place();
  EXPECT_TRUE(bits_equal(params.gradients(), once * 2));
  params.zero_gradients();
  EXPECT_EQ(params.gradients().count_nonzero().item<int64_t>(), 0);
}

TEST(FlatParams, NoticesAGradientThatLeft) {
  TwoScales model;
  const FlatParams params(model, 1);
  params.parameters()[2]->tensor.mutable_grad() = at::ones({5});
  EXPECT_THAT(
      text_of<InternalError>([&] { params.check_gradients_in_place(); }),
      ::testing::HasSubstr("the gradient of second.gain has left the flat gradient vector"));
}

TEST(FlatParams, SavesAndLoads) {
  TwoScales model, other;
  const FlatParams params(model, 1);
  params.buffers().fill_(3);
  FlatParams loaded(other, 2);
  const auto path = std::filesystem::path(::testing::TempDir()) / "flat_params.safetensors";
  io::write_safetensors(path, params.named_tensors());
  loaded.load(io::Safetensors(path));
  EXPECT_TRUE(bits_equal(loaded.values(), params.values()));
  EXPECT_TRUE(bits_equal(loaded.buffers(), params.buffers()));
  std::filesystem::remove(path);
}

TEST(FlatParams, LoadsOtherFloatingPointTypes) {
  TwoScales model;
  FlatParams params(model, 1);
  auto tensors = copies_of(params);
  tensors["first.gain"] = at::full({5}, 1.5).to(at::kBFloat16);
  params.load(tensors, "there");
  EXPECT_EQ(find_parameter(params, "first.gain").tensor.sum().item<float>(), 7.5f);
}

TEST(FlatParams, RefusesWhatDoesNotFitAndThenChangesNothing) {
  TwoScales model;
  FlatParams params(model, 1);
  const at::Tensor before = params.values().clone();
  const auto complaint = [&](const std::function<void(std::map<std::string, at::Tensor>&)>& spoil) {
    auto tensors = copies_of(params);
    for (auto& [name, tensor] : tensors) tensor.add_(1);
    spoil(tensors);
    const std::string text = text_of<DataError>([&] { params.load(tensors, "m.safetensors"); });
    EXPECT_TRUE(bits_equal(params.values(), before)) << text;
    return text;
  };
  EXPECT_EQ(complaint([](auto& t) { t.erase("second.bias"); }),
            "m.safetensors: tensor \"second.bias\" of this model is missing");
  EXPECT_EQ(complaint([](auto& t) { t["second.bias"] = at::ones({1, 3}); }),
            "m.safetensors: tensor \"second.bias\" has shape [1, 3], this model needs [3, 1]");
  EXPECT_EQ(complaint([](auto& t) { t["third.bias"] = at::ones({3}); }),
            "m.safetensors: tensor \"third.bias\" has no place in this model");
  EXPECT_EQ(complaint([](auto& t) { t["first.count"] = at::ones({2}, at::kLong); }),
            "m.safetensors: tensor \"first.count\" is of type Long, this model needs "
            "floating-point numbers");
}

}  // namespace
}  // namespace outstep::nn
