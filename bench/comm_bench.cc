// Times collectives between ranks beside the time that the bytes need on the wire.
//
//   mpirun -n 2 comm_bench --bytes 67108864                            # loopback
//   bench/shaped_link.sh --rate 280mbit -- comm_bench --rate 280mbit   # a real, slow link
//
// The ranks are those of the launcher (torchrun, mpirun, srun). Each result is compared, bit by
// bit, with the sum taken in rank order before anything is timed. Rank 0 prints one JSON line an
// operation: seconds (median, min, max, n; a call's time is that of its slowest rank), and, with
// --rate, those of its bytes on the wire and the ratio. The peer is
// bench/peers/c10d_collectives.py.

#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/base/memory.h"
#include "outstep/base/rng.h"
#include "outstep/base/text.h"
#include "outstep/comm/collectives.h"
#include "outstep/comm/fabric.h"

namespace {

using namespace outstep;

struct Flags {
  std::vector<std::string> operations = {"reduce_scatter", "all_gather",
                                         "reduce_scatter_all_gather", "all_reduce"};
  std::vector<int64_t> bytes = {13'293'568};  // of the whole vector: a GPT of 3,323,392 parameters
  std::string backend = "gloo";
  std::string wire = "exact";
  std::string rate;  // of the link, one direction; empty: unknown
  comm::collectives::Cut cut;
  int iterations = 20;
  int warmup = 3;
};

// Everything one measurement uses. Each rank's input is a function of its rank, so that every rank
// can check the result.
struct Buffers {
  at::Tensor input;   // [total]
  at::Tensor output;  // [total]
  at::Tensor own;     // this rank's shard of output
  comm::Shards shards;
  comm::Wire wire = comm::Wire::exact;
  comm::collectives::Cut cut;
};

at::Tensor values_of(int rank, int64_t length) {
  at::Tensor values = at::empty({length});
  fill_normal(values, 0, 1,
              {.seed = 1, .purpose = purpose("comm_bench"), .stream = static_cast<uint64_t>(rank)});
  return values;
}

Buffers make_buffers(const Flags& flags, const comm::Group& group, int64_t num_bytes) {
  Buffers buffers;
  const int64_t length = num_bytes / 4;
  buffers.shards = {.total = length, .count = group.size(), .grain = 32};
  buffers.input = values_of(group.rank(), length);
  buffers.output = at::zeros({length});
  buffers.own = buffers.output.narrow(0, buffers.shards.begin(group.rank()),
                                      buffers.shards.size(group.rank()));
  buffers.wire = flags.wire == "bf16" ? comm::Wire::bf16 : comm::Wire::exact;
  buffers.cut = flags.cut;
  return buffers;
}

void run_operation(const std::string& operation, comm::Group& group, Buffers& b) {
  using namespace comm::collectives;
  if (operation.starts_with("reduce_scatter")) {
    reduce_scatter(group, b.input, b.own, b.shards, {.tag = 1}, b.wire, b.cut);
  }
  if (operation.ends_with("all_gather"))
    all_gather(group, b.own, b.output, b.shards, {.tag = 2}, b.wire, b.cut);
  if (operation == "all_reduce") all_reduce(group, b.output, {.tag = 3}, b.wire, b.cut);
}

void verify(comm::Group& group, Buffers& b) {
  const auto contribution = [&](int rank) {
    const at::Tensor values = values_of(rank, b.shards.total);
    return b.wire == comm::Wire::bf16 ? values.to(at::kBFloat16).to(at::kFloat) : values;
  };
  at::Tensor expected = contribution(0);
  for (int rank = 1; rank < group.size(); ++rank) expected.add_(contribution(rank));
  const at::Tensor rounded =
      b.wire == comm::Wire::bf16 ? expected.to(at::kBFloat16).to(at::kFloat) : expected;
  run_operation("reduce_scatter", group, b);
  const bool is_shard_right = at::equal(
      b.own, expected.narrow(0, b.shards.begin(group.rank()), b.shards.size(group.rank())));
  run_operation("all_gather", group, b);
  const bool is_whole_right = at::equal(b.output, rounded);
  b.output.copy_(b.input);
  run_operation("all_reduce", group, b);
  check(is_shard_right && is_whole_right && at::equal(b.output, rounded),
        "results are sums in rank order");
  b.output.zero_();
}

// Bytes that a rank sends, and receives, at least.
double wire_bytes(const std::string& operation, const Buffers& b) {
  const double share = static_cast<double>(b.shards.count - 1) / b.shards.count;
  const double once =
      share * static_cast<double>(b.shards.total) * (b.wire == comm::Wire::bf16 ? 2 : 4);
  const bool is_both = operation == "reduce_scatter_all_gather" || operation == "all_reduce";
  return is_both ? 2 * once : once;
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void measure(const std::string& operation, const Flags& flags, comm::Group& group, Buffers& b) {
  std::vector<double> times;
  const double cpu_begin = cpu_seconds();
  for (int i = -flags.warmup; i < flags.iterations; ++i) {
    group.barrier();
    const Clock::time_point begin = Clock::now();
    run_operation(operation, group, b);
    at::Tensor seconds = at::zeros({group.size()}, at::kDouble);
    seconds[group.rank()] = seconds_since(begin);
    group.all_reduce(seconds);
    if (i >= 0) times.push_back(seconds.max().item<double>());
  }
  std::ranges::sort(times);
  const double median = times[times.size() / 2];
  nlohmann::ordered_json line = {
      {"program", "outstep"},
      {"operation", operation},
      {"backend", flags.backend},
      {"wire", flags.wire},
      {"world_size", group.size()},
      {"bytes", b.shards.total * 4},
      {"segment_bytes", flags.cut.segment_bytes},
      {"window_bytes", flags.cut.window_bytes},
      {"median_seconds", median},
      {"min_seconds", times.front()},
      {"max_seconds", times.back()},
      {"n", times.size()},
      {"cpu_seconds_per_call", (cpu_seconds() - cpu_begin) / (flags.iterations + flags.warmup)}};
  if (!flags.rate.empty()) {
    const double wire_seconds = wire_bytes(operation, b) * 8 / parse_bits_per_second(flags.rate);
    line["wire_seconds"] = wire_seconds;
    line["ratio_to_wire"] = median / wire_seconds;
  }
  if (group.rank() != 0) return;
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

void run(const Flags& flags) {
  memory::install();  // as outstep does: freed memory is kept
  at::set_num_threads(1);
  const comm::World world = comm::world_from_environment();
  const auto fabric = comm::connect(world, {.backend = flags.backend, .record_flights = false});
  std::vector<int> everybody(static_cast<size_t>(world.world_size));
  std::iota(everybody.begin(), everybody.end(), 0);
  const auto group = fabric->new_group("bench", everybody);
  for (const int64_t num_bytes : flags.bytes) {
    Buffers buffers = make_buffers(flags, *group, num_bytes);
    verify(*group, buffers);
    for (const std::string& operation : flags.operations)
      measure(operation, flags, *group, buffers);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Times collectives between ranks");
  app.add_option("--operation", flags.operations,
                 "reduce_scatter, all_gather, reduce_scatter_all_gather, all_reduce");
  app.add_option("--bytes", flags.bytes, "Size of the vector; may be repeated");
  app.add_option("--backend", flags.backend, "gloo or mpi");
  app.add_option("--wire", flags.wire, "exact or bf16")->check(CLI::IsMember({"exact", "bf16"}));
  app.add_option("--rate", flags.rate, "Rate of the link, as 280mbit, to compare with");
  app.add_option("--segment_bytes", flags.cut.segment_bytes, "Size of a segment on the wire");
  app.add_option("--window_bytes", flags.cut.window_bytes, "Scratch for segments under way");
  app.add_option("--direct_bytes", flags.cut.direct_bytes,
                 "Size up to which all_reduce has one phase");
  app.add_option("--iterations", flags.iterations, "Calls that are timed");
  app.add_option("--warmup", flags.warmup, "Calls before these");
  CLI11_PARSE(app, argc, argv);
  try {
    run(flags);
  } catch (const Error& error) {
    std::fprintf(stderr, "comm_bench: %s: %s\n", error.kind().c_str(), error.what());
    return error.exit_code();
  }
}
