#include "outstep/sync/overlapped.h"

#include "outstep/base/errors.h"
#include "outstep/sync/testing.h"

// What acco, dpu and wp refuse alike. (acco_test.cc has acco's own options.)

namespace outstep::sync {
namespace {

using ::testing::HasSubstr;

// An optimizer that must see whole tensors.
class WholeTensors : public optim::Sgd {
 public:
  using Sgd::Sgd;
  bool cuts_anywhere() const override { return false; }
};

TEST(Overlapped, RefuseAnOptimizerThatCannotBeCut) {
  for (const std::string name : {"acco", "dpu", "wp"}) {
    testing::run_ranks(1, [&](comm::Group& group) {
      testing::ParametersOnly model({4});
      nn::FlatParams params(model, 1);
      const WholeTensors optimizer({}, {});
      try {
        testing::make_sync({.name = name}, {params, group, optimizer});
        ADD_FAILURE() << "no error";
      } catch (const ConfigError& error) {
        EXPECT_THAT(error.what(), HasSubstr("sync \"" + name + "\" shards the optimizer"));
        EXPECT_THAT(error.what(), HasSubstr("can only be cut at tensor borders; use sync \"ddp\""));
      }
    });
  }
}

std::string complaint(const std::string& keys) {
  return testing::complaint(keys, [](io::Section& section) { OverlappedOptions::read(section); });
}

TEST(Overlapped, OptionsAreReadAndHeldAgainstTheirBounds) {
  EXPECT_EQ(complaint(""), "no error");
  EXPECT_EQ(complaint("k_min = 2\nk_max = 2\nwire = 'bf16'\nlive = 'bf16'"), "no error");
  EXPECT_EQ(complaint("counts = 'fixed'\non_nonfinite = 'skip'"), "no error");
  EXPECT_THAT(complaint("counts = 'some'"), HasSubstr("dynamic"));
  EXPECT_THAT(complaint("k_min = 0"), HasSubstr("k_min"));
  EXPECT_THAT(complaint("k_max = -1"), HasSubstr("k_max"));
  EXPECT_THAT(complaint("k_min = 3\nk_max = 2"),
              HasSubstr("sync.k_max is 2, below sync.k_min = 3"));
  EXPECT_THAT(complaint("counts = 'fixed'\nk_min = 2"), HasSubstr("sync.k_min bounds dynamic"));
  EXPECT_THAT(complaint("live = 'fp16'"), HasSubstr("bf16"));
  EXPECT_THAT(complaint("wire = 'fp16'"), HasSubstr("bf16"));
  // A key of acco's alone, which dpu and wp do not have.
  EXPECT_THAT(complaint("estimate_scale = 1"), HasSubstr("unknown key \"estimate_scale\""));
}

}  // namespace
}  // namespace outstep::sync
