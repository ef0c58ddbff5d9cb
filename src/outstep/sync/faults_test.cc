#include <thread>

#include "outstep/comm/faulty.h"
#include "outstep/sync/testing.h"

// One transfer of one rank goes wrong, at any point of a step: every rank leaves with a CommError,
// and no thread is left behind.

namespace outstep::sync {
namespace {

using comm::Fault;
using testing::Replica;

constexpr int kNumRanks = 3;

// What each rank's error said; "" if it had none.
std::vector<std::string> complaints(const std::string& sync, const Fault& fault,
                                    std::chrono::milliseconds deadline) {
  std::vector<std::string> result(kNumRanks);
  auto groups = comm::local_groups("replica", kNumRanks, deadline);
  groups[1] = std::make_unique<comm::Faulty>(std::move(groups[1]), fault);
  std::vector<std::jthread> threads;
  for (size_t rank = 0; rank < kNumRanks; ++rank) {
    threads.emplace_back([&, rank, group = std::move(groups[rank])] {
      at::set_num_threads(1);
      try {
        Replica replica(*group,
                        {.sync = {.name = sync}, .sizes = {257, 4099, 31}, .accumulation = 2});
        replica.steps(3);
        replica.pause();  // what is still on its way
      } catch (const CommError& error) {
        result[rank] = error.what();
      }
    });
  }
  threads.clear();  // joins
  return result;
}

class Faults : public ::testing::TestWithParam<std::tuple<std::string, int64_t>> {};

TEST_P(Faults, AFailedTransferEndsEveryRank) {
  const auto& [sync, at_transfer] = GetParam();
  const auto found = complaints(sync, {.kind = Fault::Kind::fail, .at_transfer = at_transfer},
                                std::chrono::seconds(30));
  for (const std::string& complaint : found) EXPECT_NE(complaint, "");
}

TEST_P(Faults, ATransferThatHangsEndsEveryRankAtTheDeadline) {
  const auto& [sync, at_transfer] = GetParam();
  const auto found = complaints(sync, {.kind = Fault::Kind::hang, .at_transfer = at_transfer},
                                std::chrono::milliseconds(100));
  for (const std::string& complaint : found) EXPECT_NE(complaint, "");
}

INSTANTIATE_TEST_SUITE_P(Sync, Faults,
                         ::testing::Combine(::testing::Values("ddp", "zero1", "zero1_overlap",
                                                              "acco", "dpu", "wp"),
                                            ::testing::Values(0, 1, 2, 3, 5, 8, 11, 17)));

}  // namespace
}  // namespace outstep::sync
