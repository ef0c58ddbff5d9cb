#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/io/chrome_trace.h"
#include "outstep/io/files.h"
#include "outstep/io/jsonl.h"
#include "outstep/io/tensorboard.h"

namespace outstep::io {
namespace {

class Logs : public testing::Test {
 protected:
  Logs()
      : folder_(std::filesystem::path(testing::TempDir()) /
                fmt::format("outstep_logs_{}", getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~Logs() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_;
};

TEST_F(Logs, JsonLinesCutOffAHalfWrittenLine) {
  const auto path = folder_ / "m.jsonl";
  JsonLines(path).write({{"step", 1}});
  std::ofstream(path, std::ios::app) << "{\"step\": 2, \"lo";
  JsonLines(path).write({{"step", 3}});
  EXPECT_EQ(read_text(path), "{\"step\":1}\n{\"step\":3}\n");
  EXPECT_THROW(JsonLines(folder_ / "no" / "m.jsonl"), DataError);
  EXPECT_THROW(JsonLines{folder_}, DataError);
}

TEST_F(Logs, JsonLinesCutOffALineThatIsAllThereIs) {
  const auto path = folder_ / "m.jsonl";
  std::ofstream(path) << "{\"step\"";
  JsonLines(path).write({{"step", 1}});
  EXPECT_EQ(read_text(path), "{\"step\":1}\n");
}

TEST_F(Logs, JsonLinesAreThereAtOnceAndAlwaysJson) {
  const auto path = folder_ / "m.jsonl";
  JsonLines lines(path);
  lines.write({{"loss", std::numeric_limits<double>::quiet_NaN()}, {"text", "caf\xE9\n"}});
  EXPECT_EQ(read_text(path), "{\"loss\":null,\"text\":\"caf\xEF\xBF\xBD\\n\"}\n");
}

TEST_F(Logs, ChromeTraceIsValidAndSorted) {
  trace::Tracer tracer;
  const auto t = tracer.origin();
  using std::chrono::milliseconds;
  tracer.record(trace::Track::compute, "late", t + milliseconds(5), t + milliseconds(6),
                {.step = 2});
  tracer.record(trace::Track::communication, "early", t + milliseconds(1), t + milliseconds(3),
                {.bytes = 9});
  write_chrome_trace(folder_ / "trace.json", tracer, 3);
  const auto trace = nlohmann::json::parse(read_text(folder_ / "trace.json"));
  std::vector<nlohmann::json> spans;
  int num_names = 0;
  for (const auto& event : trace["traceEvents"]) {
    EXPECT_EQ(event["pid"], 3);
    if (event["ph"] == "X") spans.push_back(event);
    if (event["ph"] == "M") ++num_names;
  }
  ASSERT_EQ(spans.size(), 2u);
  EXPECT_EQ(num_names, 5) << "the process and its four tracks";
  EXPECT_EQ(spans[0]["name"], "early");
  EXPECT_NEAR(spans[0]["ts"].get<double>(), 1000, 1e-6);
  EXPECT_NEAR(spans[0]["dur"].get<double>(), 2000, 1e-6);
  EXPECT_EQ(spans[0]["args"]["bytes"], 9);
  EXPECT_EQ(spans[1]["args"]["step"], 2);
  EXPECT_NE(spans[0]["tid"], spans[1]["tid"]);
}

TEST_F(Logs, ChromeTraceHoldsMoreThanItsBuffer) {
  trace::Tracer tracer;
  constexpr size_t kCount = 20'000;  // about 2 MB
  for (size_t i = 0; i < kCount; ++i) {
    // An inner span is recorded before the one around it and must come after it.
    const auto begin = tracer.origin() + std::chrono::microseconds(i / 2);
    const auto length = std::chrono::microseconds(i % 2 == 0 ? 1 : 2);
    tracer.record(trace::Track::compute, i % 2 == 0 ? "inner" : "outer", begin, begin + length, {});
  }
  write_chrome_trace(folder_ / "trace.json", tracer, 0);
  const auto trace = nlohmann::json::parse(read_text(folder_ / "trace.json"));
  ASSERT_EQ(trace["traceEvents"].size(), kCount + 5);
  for (size_t i = 5; i < kCount + 5; i += 2) {
    ASSERT_EQ(trace["traceEvents"][i]["name"], "outer");
    ASSERT_EQ(trace["traceEvents"][i + 1]["name"], "inner");
  }
}

TEST(Crc32c, GivesThePublishedAnswers) {  // RFC 3720, B.4
  EXPECT_EQ(crc32c("123456789", 9), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0').data(), 32), 0x8A9136AAu);
}

// The payloads of a TFRecord file, its checksums verified.
std::vector<std::string> records_of(const std::string& bytes) {
  const auto masked = [](const char* data, size_t size) {
    return std::rotr(crc32c(data, size), 15) + 0xa282ead8u;
  };
  std::vector<std::string> records;
  size_t at = 0;
  while (at < bytes.size()) {
    uint64_t length = 0;
    uint32_t length_crc = 0, payload_crc = 0;
    std::memcpy(&length, &bytes.at(at), 8);
    std::memcpy(&length_crc, &bytes.at(at + 8), 4);
    EXPECT_EQ(length_crc, masked(&bytes[at], 8));
    records.push_back(bytes.substr(at + 12, length));
    std::memcpy(&payload_crc, &bytes.at(at + 12 + length), 4);
    EXPECT_EQ(payload_crc, masked(records.back().data(), length));
    at += 16 + length;
  }
  return records;
}

TEST_F(Logs, TensorBoardRecordsHaveTheirFramingAndFields) {
  {
    TensorBoardWriter writer(folder_);
    writer.scalar("loss", 1.5, 300);
    writer.text("recipe", "# a", 0);
  }
  std::filesystem::path file;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) file = entry.path();
  ASSERT_THAT(file.filename().string(), testing::StartsWith("events.out.tfevents."));
  const auto records = records_of(read_text(file));
  ASSERT_EQ(records.size(), 3u);
  EXPECT_THAT(records[0], testing::HasSubstr("brain.Event:2"));
  // After wall_time (9 bytes): step = 300 as varint, then summary { value { tag: "loss"
  // simple_value: 1.5 } }.
  const std::string expected("\x10\xAC\x02\x2A\x0D\x0A\x0B\x0A\x04loss\x15\x00\x00\xC0\x3F", 18);
  EXPECT_EQ(records[1].substr(9), expected);
  EXPECT_THAT(records[2], testing::HasSubstr("recipe/text_summary"));
}

}  // namespace
}  // namespace outstep::io
