// Times forward + backward of our models, as the peer bench/peers/torch_step.py does for PyTorch:
// same models, batches and precisions. bench/step.py runs both in turns.
//
//   step_bench --model gpt --precision fp32 --threads 1 --seconds 5
//
// Prints one JSON line a setting: model, precision, threads, median/min/max seconds per step, n,
// loss.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/base/memory.h"
#include "outstep/nn/flat_params.h"
#include "outstep/nn/gpt2.h"
#include "outstep/nn/resnet.h"

namespace {

using namespace outstep;

struct Flags {
  std::vector<std::string> models = {"gpt", "resnet18w16"};
  std::vector<std::string> precisions = {"fp32", "bf16"};
  std::vector<int> threads = {1, 2};
  double seconds = 5;
};

struct Workload {
  std::unique_ptr<nn::Model> model;
  at::Tensor inputs, targets;
};

at::Tensor random_integers(int64_t bound, at::IntArrayRef shape) {
  at::Tensor values = at::empty(shape);
  fill_uniform(values, 0, static_cast<double>(bound), {.seed = 1, .purpose = purpose("bench")});
  return values.to(at::kLong);
}

Workload make_workload(const std::string& name) {
  const std::string resnet = "resnet18w";
  if (name == "gpt") {
    const at::Tensor tokens = random_integers(256, {16, 129});
    return {std::make_unique<nn::Gpt2>(nn::Gpt2Options{
                .vocab_size = 256, .n_positions = 128, .n_embd = 256, .n_layer = 4, .n_head = 4}),
            tokens.narrow(1, 0, 128).contiguous(), tokens.narrow(1, 1, 128).contiguous()};
  }
  if (!name.starts_with(resnet))
    throw ConfigError("unknown model \"{}\"; use gpt or resnet18wWIDTH", name);
  at::Tensor images = at::empty({64, 3, 32, 32});
  fill_normal(images, 0, 1, {.seed = 1, .purpose = purpose("bench.images")});
  return {std::make_unique<nn::ResNet>(
              nn::ResNetOptions{.stem = "cifar",
                                .width = std::stoll(name.substr(resnet.size())),
                                .num_classes = 10,
                                .image_size = 32}),
          images.contiguous(at::MemoryFormat::ChannelsLast), random_integers(10, {64})};
}

// Of all threads of this process: unlike the wall clock it does not count what other programs take.
double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double step(const Workload& work, nn::FlatParams& params, bool is_bf16, int64_t number) {
  params.zero_gradients();
  at::Tensor loss;
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, is_bf16);
  nn::ForwardContext context{.training = true, .seed = 1, .micro_batch = number};
  loss = work.model->loss(work.model->forward(work.inputs, context), work.targets).loss;
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  loss.backward();
  params.check_gradients_in_place();
  return loss.item<double>();
}

void measure(const std::string& name, const std::string& precision, int threads, double seconds) {
  at::set_num_threads(threads);
  const Workload work = make_workload(name);
  nn::FlatParams params(*work.model, 1);
  double loss = 0;
  for (int64_t i = 0; i < 3; ++i) loss = step(work, params, precision == "bf16", i);
  std::vector<double> times, cpu_times;
  const Clock::time_point begin = Clock::now();
  while (seconds_since(begin) < seconds || times.size() < 5) {
    const double cpu_start = cpu_seconds();
    const Clock::time_point start = Clock::now();
    step(work, params, precision == "bf16", static_cast<int64_t>(times.size()));
    times.push_back(seconds_since(start));
    cpu_times.push_back(cpu_seconds() - cpu_start);
  }
  std::ranges::sort(times);
  const nlohmann::ordered_json line = {{"program", "outstep"},
                                       {"model", name},
                                       {"precision", precision},
                                       {"threads", threads},
                                       {"median_seconds", times[times.size() / 2]},
                                       {"min_seconds", times.front()},
                                       {"max_seconds", times.back()},
                                       {"min_cpu_seconds", *std::ranges::min_element(cpu_times)},
                                       {"n", times.size()},
                                       {"loss", loss}};
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Times forward + backward of our models");
  app.add_option("--model", flags.models,
                 "gpt, resnet18w16, resnet18w64 (any width); may be repeated");
  app.add_option("--precision", flags.precisions, "fp32, bf16; may be repeated");
  app.add_option("--threads", flags.threads, "Threads; may be repeated");
  app.add_option("--seconds", flags.seconds, "Time for each setting");
  CLI11_PARSE(app, argc, argv);
  try {
    memory::install();
    for (const auto& model : flags.models) {
      for (const auto& precision : flags.precisions) {
        for (const int threads : flags.threads) measure(model, precision, threads, flags.seconds);
      }
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "step_bench: %s: %s\n", error.kind().c_str(), error.what());
    return error.exit_code();
  }
}
