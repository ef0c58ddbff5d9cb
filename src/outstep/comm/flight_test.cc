#include "outstep/comm/flight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "outstep/base/errors.h"
#include "outstep/comm/flight_report.h"
#include "outstep/comm/local_group.h"
#include "outstep/io/files.h"

namespace outstep::comm {
namespace {

using std::chrono_literals::operator""ms;
using ::testing::HasSubstr;
using ::testing::Not;

class Flight : public ::testing::Test {
 protected:
  Flight() { std::filesystem::create_directories(folder_); }
  ~Flight() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path file(int rank) const {
    return folder_ / ("flight-" + std::to_string(rank) + ".json");
  }

  // Plays ranks on recorded groups; each writes its record at an error, or at the end.
  void play(int size, const std::function<void(Group&)>& body,
            std::chrono::milliseconds deadline = std::chrono::seconds(30)) {
    std::vector<std::unique_ptr<Group>> groups = local_groups("replica", size, deadline);
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        FlightRecorder flights(rank, size, /*max_operations=*/10);
        flights.dump_on_error(file(rank));
        Recorded group(std::move(groups[static_cast<size_t>(rank)]), flights);
        try {
          body(group);
        } catch (const CommError&) {
        }
        if (!std::filesystem::exists(file(rank))) flights.dump(file(rank));
      });
    }
  }

  const std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() /
      ("outstep-flight-" + std::to_string(getpid()) +
       ::testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(Flight, ARunWithoutTroubleIsAllMatched) {
  play(2, [](Group& group) {
    at::Tensor tensor = at::ones({100});
    for (int step = 0; step < 20; ++step)
      group.all_reduce(tensor, {.tag = 9, .what = "gradients", .step = step});
    const int peer = 1 - group.rank();
    Work incoming = group.recv(tensor, peer, {.tag = 1});
    group.send(at::ones({100}), peer, {.tag = 1}).wait();
    incoming.wait();
  });
  const FlightReport report = report_flights(flight_records_in(folder_));
  EXPECT_THAT(report.text, HasSubstr("flight records of 2 of 2 ranks\n"
                                     "rank 0: 22 operations, the last 10 kept; no error\n"));
  EXPECT_THAT(report.text, HasSubstr("all operations were matched"));
  EXPECT_THAT(report.text,
              HasSubstr("all_reduce number 19, tag 9 (\"gradients, step 19\"), 400 bytes"));
  EXPECT_THAT(report.text, Not(HasSubstr("number 11, tag 9")));
  EXPECT_TRUE(report.json["findings"].empty());
}

TEST_F(Flight, TheRankThatDidNotComeIsNamed) {
  play(2, [](Group& group) {
    at::Tensor tensor = at::ones({100});
    group.all_reduce(tensor, {.tag = 9, .what = "gradients", .step = 0});
    if (group.rank() == 1) throw CommError("this rank does something else");
    group.all_reduce(tensor, {.tag = 9, .what = "gradients", .step = 1});
  });
  const FlightReport report = report_flights({file(1), file(0)});
  EXPECT_THAT(
      report.text,
      HasSubstr("group \"replica\": all_reduce number 1, tag 9 (\"gradients, step 1\"), 400 bytes\n"
                "    rank 0 (thread): failed after"));
  EXPECT_THAT(report.text, HasSubstr("rank 1 (thread) has not posted it: its last is all_reduce "
                                     "number 0, tag 9 (\"gradients, step 0\")"));
  EXPECT_THAT(report.json["ranks"][0]["error"],
              HasSubstr("rank 1 (thread) left the group during all_reduce"));
}

TEST_F(Flight, RanksThatDoDifferentThingsAreShown) {
  play(
      2,
      [](Group& group) {
        at::Tensor tensor = at::ones({100});
        if (group.rank() == 0) group.all_reduce(tensor, {.tag = 9});
        if (group.rank() == 1) group.broadcast(tensor, 0, {.tag = 4});
      },
      100ms);
  EXPECT_THAT(
      report_flights({file(0), file(1)}).text,
      HasSubstr(
          "rank 1 (thread) posted broadcast number 0, tag 4, 400 bytes instead, failed after"));
}

TEST_F(Flight, WhatCouldNotBePostedIsRecordedAsFailed) {
  play(2, [](Group& group) {
    if (group.rank() == 1) return;
    group.abort();
    group.send(at::ones({1}), 1);
  });
  EXPECT_THAT(report_flights({file(0)}).json["ranks"][0]["error"], HasSubstr("aborted the group"));
}

TEST_F(Flight, AHalfTransferIsShown) {
  play(2, [](Group& group) {
    const at::Tensor tensor = at::ones({100});
    if (group.rank() == 0) group.recv(tensor, 1, {.tag = 3, .what = "activations"}).wait();
  });
  EXPECT_THAT(
      report_flights({file(0), file(1)}).text,
      HasSubstr("recv number 0, tag 3 (\"activations\"), 400 bytes from rank 1 (thread)\n    "
                "rank 0 (thread): failed"));
  EXPECT_THAT(report_flights({file(0), file(1)}).text,
              HasSubstr("rank 1 (thread) has not posted the other half"));
  const FlightReport alone = report_flights({file(0)});
  EXPECT_THAT(alone.text, HasSubstr("rank 1: no record"));
  EXPECT_THAT(alone.text, HasSubstr("there is no record of rank 1 (thread)"));
}

TEST_F(Flight, FilesThatAreNoRecordsAreRefused) {
  const auto refused = [&](const std::string& text) {
    io::write_text_atomically(file(0), text);
    try {
      report_flights({file(0)});
    } catch (const DataError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_THAT(refused(""), HasSubstr("flight-0.json: not JSON"));
  EXPECT_THAT(refused("[]"), HasSubstr("not a flight record"));
  EXPECT_THAT(refused(R"({"format": "outstep flight record", "version": 2})"),
              HasSubstr("version"));
  const std::string head =
      R"({"format":"outstep flight record","version":1,"rank":0,"world_size":2,"written_at":0,"error":"","num_operations":1,)";
  const std::string op =
      R"("operations":[{"group":3,"operation":"send","number":0,"peer":0,"tag":0,"bytes":0,"what":"","step":0,"begun_at":0,)"
      R"("seconds":0,"status":"done"}]})";
  EXPECT_THAT(refused(head + R"("groups":[],)" + op), HasSubstr("an operation names a group"));
  EXPECT_THAT(refused(head + R"("groups":"x",)" + op), HasSubstr("not a flight record"));
  EXPECT_THROW(report_flights({folder_ / "none.json"}), DataError);
}

TEST_F(Flight, RecordsOfDifferentRunsAreRefused) {
  FlightRecorder(0, 2).dump(file(0));
  FlightRecorder(1, 3).dump(file(1));
  EXPECT_THROW(report_flights({file(0), file(1)}), DataError);
  EXPECT_THROW(report_flights({file(0), file(0)}), DataError);
}

}  // namespace
}  // namespace outstep::comm
