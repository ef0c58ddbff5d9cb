#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "outstep/train/forecast.h"

namespace outstep::train {
namespace {

using method::Overlap;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr double kMicroBatchSeconds = 1;

std::vector<method::RoundLength> fixed(std::initializer_list<int64_t> counts) {
  std::vector<method::RoundLength> lengths;
  for (const int64_t count : counts) lengths.push_back({.at_least = count, .is_fixed = true});
  return lengths;
}

Forecast forecast_of(const std::string& sync, Overlap overlap,
                     const std::vector<method::RoundLength>& lengths, int64_t memory_bytes,
                     double link_seconds) {
  Forecast forecast{.sync = sync, .memory_bytes = memory_bytes};
  forecast.clock = {.overlap = overlap,
                    .replicas = {{.micro_batch_seconds = kMicroBatchSeconds,
                                  .forward_seconds = 0.3,
                                  .ready_seconds = 0.6}}};
  for (const method::RoundLength& length : lengths) {
    forecast.clock.rounds.push_back({.length = length,
                                     .reduce_scatter_seconds = link_seconds / 2,
                                     .all_gather_seconds = link_seconds / 2});
  }
  forecast.times = method::simulate(forecast.clock);
  forecast.compute_seconds = forecast.micro_batches_per_step() * kMicroBatchSeconds;
  return forecast;
}

// With two micro-batches a step, on a link on which a round takes so long.
std::vector<Forecast> forecasts(double link_seconds) {
  return {forecast_of("ddp", Overlap::backward, fixed({2}), 16, link_seconds),
          forecast_of("zero1", Overlap::none, fixed({2}), 12, link_seconds),
          forecast_of("dpu", Overlap::everything, fixed({2}), 18, link_seconds),
          forecast_of("acco, fixed", Overlap::everything, fixed({1, 1}), 20, link_seconds)};
}
std::vector<Forecast> with_dynamic_acco(double link_seconds) {
  std::vector<Forecast> all = forecasts(link_seconds);
  all.push_back(forecast_of("acco, dynamic", Overlap::everything,
                            {{.at_least = 1}, {.at_least = 1}}, 20, link_seconds));
  return all;
}

TEST(Advice, NamesWhatIsThriftiestWhereCommunicationIsShort) {
  EXPECT_EQ(advise(with_dynamic_acco(0.05), 2),
            "in lockstep communication would take 0.025 × computing: zero1 suffices, acco, fixed "
            "would be 1.03 × as "
            "fast");
  EXPECT_THAT(advise(with_dynamic_acco(0.001), 2),
              StartsWith("in lockstep communication would take less than 0.01"));
  // Of that, backward hides 0.6 s.
  EXPECT_THAT(advise(with_dynamic_acco(0.5), 2), HasSubstr("0.25 × computing: ddp suffices"));
}

TEST(Advice, NamesAccoWhereItIsFaster) {
  EXPECT_EQ(advise(with_dynamic_acco(1), 2),
            "in lockstep communication would take 0.5 × computing: acco, fixed is 1.20 × as fast "
            "as ddp, the best "
            "in lockstep");
}

// 6 micro-batches in 6 s, for which ddp would need 6 + 3 - 0.6 s.
TEST(Advice, TellsThatDynamicCountsMakeLargerSteps) {
  EXPECT_EQ(advise(with_dynamic_acco(3), 2),
            "in lockstep communication would take 1.5 × computing: acco, dynamic is 1.40 × as fast "
            "as ddp, the best "
            "in lockstep, with updates as large. A rank then commits 6 micro-batches an update, "
            "not 2");
}

TEST(Advice, TellsWhereFixedCountsLose) {
  std::vector<Forecast> all = forecasts(5);
  all.back().is_recipes = true;
  EXPECT_THAT(advise(all, 2),
              AllOf(HasSubstr("2.5 × computing: ddp is best, acco, fixed would be 0.64 × as fast"),
                    HasSubstr("it sends twice an update; sync.counts = \"dynamic\"")));
}

TEST(Advice, SpeaksOfTheRecipesOwnAcco) {
  std::vector<Forecast> all = with_dynamic_acco(1);
  all.back().is_recipes = true;
  EXPECT_THAT(advise(all, 2), AllOf(HasSubstr("acco, dynamic"), Not(HasSubstr("acco, fixed"))));
}

TEST(Advice, DoesWithoutAcco) {
  EXPECT_EQ(
      advise({forecasts(1).front()}, 2),
      "in lockstep communication would take 0.5 × computing: ddp is what this optimizer allows");
  EXPECT_EQ(advise({}, 2), "");
}

}  // namespace
}  // namespace outstep::train
