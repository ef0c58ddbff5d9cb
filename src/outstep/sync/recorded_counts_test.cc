#include "outstep/sync/recorded_counts.h"

#include <unistd.h>

#include <fstream>

#include "outstep/sync/testing.h"

namespace outstep::sync {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::Replica;
using testing::run_ranks;

class RecordedCountsTest : public ::testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }
  std::string complaint(const std::string& text) const {
    try {
      RecordedCounts::read(write("bad.jsonl", text), 2);
    } catch (const DataError& error) {
      return error.what();
    }
    return "no error";
  }

  const fs::path folder_ =
      fs::temp_directory_path() / ("outstep-replay-" + std::to_string(getpid()));
};

TEST_F(RecordedCountsTest, ReadsTheStepsOfALineOneAfterAnother) {
  const auto recorded = RecordedCounts::read(write("rank-0.jsonl", R"({"kind":"start","step":0}
{"step":2,"round_micro_batches":[[1,2],[3,1]]}
{"step":3,"round_micro_batches":[[4,5]]}
)"),
                                             2);
  EXPECT_EQ(recorded.num_steps(), 3);
  EXPECT_EQ(recorded.at(1, 0), 3);
  EXPECT_EQ(recorded.at(2, 1), 5);
  EXPECT_EQ(recorded.at(3, 0), std::nullopt);
  EXPECT_EQ(recorded.at(0, 2), std::nullopt);
}

TEST_F(RecordedCountsTest, RefusesWhatIsNoRecord) {
  EXPECT_THAT(complaint(""), HasSubstr("ends without \"round_micro_batches\""));
  EXPECT_THAT(complaint("[1]"), HasSubstr("bad.jsonl:1: not a line of metrics"));
  EXPECT_THAT(complaint(R"({"step":1,"round_micro_batches":[[0,1]]})"),
              HasSubstr("holds 0, not a count"));
  EXPECT_THAT(complaint(R"({"step":1,"round_micro_batches":[[1e9,1]]})"), HasSubstr("not a count"));
  EXPECT_THAT(complaint(R"({"step":1,"round_micro_batches":[[]]})"), HasSubstr("without counts"));
  EXPECT_THAT(complaint(R"({"step":1,"round_micro_batches":7})"), HasSubstr("not a list"));
  // as of a run that was resumed after its first lines were deleted
  EXPECT_THAT(complaint(R"({"step":9,"round_micro_batches":[[1,1]]})"),
              HasSubstr("bad.jsonl:1: counts of 1 steps up to here"));
  // acco's under dpu, say
  EXPECT_THAT(complaint(R"({"step":1,"round_micro_batches":[[1,1,1]]})"),
              HasSubstr("a step of 3 rounds, where this sync's have 2"));
  EXPECT_THROW(RecordedCounts::read(folder_ / "nowhere.jsonl", 2), DataError);
}

TEST_F(RecordedCountsTest, OfARunWithMoreRanksAreRefused) {
  const std::string line = "{\"step\":1,\"round_micro_batches\":[[1,1]]}\n";
  write("rank-0.jsonl", line);
  write("rank-1.jsonl", line);
  OverlappedOptions options{.replay = folder_ / "rank-0.jsonl"};
  EXPECT_THROW(options.read_record(0, 1, 2), DataError);
  EXPECT_NO_THROW(options.read_record(1, 2, 2));
  EXPECT_THROW(options.read_record(2, 3, 2), DataError);
  options.replay = folder_ / "saved.jsonl";
  EXPECT_THROW(options.read_record(0, 2, 2), ConfigError);
}

// Trains two ranks with dynamic counts, as recorded if there is a record, and returns what each has
// committed. Writes a record beside it if there is none.
std::vector<at::Tensor> train_two(const std::string& method, const fs::path& folder, bool repeats) {
  constexpr int kSteps = 6;
  std::vector<at::Tensor> committed(2);
  run_ranks(2, [&](comm::Group& group) {
    const auto rank = static_cast<size_t>(group.rank());
    Replica::Options options{.sync = {.name = method}, .sizes = {257, 31, 4099}};
    options.sync.overlapped = {};
    if (repeats) options.sync.overlapped.replay = folder / "rank-0.jsonl";
    options.sync.overlapped.read_record(group.rank(), group.size(), method == "acco" ? 2 : 1);
    Replica replica(group, options);
    std::string lines;
    for (int64_t step = 1; step <= kSteps; ++step) {
      const auto report = replica.step();
      const nlohmann::json line{{"step", step},
                                {"round_micro_batches", {report.round_micro_batches}}};
      lines += line.dump() + "\n";
    }
    if (!repeats) std::ofstream(folder / ("rank-" + std::to_string(rank) + ".jsonl")) << lines;
    committed[rank] = replica.committed();
    // Nothing is recorded of a further step, which goes on by itself.
    if (repeats) {
      EXPECT_GE(replica.step().micro_batches_total, 2);
    }
  });
  return committed;
}

// A record that chance would hardly make: uneven over ranks, rounds and steps.
TEST_F(RecordedCountsTest, AreWhatARunThenDoes) {
  const std::vector<std::vector<int64_t>> counts[] = {{{1, 3}, {2, 1}, {4, 2}},
                                                      {{2, 2}, {1, 5}, {1, 1}}};
  for (const int rank : {0, 1}) {
    const nlohmann::json line{{"step", 3}, {"round_micro_batches", counts[rank]}};
    write("rank-" + std::to_string(rank) + ".jsonl", line.dump() + "\n");
  }
  run_ranks(2, [&](comm::Group& group) {
    Replica::Options options{.sync = {.name = "acco"}, .sizes = {257, 31}};
    options.sync.overlapped = {.replay = folder_ / "rank-0.jsonl"};
    options.sync.overlapped.read_record(group.rank(), group.size(), 2);
    Replica replica(group, options);
    for (const auto& step : counts[group.rank()]) {
      EXPECT_EQ(replica.step().round_micro_batches, step);
    }
  });
}

TEST_F(RecordedCountsTest, RepeatARunBitForBit) {
  for (const std::string method : {"acco", "dpu", "wp"}) {
    const auto recorded = train_two(method, folder_, false);
    const auto repeated = train_two(method, folder_, true);
    for (size_t rank = 0; rank < 2; ++rank) {
      EXPECT_TRUE(at::equal(repeated[rank], recorded[rank])) << method;
    }
  }
}

}  // namespace
}  // namespace outstep::sync
