// Times what a shuffle takes beside its exchange: its plan, its lists, and its gather and scatter,
// these beside plain loops that read and write as many elements at the same positions, in turns in
// the same run. Before each measurement all caches are filled with something else, as a training
// step would.
//
//   taskset -c 0 bench/ensemble_bench --resnet 50 --p 0.05 --members 2 --members 10
//
// Prints one JSON line for each number of members and part: milliseconds of plan and lists,
// nanoseconds an element of pack and unpack, those of the bound, and the ratio of the medians
// (median, min, max, n), all of processor time. What gather and scatter do is checked before they
// are timed.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <functional>
#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/base/memory.h"
#include "outstep/ensemble/plan.h"
#include "outstep/ensemble/shuffle.h"
#include "outstep/nn/flat_params.h"
#include "outstep/nn/resnet.h"

namespace {

using namespace outstep;
using ensemble::Lane;
using ensemble::Plan;
using ensemble::Shuffle;

struct Flags {
  std::vector<int> members = {2, 3, 5, 10};
  int depth = 50;      // of the ResNet
  int64_t width = 64;  // of its first stage
  double p = 0.05;     // of its first layer, decreasing
  int repetitions = 31;
  int64_t evicting_bytes = 256 << 20;
};

// What times are taken of, and how.
struct Bench {
  explicit Bench(const Flags& flags)
      : repetitions(flags.repetitions),
        p(flags.p),
        model({.depth = flags.depth, .width = flags.width}),
        params(model, 1),
        layers(ensemble::layers_of(model, params)),
        probabilities(
            ensemble::depth_factors(ensemble::Depth::decreasing, ensemble::count_layers(model))),
        evicting(at::zeros({flags.evicting_bytes / 4})) {
    for (double& of_layer : probabilities) of_layer *= flags.p;
  }

  const int repetitions;
  const double p;
  nn::ResNet model;
  nn::FlatParams params;
  const std::vector<ensemble::Layer> layers;
  std::vector<double> probabilities;
  at::Tensor evicting;
};

// ---- the bound: one element after another, at ascending positions ----

float read_at(const float* values, const std::vector<int64_t>& positions) {
  float sum = 0;
  for (const int64_t position : positions) sum += values[position];
  return sum;
}

void write_at(float* values, const std::vector<int64_t>& positions) {
  for (const int64_t position : positions) values[position] = 1;
}

// ---- measuring ----

// Of this thread: unlike the wall clock it does not count what other programs take.
double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Seconds, ascending, of each of the works.
std::vector<std::vector<double>> times_of(const Bench& bench,
                                          const std::vector<std::function<void()>>& works) {
  std::vector<std::vector<double>> times(works.size());
  for (int i = 0; i < bench.repetitions; ++i) {
    for (size_t w = 0; w < works.size(); ++w) {
      bench.evicting.add_(1);
      const double begin = cpu_seconds();
      works[w]();
      times[w].push_back(cpu_seconds() - begin);
    }
  }
  for (auto& of_work : times) std::ranges::sort(of_work);
  return times;
}

double median(const std::vector<double>& sorted) { return sorted[sorted.size() / 2]; }

nlohmann::ordered_json line_of(const char* what, const Bench& bench, const Plan& plan,
                               const std::vector<double>& times, const char* unit,
                               double units_per_second) {
  const std::string suffix = std::string("_") + unit;
  return {{"program", "outstep"},
          {"what", what},
          {"parameters", bench.params.num_parameters()},
          {"p", bench.p},
          {"members", plan.num_members},
          {"positions", plan.size()},
          {"median" + suffix, median(times) * units_per_second},
          {"min" + suffix, times.front() * units_per_second},
          {"max" + suffix, times.back() * units_per_second},
          {"n", times.size()}};
}

void print(const nlohmann::ordered_json& line) {
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

// Of pack or unpack, for each element that it moves.
void print_beside_bound(const char* what, const Bench& bench, const Plan& plan, int64_t moved,
                        const std::vector<double>& times, const std::vector<double>& bounds) {
  const double units = 1e9 / static_cast<double>(moved);
  nlohmann::ordered_json line = line_of(what, bench, plan, times, "ns", units);
  line["moved"] = moved;
  line["bound_median_ns"] = median(bounds) * units;
  line["bound_min_ns"] = bounds.front() * units;
  line["ratio_to_bound"] = median(times) / median(bounds);
  print(line);
}

// What a message holds is what lies at the positions that move, and it is written there again.
void verify(const Shuffle& shuffle, const std::vector<Lane>& lanes,
            const std::vector<int64_t>& positions) {
  const at::Tensor values = lanes[0].values;
  const at::Tensor before = values.clone();
  const at::Tensor index = at::tensor(at::IntArrayRef(positions), at::kLong);
  const at::Tensor packed = shuffle.pack(lanes);
  const at::Tensor expected = values.index_select(0, index);
  check(at::equal(std::get<0>(packed.sort()), std::get<0>(expected.sort())),
        "pack takes what lies at the positions that move");
  shuffle.unpack(at::full_like(packed, 2e30), lanes);
  check(at::equal(values, before.index_fill(0, index, 2e30)),
        "unpack writes at the positions that move, and nowhere else");
  values.copy_(before);
}

void measure(Bench& bench, int num_members) {
  constexpr double kMilliseconds = 1e3;
  const ensemble::PlanOptions options{.seed = 1, .step = 17, .num_members = num_members};
  const auto make_plan = [&] {
    return ensemble::make_plan(bench.layers, bench.probabilities, options);
  };
  const Plan plan = make_plan();
  const std::vector<Lane> lanes = {{.values = bench.params.values()}};
  const Shuffle shuffle(plan, 0, lanes);
  std::vector<int64_t> positions;
  for (int64_t k = 0; k < plan.size(); ++k) {
    if (plan.source(k, 0) != 0) positions.push_back(plan.positions[static_cast<size_t>(k)]);
  }
  verify(shuffle, lanes, positions);

  const at::Tensor message = shuffle.pack(lanes);
  float* values = bench.params.values().data_ptr<float>();
  volatile float sum = 0;  // keeps the reads
  const auto times = times_of(
      bench, {[&] { make_plan(); }, [&] { Shuffle(plan, 0, lanes); }, [&] { shuffle.pack(lanes); },
              [&] { sum = read_at(values, positions); }, [&] { shuffle.unpack(message, lanes); },
              [&] { write_at(values, positions); }});
  print(line_of("plan", bench, plan, times[0], "ms", kMilliseconds));
  print(line_of("lists", bench, plan, times[1], "ms", kMilliseconds));
  print_beside_bound("pack", bench, plan, shuffle.num_moved(), times[2], times[3]);
  print_beside_bound("unpack", bench, plan, shuffle.num_moved(), times[4], times[5]);
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Times the parts of a shuffle that one rank does by itself, on one thread");
  app.add_option("--members", flags.members, "Of the population; may be repeated")
      ->check(CLI::PositiveNumber);
  app.add_option("--resnet", flags.depth,
                 "Layers of the ResNet whose parameters are shuffled: 18, 34, 50");
  app.add_option("--width", flags.width, "Channels of its first stage")->check(CLI::PositiveNumber);
  app.add_option("--p", flags.p,
                 "Probability of an element of the first layer; goes down to 0 at the last");
  app.add_option("--repetitions", flags.repetitions, "Measurements of each part")
      ->check(CLI::PositiveNumber);
  app.add_option("--evicting-bytes", flags.evicting_bytes,
                 "Written before each measurement: several times the largest cache")
      ->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    memory::install();
    at::set_num_threads(1);
    const at::NoGradGuard no_grad;
    Bench bench(flags);
    for (const int members : flags.members) measure(bench, members);
  } catch (const Error& error) {
    std::fprintf(stderr, "ensemble_bench: %s: %s\n", error.kind().c_str(), error.what());
    return error.exit_code();
  }
}
