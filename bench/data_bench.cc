// Times the data room: GPT-2's tokenizer on a text, and the loader of 32×32 images, on one thread.
//
//   data_bench --text data/tinyshakespeare/train.txt --tokenizer data/gpt2-bpe
//
// Prints one JSON line a measurement: what, median/min/max of the rate, n, and what was made, to be
// compared with bench/peers/torch_data.py, which prints the same for tiktoken and torchvision's
// way.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/base/memory.h"
#include "outstep/base/rng.h"
#include "outstep/data/bpe_files.h"
#include "outstep/data/images.h"
#include "outstep/data/stream.h"
#include "outstep/io/files.h"

namespace {

using namespace outstep;

struct Flags {
  std::string text = "data/tinyshakespeare/train.txt";
  std::string tokenizer = "data/gpt2-bpe";
  double seconds = 3;
};

// Calls `work`, which does `amount` of something, for a while; prints amounts a second.
void measure(const std::string& what, const std::string& unit, double amount, double seconds,
             nlohmann::ordered_json facts, const std::function<void()>& work) {
  work();
  std::vector<double> rates;
  const Clock::time_point begin = Clock::now();
  while (seconds_since(begin) < seconds || rates.size() < 5) {
    const Clock::time_point start = Clock::now();
    work();
    rates.push_back(amount / seconds_since(start));
  }
  std::ranges::sort(rates);
  nlohmann::ordered_json line = {{"program", "outstep"}, {"what", what},
                                 {"unit", unit},         {"median", rates[rates.size() / 2]},
                                 {"min", rates.front()}, {"max", rates.back()},
                                 {"n", rates.size()}};
  line.update(facts);
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

void measure_tokenizer(const Flags& flags) {
  const std::string text = io::read_text(flags.text);
  const auto tokenizer = data::open_bpe(flags.tokenizer);
  const auto ids = tokenizer->encode(text);
  if (tokenizer->decode(ids) != text) throw DataError("{}: not given back by decode", flags.text);
  measure("encode", "MB/s", static_cast<double>(text.size()) / 1e6, flags.seconds,
          {{"text", flags.text}, {"num_tokens", ids.size()}}, [&] { tokenizer->encode(text); });
}

// 10,000 images of random bytes in CIFAR-10's layout.
data::ImageRecords random_images() {
  constexpr int64_t kRecordBytes = 3073, kNumRecords = 10'000;
  auto bytes = std::make_shared<std::vector<uint8_t>>(kRecordBytes * kNumRecords);
  CounterRng rng({.seed = 1, .purpose = purpose("bench")});
  for (uint8_t& byte : *bytes) byte = static_cast<uint8_t>(rng.next_u32() % 10);
  return {.channels = 3,
          .height = 32,
          .width = 32,
          .num_classes = 10,
          .runs = {{.owner = bytes,
                    .pixels = bytes->data() + 1,
                    .labels = bytes->data(),
                    .pixels_stride = kRecordBytes,
                    .labels_stride = kRecordBytes,
                    .num_records = kNumRecords}}};
}

void measure_images(const Flags& flags) {
  constexpr int64_t kMicroBatch = 64, kBatches = 100;
  const auto images = std::make_shared<data::ImageDataset>(
      random_images(), data::ImageOptions{.mean = {0.4914, 0.4822, 0.4465},
                                          .deviation = {0.2470, 0.2435, 0.2616},
                                          .crop_padding = 4,
                                          .flip = true});
  for (const bool augment : {false, true}) {
    data::Stream stream(images, {.micro_batch = kMicroBatch, .augment = augment, .prefetch = 0});
    measure(augment ? "images, crop and flip" : "images, normalised", "images/s",
            kMicroBatch * kBatches, flags.seconds, {{"micro_batch", kMicroBatch}}, [&] {
              for (int64_t i = 0; i < kBatches; ++i) stream.next();
            });
  }
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Times the tokenizer and the image loader, on one thread");
  app.add_option("--text", flags.text, "Text to encode");
  app.add_option("--tokenizer", flags.tokenizer, "Folder of the tokenizer");
  app.add_option("--seconds", flags.seconds, "Time for each measurement");
  CLI11_PARSE(app, argc, argv);
  try {
    at::set_num_threads(1);
    memory::install();
    measure_tokenizer(flags);
    measure_images(flags);
  } catch (const Error& error) {
    std::fprintf(stderr, "data_bench: %s: %s\n", error.kind().c_str(), error.what());
    return error.exit_code();
  }
}
