#include "outstep/comm/wrapped_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "outstep/base/errors.h"
#include "outstep/comm/faulty.h"
#include "outstep/comm/local_group.h"
#include "outstep/comm/throttle.h"

namespace outstep::comm {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Wraps the groups of a local world and plays its ranks on threads.
void run_wrapped(std::vector<std::unique_ptr<Group>> groups,
                 const std::function<void(Group&)>& body) {
  std::vector<std::jthread> threads;
  for (std::unique_ptr<Group>& group : groups) {
    threads.emplace_back([&] {
      body(*group);
      group.reset();
    });
  }
}

TEST(Link, ReadsRateAndLatency) {
  EXPECT_EQ(parse_link("200mbit").bits_per_second, 200e6);
  EXPECT_EQ(parse_link("200mbit").latency, 0ms);
  EXPECT_EQ(parse_link("1gbit,5ms").latency, 5ms);
  EXPECT_EQ(parse_link("1gbit,0.5ms").latency, std::chrono::microseconds(500));
  for (const char* broken : {"", "fast", "200mbit,", "200mbit,5", "200mbit,-1ms", "200mbit,5ms,1",
                             "200mbit,nanms", "0mbit"}) {
    EXPECT_THROW(parse_link(broken), ConfigError) << broken;
  }
}

TEST(Link, KeepsOrderAndTakesTheTimeOfTheBytes) {
  Link link({.bits_per_second = 8e6, .latency = 1ms});  // a byte a microsecond
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<int> arrived;
  const auto begun = Clock::now();
  for (int message = 0; message < 3; ++message) {
    link.send(2000, [&, message] {
      const std::lock_guard lock(mutex);
      arrived.push_back(message);
      changed.notify_all();
    });
  }
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return arrived.size() == 3; });
  EXPECT_THAT(arrived, ::testing::ElementsAre(0, 1, 2));
  EXPECT_GE(Clock::now() - begun, 7ms);  // no upper bound: the machine may be busy
}

TEST(Throttled, ChangesTimesButNotResults) {
  std::vector<std::unique_ptr<Group>> groups;
  for (auto& group : local_groups("world", 3)) {
    groups.push_back(std::make_unique<Throttled>(
        std::move(group), std::make_shared<Link>(parse_link("1gbit,0.1ms"))));
  }
  run_wrapped(std::move(groups), [](Group& group) {
    at::Tensor tensor = at::full({30'000}, group.rank() + 1.0);
    group.all_reduce(tensor);
    EXPECT_TRUE(at::all(tensor == 6).item<bool>());
    group.barrier();
    EXPECT_GT(group.bytes_sent(), 2 * 2 * 30'000 / 3 * 4);
  });
}

TEST(Throttled, AbortWakesWhatIsStillCrossing) {
  auto groups = local_groups("pair", 2);
  Throttled slow(std::move(groups[0]), std::make_shared<Link>(parse_link("1kbit")));
  Work send = slow.send(at::zeros({1000}), 1, {.tag = 3});
  EXPECT_FALSE(send.is_done());
  slow.abort();
  EXPECT_TRUE(send.is_done());
  EXPECT_THAT(message_of([&] { send.wait(); }), HasSubstr("when this rank aborted the group"));
}

TEST(Throttled, ADeadlineThatPassesEndsTheGroup) {
  auto inner = local_groups("pair", 2);
  Throttled group(std::move(inner[0]), std::make_shared<Link>(LinkSpeed{.bits_per_second = 1}));
  Work work = group.send(at::ones({1}), 1, {.deadline = 1ms});
  EXPECT_THAT(message_of([&] { work.wait(); }), HasSubstr("time was up on the simulated link"));
  EXPECT_THAT(message_of([&] { group.recv(at::ones({1}), 1).wait(); }), HasSubstr("aborted"));
}

TEST(Throttled, ADeadlineHoldsOnTheSimulatedLinkToo) {
  auto groups = local_groups("pair", 2);
  Throttled slow(std::move(groups[0]), std::make_shared<Link>(parse_link("1kbit")));
  EXPECT_THAT(message_of([&] { slow.send(at::zeros({1000}), 1, {.deadline = 5ms}).wait(); }),
              MatchesRegex(R"(.* when time was up on the simulated link, [0-9.]+ s of 5 ms)"));
}

TEST(Faulty, ATransferFailsOnCueAndTheOthersHearOfIt) {
  auto inner = local_groups("pair", 2, 30s);
  std::vector<std::unique_ptr<Group>> groups;
  groups.push_back(std::make_unique<Faulty>(std::move(inner[0]),
                                            Fault{.kind = Fault::Kind::fail, .at_transfer = 3}));
  groups.push_back(std::move(inner[1]));
  run_wrapped(std::move(groups), [](Group& group) {
    at::Tensor tensor = at::ones({8});
    group.all_reduce(tensor, {.tag = 1});  // one receive, one send
    const std::string message =
        message_of([&] { group.all_reduce(tensor, {.tag = 2, .what = "gradients"}); });
    EXPECT_THAT(
        message,
        group.rank() == 0
            ? MatchesRegex(R"(rank 1 \(thread\) failed on cue during all_reduce, tag 2 .*)")
            : MatchesRegex(R"(rank 0 \(thread\) aborted the group during all_reduce, tag 2 .*)"));
  });
}

TEST(Faulty, AHangEndsAtTheDeadline) {
  auto inner = local_groups("pair", 2);
  Faulty group(std::move(inner[0]), {.kind = Fault::Kind::hang});
  Work work = group.recv(at::zeros({1}), 1, {.deadline = 10ms});
  EXPECT_FALSE(work.is_done());
  EXPECT_THAT(
      message_of([&] { work.wait(); }),
      MatchesRegex(R"(rank 1 \(thread\) did not answer during recv, tag 0, [0-9.]+ s of 10 ms)"));
}

TEST(Faulty, AHangEndsForThoseWhoAskToo) {
  auto inner = local_groups("pair", 2);
  Faulty group(std::move(inner[0]), {.kind = Fault::Kind::hang});
  Work work = group.recv(at::zeros({1}), 1, {.deadline = 1ms});
  while (!work.is_done()) std::this_thread::yield();
  EXPECT_THAT(message_of([&] { work.wait(); }), HasSubstr("did not answer"));
}

TEST(Faulty, ADelayOrACallChangesNothingElse) {
  bool was_called = false;
  auto inner = local_groups("pair", 2);
  std::vector<std::unique_ptr<Group>> groups;
  groups.push_back(std::make_unique<Faulty>(
      std::move(inner[0]), Fault{.kind = Fault::Kind::delay, .at_transfer = 0, .duration = 5ms}));
  groups.push_back(std::make_unique<Faulty>(
      std::move(inner[1]),
      Fault{.kind = Fault::Kind::call, .at_transfer = 1, .action = [&] { was_called = true; }}));
  run_wrapped(std::move(groups), [](Group& group) {
    at::Tensor tensor = at::ones({8});
    group.all_reduce(tensor);
    EXPECT_TRUE(at::all(tensor == 2).item<bool>());
  });
  EXPECT_TRUE(was_called);
}

}  // namespace
}  // namespace outstep::comm
