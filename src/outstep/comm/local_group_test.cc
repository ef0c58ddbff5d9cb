#include "outstep/comm/local_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>
#include <thread>

#include "outstep/base/errors.h"

namespace outstep::comm {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const CommError& error) {
    return error.what();
  }
  return "no error";
}

TEST(LocalGroup, MessagesAreMatchedByTagAndKeepTheirOrder) {
  auto groups = local_groups("pair", 2);
  const at::Tensor first = at::full({3}, 1.0);
  const at::Tensor second = at::full({3}, 2.0);
  const at::Tensor other = at::full({3}, 3.0);
  Work sends[] = {groups[0]->send(first, 1, {.tag = 7}), groups[0]->send(other, 1, {.tag = 8}),
                  groups[0]->send(second, 1, {.tag = 7})};
  at::Tensor buffer = at::zeros({3, 3});
  groups[1]->recv(buffer[2], 0, {.tag = 8}).wait();
  groups[1]->recv(buffer[0], 0, {.tag = 7}).wait();
  groups[1]->recv(buffer[1], 0, {.tag = 7}).wait();
  for (Work& send : sends) send.wait();
  EXPECT_TRUE(at::equal(buffer, at::stack({first, second, other})));
  EXPECT_EQ(groups[0]->bytes_sent(), 36);
  EXPECT_EQ(groups[1]->bytes_sent(), 0);
}

TEST(LocalGroup, IsDoneFollowsTheMessage) {
  auto groups = local_groups("pair", 2);
  at::Tensor buffer = at::zeros({1});
  Work incoming = groups[1]->recv(buffer, 0);
  EXPECT_FALSE(incoming.is_done());
  Work outgoing = groups[0]->send(at::ones({1}), 1);
  EXPECT_TRUE(incoming.is_done());
  EXPECT_TRUE(outgoing.is_done());
  EXPECT_EQ(buffer.item<float>(), 1);
}

TEST(LocalGroup, AnEmptyTensorIsNotSent) {
  auto groups = local_groups("pair", 2);
  groups[0]->send(at::empty({0}), 1).wait();
  groups[1]->recv(at::empty({0}), 0).wait();
}

TEST(LocalGroup, SilenceEndsAtTheDeadline) {
  auto groups = local_groups("pair", 2, 30s);
  const std::string message = message_of([&] {
    groups[0]
        ->recv(at::zeros({1}), 1, {.tag = 9, .deadline = 20ms, .what = "gradients", .step = 118})
        .wait();
  });
  EXPECT_THAT(message, MatchesRegex(R"(rank 1 \(thread\) did not answer during recv, tag 9 )"
                                    R"(\("gradients, step 118"\), 0\.[0-9]+ s of 20 ms)"));
  // The group is of no use after that, and the peer hears of it.
  EXPECT_THAT(message_of([&] { groups[0]->send(at::zeros({1}), 1).wait(); }),
              HasSubstr("this group is of no use any more: rank 0 (thread) gave up (rank 1 "
                        "(thread) did not answer"));
  EXPECT_THAT(
      message_of([&] { groups[1]->recv(at::zeros({1}), 0).wait(); }),
      HasSubstr("rank 0 (thread) gave up (rank 1 (thread) did not answer during recv, tag 9"));
}

TEST(LocalGroup, ARankThatLeavesIsNamed) {
  auto groups = local_groups("three", 3, 30s);
  Work waiting = groups[0]->recv(at::zeros({1}), 2, {.tag = 4});
  groups[2].reset();
  EXPECT_TRUE(waiting.is_done());
  EXPECT_THAT(message_of([&] { waiting.wait(); }),
              HasSubstr("rank 2 (thread) left the group during recv, tag 4, 0.00 s of 30 s"));
  EXPECT_THAT(message_of([&] { groups[1]->send(at::zeros({1}), 2).wait(); }),
              HasSubstr("rank 2 (thread) left"));
}

TEST(LocalGroup, AFailingRankEndsACollectiveOfAllOthers) {
  try {
    run_local_ranks(4, [](Group& group) {
      if (group.rank() == 2) throw DataError("the disk is full");
      at::Tensor tensor = at::ones({1000});
      EXPECT_THAT(
          message_of([&] { group.all_reduce(tensor, {.what = "gradients"}); }),
          MatchesRegex(
              R"(rank [0-3] \(thread\) (left|gave up).* during all_reduce, tag 0 \("gradients"\).*)"));
    });
    FAIL() << "the first error is rethrown";
  } catch (const DataError& error) {
    EXPECT_STREQ(error.what(), "the disk is full");
  }
}

TEST(LocalGroup, AbortWakesAWaitingThread) {
  auto groups = local_groups("pair", 2, 30s);
  std::latch waiting(1);
  std::string message;
  {
    std::jthread waiter([&] {
      Work work = groups[0]->recv(at::zeros({1}), 1);
      waiting.count_down();
      message = message_of([&] { work.wait(); });
    });
    waiting.wait();
    groups[0]->abort();
  }
  EXPECT_THAT(
      message,
      HasSubstr("rank 1 (thread) had not answered when this rank aborted the group during recv"));
  EXPECT_THAT(message_of([&] { groups[1]->barrier(); }),
              HasSubstr("rank 0 (thread) aborted the group during barrier"));
}

TEST(LocalGroup, SizesThatDifferAreAnErrorOnBothSides) {
  auto groups = local_groups("pair", 2);
  Work send = groups[0]->send(at::zeros({4}), 1);
  Work recv = groups[1]->recv(at::zeros({2}), 0);
  EXPECT_THAT(message_of([&] { recv.wait(); }), HasSubstr("sent 16 bytes where 8 were expected"));
  EXPECT_THAT(message_of([&] { send.wait(); }), HasSubstr("expected 8 bytes where 16 were sent"));
}

TEST(LocalGroup, WrongUseIsABug) {
  auto groups = local_groups("pair", 2);
  EXPECT_THROW(groups[0]->send(at::zeros({1}), 0), InternalError);
  EXPECT_THROW(groups[0]->send(at::zeros({1}), 2), InternalError);
  EXPECT_THROW(groups[0]->send(at::zeros({1}), 1, {.tag = kReservedTags}), InternalError);
  EXPECT_THROW(groups[0]->send(at::zeros({2, 2}).t(), 1), InternalError);
}

}  // namespace
}  // namespace outstep::comm
