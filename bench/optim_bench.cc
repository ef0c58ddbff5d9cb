// Times the fused optimizers and the gradient norm beside the memory bandwidth they could at best
// use: loops over as many vectors, read and written alike, with an addition each, taken in turns in
// the same run. The peer is bench/peers/torch_optim.py.
//
//   optim_bench --size 3300000 --threads 1 --seconds 3
//
// Prints one JSON line a setting: loop, size, threads, nanoseconds per element (median, min, max,
// n), those of the bound, and the ratio of the medians. Each result is compared with ATen's
// operators, bit by bit, before it is timed.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/base/parallel.h"
#include "outstep/base/rng.h"
#include "outstep/optim/adamw.h"
#include "outstep/optim/norm.h"
#include "outstep/optim/sgd.h"
#include "outstep/optim/simd.h"

namespace {

using namespace outstep;
using optim::Kernels;

struct Flags {
  std::vector<std::string> loops = {"adamw", "sgd", "norm"};
  std::vector<int64_t> sizes = {3'300'000, 25'000'000, 124'000'000};
  std::vector<int> threads = {1, 2};
  double seconds = 3;
};

// ---- the bound: the first `written` of `vectors` are read and written, the others read
// --------------------------------

template <int kVectors, int kWritten>
OUTSTEP_INLINE void stream_loop(float* const* vectors, int64_t begin, int64_t end) {
  float* at[kVectors];
  for (int v = 0; v < kVectors; ++v) at[v] = vectors[v];
  optim::simd::F32x16 sum = {};
  for (int64_t i = begin; i + optim::simd::kLanes <= end; i += optim::simd::kLanes) {
    optim::simd::F32x16 x[kVectors];
    for (int v = 0; v < kVectors; ++v) optim::simd::load(x[v], at[v] + i);
    for (int v = 0; v < kWritten; ++v) optim::simd::store(x[v] + x[kVectors - 1], at[v] + i);
    if (kWritten == 0) sum += x[0];
  }
  if (kWritten == 0 && sum[0] == 12345.678f) at[0][begin] = 0;  // keeps the reads
}

template <int kVectors, int kWritten>
void stream_baseline(float* const* vectors, int64_t begin, int64_t end) {
  stream_loop<kVectors, kWritten>(vectors, begin, end);
}
template <int kVectors, int kWritten>
OUTSTEP_TARGET_AVX2 void stream_avx2(float* const* vectors, int64_t begin, int64_t end) {
  stream_loop<kVectors, kWritten>(vectors, begin, end);
}
template <int kVectors, int kWritten>
OUTSTEP_TARGET_AVX512 void stream_avx512(float* const* vectors, int64_t begin, int64_t end) {
  stream_loop<kVectors, kWritten>(vectors, begin, end);
}

template <int kVectors, int kWritten>
std::function<void()> bound(const std::vector<at::Tensor>& tensors) {
  std::vector<float*> vectors;
  for (const at::Tensor& tensor : tensors) vectors.push_back(tensor.data_ptr<float>());
  const auto loop =
      optim::simd::pick(optim::best_kernels(), stream_baseline<kVectors, kWritten>,
                        stream_avx2<kVectors, kWritten>, stream_avx512<kVectors, kWritten>);
  const int64_t size = tensors[0].numel();
  return [=, alive = tensors] {
    parallel_for(size, 32 * 1024,
                 [&](int64_t begin, int64_t end) { loop(vectors.data(), begin, end); });
  };
}

// ---- what is measured
// --------------------------------------------------------------------------------------------------

struct Work {
  std::function<void()> loop;
  std::function<void()> bound;
};

at::Tensor random(int64_t size, uint64_t stream) {
  at::Tensor values = at::empty({size});
  fill_uniform(values, -1, 1, {.seed = 1, .purpose = purpose("optim_bench"), .stream = stream});
  return values;
}

std::unique_ptr<optim::Optimizer> make_optimizer(const std::string& name, int64_t size,
                                                 Kernels kernels = optim::best_kernels()) {
  const std::vector<optim::Segment> segments = {{{0, size}, true}};
  if (name == "sgd") {
    return std::make_unique<optim::Sgd>(optim::SgdOptions{.weight_decay = 1e-4}, segments, kernels);
  }
  return std::make_unique<optim::Adamw>(optim::AdamwOptions{}, segments, kernels);
}

void update(const optim::Optimizer& optimizer, const at::Tensor& gradient, const at::Tensor& params,
            optim::State& state) {
  optimizer.update({.gradient = gradient,
                    .gradient_scale = 0.5,
                    .lr = 1e-6,
                    .params_in = params,
                    .params_out = params,
                    .state_in = &state,
                    .state_out = &state});
}

void verify(const std::string& name) {
  constexpr int64_t kSize = 100'003;
  std::vector<at::Tensor> results;
  for (Kernels kernels : {optim::best_kernels(), Kernels::operators}) {
    const auto optimizer = make_optimizer(name, kSize, kernels);
    optim::State state = optimizer->make_state({0, kSize});
    at::Tensor params = random(kSize, 1);
    for (int i = 0; i < 3; ++i) update(*optimizer, random(kSize, 2), params, state);
    results.push_back(params);
  }
  check(at::equal(results[0], results[1]), "the fused loop has the bits of ATen's operators");
}

Work make_work(const std::string& name, int64_t size) {
  at::Tensor gradient = random(size, 0);
  if (name == "norm") {
    return {.loop = [=] { optim::squared_norm(gradient); }, .bound = bound<1, 0>({gradient})};
  }
  verify(name);
  auto optimizer = std::shared_ptr(make_optimizer(name, size));
  auto state = std::make_shared<optim::State>(optimizer->make_state({0, size}));
  at::Tensor params = random(size, 1);
  std::vector<at::Tensor> vectors = {params};
  vectors.insert(vectors.end(), state->vectors.begin(), state->vectors.end());
  vectors.push_back(at::zeros({size}));  // stands for the gradient: the bound leaves all as it is
  return {.loop = [=] { update(*optimizer, gradient, params, *state); },
          .bound = name == "sgd" ? bound<3, 2>(vectors) : bound<4, 3>(vectors)};
}

double time_of(const std::function<void()>& body) {
  const Clock::time_point begin = Clock::now();
  body();
  return seconds_since(begin);
}

void measure(const std::string& name, int64_t size, int threads, double seconds) {
  at::set_num_threads(threads);
  const Work work = make_work(name, size);
  for (int i = 0; i < 2; ++i) {
    work.loop();
    work.bound();
  }
  std::vector<double> times, bounds;
  const Clock::time_point begin = Clock::now();
  while (seconds_since(begin) < seconds || times.size() < 5) {
    times.push_back(time_of(work.loop) / static_cast<double>(size) * 1e9);
    bounds.push_back(time_of(work.bound) / static_cast<double>(size) * 1e9);
  }
  std::ranges::sort(times);
  std::ranges::sort(bounds);
  const double median = times[times.size() / 2];
  const double bound_median = bounds[bounds.size() / 2];
  const nlohmann::ordered_json line = {{"program", "outstep"},
                                       {"loop", name},
                                       {"size", size},
                                       {"threads", threads},
                                       {"kernels", to_string(optim::best_kernels())},
                                       {"median_ns", median},
                                       {"min_ns", times.front()},
                                       {"max_ns", times.back()},
                                       {"n", times.size()},
                                       {"bound_median_ns", bound_median},
                                       {"bound_min_ns", bounds.front()},
                                       {"ratio_to_bound", median / bound_median}};
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Times the fused optimizers and the gradient norm");
  app.add_option("--loop", flags.loops, "adamw, sgd, norm; may be repeated");
  app.add_option("--size", flags.sizes, "Elements; may be repeated");
  app.add_option("--threads", flags.threads, "Threads; may be repeated");
  app.add_option("--seconds", flags.seconds, "Time for each setting");
  CLI11_PARSE(app, argc, argv);
  try {
    for (const auto& loop : flags.loops) {
      for (const int64_t size : flags.sizes) {
        for (const int threads : flags.threads) measure(loop, size, threads, flags.seconds);
      }
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "optim_bench: %s: %s\n", error.kind().c_str(), error.what());
    return error.exit_code();
  }
}
