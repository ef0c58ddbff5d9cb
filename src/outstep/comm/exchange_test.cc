#include "outstep/comm/exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "outstep/base/errors.h"
#include "outstep/comm/agreement.h"
#include "outstep/comm/local_group.h"

namespace outstep::comm {
namespace {

using ::testing::ElementsAre;

TEST(Exchange, RoundsAreCollectedInOrderAndLate) {
  run_local_ranks(3, [](Group& group) {
    Exchange exchange(group, 2, {.tag = 5, .what = "statistics"});
    const double rank = group.rank();
    exchange.post({{rank, 0}});
    for (double step = 1; step < 20; ++step) {
      exchange.post({{rank, step}});
      EXPECT_EQ(exchange.num_pending(), 2);
      EXPECT_THAT(exchange.collect(),
                  ElementsAre(ElementsAre(0, step - 1), ElementsAre(1, step - 1),
                              ElementsAre(2, step - 1)));
    }
    EXPECT_THAT(exchange.collect(),
                ElementsAre(ElementsAre(0, 19), ElementsAre(1, 19), ElementsAre(2, 19)));
  });
}

TEST(Exchange, ARankAloneHearsItself) {
  run_local_ranks(1, [](Group& group) {
    Exchange exchange(group, 1, {});
    exchange.post({{7.5}});
    EXPECT_THAT(exchange.collect(), ElementsAre(ElementsAre(7.5)));
  });
}

TEST(Exchange, WrongUseIsABug) {
  run_local_ranks(1, [](Group& group) {
    Exchange exchange(group, 2, {});
    EXPECT_THROW(exchange.collect(), InternalError);
    EXPECT_THROW(exchange.post({{1.0}}), InternalError);
  });
}

std::vector<std::string> errors_of(const std::vector<uint64_t>& hashes) {
  std::vector<std::string> errors(hashes.size());
  run_local_ranks(static_cast<int>(hashes.size()), [&](Group& group) {
    const auto rank = static_cast<size_t>(group.rank());
    try {
      require_agreement(group, "recipe", hashes[rank]);
    } catch (const ConfigError& error) {
      errors[rank] = error.what();
    }
  });
  return errors;
}

TEST(RequireAgreement, PassesWhereAllAreAlike) {
  EXPECT_THAT(errors_of({7, 7, 7}), ElementsAre("", "", ""));
}

TEST(RequireAgreement, EveryRankNamesTheOddOnes) {
  const std::string one =
      "ranks differ in their recipe: rank 0 (thread) differs from rank 1 (thread); give all ranks "
      "the same, and the same "
      "version of outstep";
  EXPECT_THAT(errors_of({~0ull, 7, 7}), ElementsAre(one, one, one));
  const std::string two =
      "ranks differ in their recipe: rank 1 (thread), rank 3 (thread) differ from rank 0 (thread); "
      "give all ranks the same, "
      "and the same version of outstep";
  EXPECT_THAT(errors_of({7, 8, 7, 9}), ElementsAre(two, two, two, two));
  const std::string tie =
      "ranks differ in their recipe: rank 1 (thread) differs from rank 0 (thread); give all ranks "
      "the same, and the same "
      "version of outstep";
  EXPECT_THAT(errors_of({8, 7}), ElementsAre(tie, tie));
}

}  // namespace
}  // namespace outstep::comm
