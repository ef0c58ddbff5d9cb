#include "outstep/method/round_clock.h"

#include <algorithm>
#include <cmath>

#include "outstep/base/errors.h"

namespace outstep::method {
namespace {

constexpr int64_t kCommitsOfTheStart = 4;  // until rounds of replicas of any pace are ordinary
constexpr double kMostMicroBatches = 1e9;  // of a round, on a link that hardly moves
constexpr double kRoundingSlack = 1e-9;    // of a micro-batch: what ends together, ends together

struct Replica {
  ReplicaPace pace;
  double now = 0;
  double idle_seconds = 0;
  int64_t micro_batches = 0;

  void compute(int64_t count) {
    now += static_cast<double>(count) * pace.micro_batch_seconds;
    micro_batches += count;
  }
  void idle_until(double time) {
    idle_seconds += std::max(time - now, 0.0);
    now = std::max(now, time);
  }
};

class Simulation {
 public:
  explicit Simulation(const RoundClockOptions& options) : options_(options) {
    for (const ReplicaPace& pace : options.replicas) replicas_.push_back({.pace = pace});
  }

  void commit() {
    if (options_.overlap == Overlap::everything) {
      for (const ClockRound& round : options_.rounds) overlapped_round(round);
    } else {
      lockstep(options_.rounds.front());
    }
  }

  double committed_at() const { return committed_at_; }
  const std::vector<Replica>& replicas() const { return replicas_; }

 private:
  double last_of(const auto& time_of) const {
    double last = 0;
    for (const Replica& replica : replicas_) last = std::max(last, time_of(replica));
    return last;
  }
  double all_here() const {
    return last_of([](const Replica& replica) { return replica.now; });
  }

  // Computes until communication is over, by Rounds' rule.
  static int64_t count(const Replica& replica, const RoundLength& length, double link_ends) {
    const double seconds = replica.pace.micro_batch_seconds;
    if (length.is_fixed || seconds <= 0) return length.at_least;
    const double wanted_by_link = std::ceil((link_ends - replica.now) / seconds - kRoundingSlack);
    const auto fits = static_cast<int64_t>(std::min(wanted_by_link, kMostMicroBatches));
    const int64_t wanted = std::max(fits, length.at_least);
    return length.at_most > 0 ? std::min(wanted, length.at_most) : wanted;
  }

  void overlapped_round(const ClockRound& round) {
    const double link_ends = all_here() + round.reduce_scatter_seconds + options_.update_seconds +
                             round.all_gather_seconds;
    for (Replica& replica : replicas_) {
      replica.compute(count(replica, round.length, link_ends));
      replica.idle_until(link_ends);
    }
    committed_at_ = link_ends;
  }

  void lockstep(const ClockRound& round) {
    for (Replica& replica : replicas_) {
      await_parameters(replica, round);
      replica.compute(round.length.at_least);
    }
    const double reduced_at = reduced(round);
    committed_at_ = reduced_at + options_.update_seconds;
    for (Replica& replica : replicas_) {
      replica.idle_until(reduced_at);
      replica.now = committed_at_;
    }
    if (options_.overlap != Overlap::none) return;
    committed_at_ += round.all_gather_seconds;
    for (Replica& replica : replicas_) replica.idle_until(committed_at_);
  }

  // Layers wait for their parameters, the first for all of its own, the last until all have come.
  void await_parameters(Replica& replica, const ClockRound& round) const {
    if (options_.overlap != Overlap::backward_and_forward) return;
    const double first = std::min(options_.first_layer_seconds, round.all_gather_seconds);
    const double rest = round.all_gather_seconds - first;
    replica.idle_until(replica.now + first + std::max(rest - replica.pace.forward_seconds, 0.0));
  }

  // When the gradients' sum is there.
  double reduced(const ClockRound& round) const {
    const double gathering = options_.overlap == Overlap::backward ? round.all_gather_seconds : 0;
    const double all_seconds = round.reduce_scatter_seconds + gathering;
    if (options_.overlap == Overlap::none) return all_here() + all_seconds;
    const double last_seconds = std::min(options_.first_layer_seconds, all_seconds);
    const double first_is_final =
        last_of([](const Replica& replica) { return replica.now - replica.pace.ready_seconds; });
    return std::max(all_here(), first_is_final + all_seconds - last_seconds) + last_seconds;
  }

  const RoundClockOptions& options_;
  std::vector<Replica> replicas_;
  double committed_at_ = 0;
};

}  // namespace

RoundTimes simulate(const RoundClockOptions& options) {
  check(!options.replicas.empty() && !options.rounds.empty() && options.num_commits > 0,
        "a clock has replicas, rounds and commits");
  Simulation simulation(options);
  for (int64_t i = 0; i < kCommitsOfTheStart; ++i) simulation.commit();
  const double begin = simulation.committed_at();
  const std::vector<Replica> before = simulation.replicas();
  for (int64_t i = 0; i < options.num_commits; ++i) simulation.commit();

  const auto num_commits = static_cast<double>(options.num_commits);
  RoundTimes times{.commit_seconds = (simulation.committed_at() - begin) / num_commits};
  double all_micro_batches = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    const Replica& after = simulation.replicas()[i];
    const auto added = static_cast<double>(after.micro_batches - before[i].micro_batches);
    times.micro_batches.push_back(added / num_commits);
    times.idle_seconds.push_back((after.idle_seconds - before[i].idle_seconds) / num_commits);
    all_micro_batches += added / num_commits;
  }
  times.seconds_per_micro_batch = times.commit_seconds / all_micro_batches;
  return times;
}

}  // namespace outstep::method
