// One rank of a small world, for tests with several processes.
//
//   comm_peer bits     collectives of every kind, size and wire; prints a hash of all results
//   comm_peer threads  the same by --ranks threads of this process; prints each rank's hash
//   comm_peer loop     sums for --steps steps; prints "step N"; a delay in each where asked for
//   comm_peer waiters  three threads wait on one group, one of them for a rank that says nothing
//   comm_peer trio     rank 0 waits for ranks 1 and 2, rank 2 for rank 0; none says anything
//   comm_peer agree    require_agreement on a hash that is another on rank --odd
//
// Options: --backend gloo --deadline_ms 30000 --ranks 2 --steps 10 --length 100000 --delay_ms 0
// --odd -1 --flight FOLDER --link SPEED

#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <map>
#include <mutex>
#include <span>
#include <thread>

#include "outstep/base/errors.h"
#include "outstep/base/hash.h"
#include "outstep/comm/agreement.h"
#include "outstep/comm/collectives.h"
#include "outstep/comm/exchange.h"
#include "outstep/comm/fabric.h"
#include "outstep/comm/local_group.h"

namespace outstep::comm {
namespace {

class Options {
 public:
  explicit Options(std::span<char*> words) {
    for (size_t i = 0; i + 1 < words.size(); i += 2) values_[words[i]] = words[i + 1];
  }
  std::string text(const std::string& name, const std::string& fallback) const {
    const auto found = values_.find("--" + name);
    return found == values_.end() ? fallback : found->second;
  }
  int number(const std::string& name, int fallback) const {
    return std::stoi(text(name, std::to_string(fallback)));
  }

 private:
  std::map<std::string, std::string> values_;
};

void say(const std::string& line) {
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

at::Tensor values_of(int rank, int64_t length) {
  at::Tensor values = at::empty({length});
  float* to = values.mutable_data_ptr<float>();
  uint32_t state = static_cast<uint32_t>(rank) * 2654435761u + static_cast<uint32_t>(length) + 1;
  for (int64_t i = 0; i < length; ++i) {
    state = state * 1664525u + 1013904223u;
    to[i] = static_cast<float>(static_cast<int32_t>(state)) / static_cast<float>(1 << (state % 23));
  }
  return values;
}

uint64_t hash_of_results(Group& group) {
  uint64_t hash = 0;
  const auto add = [&](const at::Tensor& tensor) {
    hash = hash64({static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}, hash);
  };
  const collectives::Cut small = {
      .segment_bytes = 4096, .window_bytes = 16384, .direct_bytes = 1000};
  for (const Wire wire : {Wire::exact, Wire::bf16}) {
    for (const int64_t length : {0, 1, 5, 1000, 100'003, 600'000}) {
      for (const collectives::Cut& cut : {collectives::Cut{}, small}) {
        if (length > 500'000 && cut.segment_bytes < 10'000) continue;  // thousands of segments
        const Shards shards{.total = length, .count = group.size(), .grain = 32};
        at::Tensor tensor = values_of(group.rank(), length);
        at::Tensor shard = at::empty({shards.size(group.rank())});
        at::Tensor whole = at::empty({length});
        collectives::reduce_scatter(group, tensor, shard, shards, {.tag = 1}, wire, cut);
        collectives::all_gather(group, shard, whole, shards, {.tag = 2}, wire, cut);
        collectives::all_reduce(group, tensor, {.tag = 3}, wire, cut);
        add(whole);
        add(tensor);
        collectives::broadcast(group, tensor, group.size() - 1, {.tag = 4}, cut);
        add(tensor);
      }
    }
  }
  const at::Tensor rows = values_of(group.rank(), group.size() * 7).view({group.size(), 7});
  const at::Tensor columns = at::empty({group.size(), 7});
  group.all_to_all(rows, columns, {.tag = 5});
  at::Tensor gathered =
      at::empty({group.size() * group.size() * 7});  // all_to_all's result differs by rank
  group.all_gather(columns.view({-1}), gathered, {.total = gathered.numel(), .count = group.size()},
                   {.tag = 6});
  add(gathered);
  Exchange exchange(group, 2, {.tag = 7});
  exchange.post({{static_cast<double>(group.rank()), 0.5}});
  exchange.post({{static_cast<double>(group.rank()), 1.5}});
  for (const auto& row : exchange.collect()) hash = hash64(std::as_bytes(std::span(row)), hash);
  for (const auto& row : exchange.collect()) hash = hash64(std::as_bytes(std::span(row)), hash);
  group.barrier();
  return hash;
}

void run_loop(Group& group, const Options& options) {
  at::Tensor tensor = at::ones({options.number("length", 100'000)});
  for (int step = 0; step < options.number("steps", 10); ++step) {
    if (group.rank() == 1)
      std::this_thread::sleep_for(std::chrono::milliseconds(options.number("delay_ms", 0)));
    tensor.fill_(1);
    group.all_reduce(tensor, {.tag = 9, .what = "gradients", .step = step});
    check((tensor == group.size()).all().item<bool>(), "the sum is right");
    say(fmt::format("step {}", step));
  }
}

// Rank 1 says nothing after "ready"; on rank 0 three threads wait, each for something else of it.
void run_waiters(Group& group, const Options& options) {
  group.barrier();
  say("ready");
  if (group.rank() == 1) {
    group.recv(at::empty({1}), 0, {.tag = 100, .deadline = std::chrono::hours(1)}).wait();
    return;
  }
  std::mutex mutex;
  std::exception_ptr first;
  const auto waiter = [&](Tag tag, bool polls, std::chrono::milliseconds deadline) {
    try {
      Work work = group.recv(at::empty({1000}), 1, {.tag = tag, .deadline = deadline});
      while (polls && !work.is_done()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      work.wait();
    } catch (const CommError& error) {
      say(fmt::format("thread {}: {}", tag, error.what()));
      const std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
    }
  };
  {
    const std::jthread patient([&] { waiter(1, false, std::chrono::hours(1)); });
    const std::jthread polling([&] { waiter(2, true, std::chrono::hours(1)); });
    const std::jthread hasty(
        [&] { waiter(3, false, std::chrono::milliseconds(options.number("deadline_ms", 500))); });
  }
  std::rethrow_exception(first);
}

void run_trio(Group& group) {
  group.barrier();
  say("ready");
  const auto wait_for = [&](int peer) {
    group.recv(at::empty({1}), peer, {.tag = 100, .deadline = std::chrono::hours(1)}).wait();
  };
  if (group.rank() != 0) return wait_for(0);
  std::exception_ptr error;
  const auto waiter = [&](int peer) {
    try {
      wait_for(peer);
    } catch (const CommError& failure) {
      say(fmt::format("for {}: {}", peer, failure.what()));
      if (peer == 1) error = std::current_exception();
    }
  };
  {
    const std::jthread second([&] { waiter(2); });
    waiter(1);
  }
  if (error) std::rethrow_exception(error);
}

int run_threads(const Options& options) {
  std::mutex mutex;
  run_local_ranks(options.number("ranks", 2), [&](Group& group) {
    const uint64_t hash = hash_of_results(group);
    const std::lock_guard lock(mutex);
    say(fmt::format("bits {:016x}", hash));
  });
  return 0;
}

int run(const std::string& mode, const Options& options) {
  if (mode == "threads") return run_threads(options);
  const World world = world_from_environment();
  const auto fabric =
      connect(world, {.backend = options.text("backend", "gloo"),
                      .deadline = std::chrono::milliseconds(options.number("deadline_ms", 30'000)),
                      .link = options.text("link", "")});
  if (const std::string file = options.text("flight", ""); !file.empty()) {
    fabric->flights()->dump_on_error(fmt::format("{}/flight-{}.json", file, world.rank));
  }
  std::vector<int> everybody;
  for (int rank = 0; rank < world.world_size; ++rank) everybody.push_back(rank);
  const auto group = fabric->new_group("world", everybody);
  if (mode == "bits") say(fmt::format("bits {:016x}", hash_of_results(*group)));
  if (mode == "loop") run_loop(*group, options);
  if (mode == "waiters") run_waiters(*group, options);
  if (mode == "trio") run_trio(*group);
  if (mode == "agree")
    require_agreement(*group, "recipe", options.number("odd", -1) == world.rank ? 2 : 1);
  return 0;
}

}  // namespace
}  // namespace outstep::comm

int main(int argc, char** argv) {
  try {
    return outstep::comm::run(argc > 1 ? argv[1] : "",
                              outstep::comm::Options({argv + 2, argv + std::max(argc, 2)}));
  } catch (const outstep::Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.kind().c_str(), error.what());
    return error.exit_code();
  }
}
