#include "outstep/data/stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <vector>

#include "outstep/base/errors.h"
#include "outstep/data/testing.h"

namespace outstep::data {
namespace {

// Examples whose input is their index and whose target is their epoch. One of them may be broken.
class Numbers : public Dataset {
 public:
  explicit Numbers(int64_t size, int64_t broken = -1) : size_(size), broken_(broken) {}
  int64_t size() const override { return size_; }
  Batch gather(std::span<const Example> examples, const Draw&) const override {
    const auto num = static_cast<int64_t>(examples.size());
    Batch batch{.inputs = at::empty({num}, at::kLong), .targets = at::empty({num}, at::kLong)};
    for (int64_t i = 0; i < num; ++i) {
      const Example& example = examples[static_cast<size_t>(i)];
      if (example.index == broken_) throw DataError("example {} is broken", broken_);
      batch.inputs.mutable_data_ptr<int64_t>()[i] = example.index;
      batch.targets.mutable_data_ptr<int64_t>()[i] = example.epoch;
    }
    batch.num_samples = batch.num_units = num;
    return batch;
  }
  std::string unit() const override { return "samples"; }
  std::string describe() const override { return "numbers"; }

 private:
  int64_t size_;
  int64_t broken_;
};

std::vector<int64_t> values(const at::Tensor& tensor) {
  const auto* first = tensor.const_data_ptr<int64_t>();
  return {first, first + tensor.numel()};
}

// (number, inputs, targets), to compare batches.
std::vector<int64_t> all_of(const Batch& batch) {
  std::vector<int64_t> all = {batch.index};
  for (const auto& tensor : {batch.inputs, batch.targets}) {
    const auto some = values(tensor);
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

std::vector<std::vector<int64_t>> draw(Stream& stream, int num) {
  std::vector<std::vector<int64_t>> drawn;
  for (int i = 0; i < num; ++i) drawn.push_back(all_of(stream.next()));
  return drawn;
}

// A checkpoint of one rank, in memory.
class State : public io::StateWriter, public io::StateReader {
 public:
  void shared(const std::string&, const at::Tensor&) override { FAIL(); }
  void shared(const std::string& name, int64_t value) override { shared_[name] = value; }
  void slice(const std::string& name, const at::Tensor& piece, int64_t begin,
             int64_t total) override {
    at::Tensor& whole = slices_[name];
    if (!whole.defined()) whole = at::zeros({total}, piece.options());
    whole.narrow(0, begin, piece.numel()).copy_(piece);
  }
  void local(const std::string&, const at::Tensor&) override { FAIL(); }
  void local(const std::string&, int64_t) override { FAIL(); }
  bool has_shared(const std::string& name) const override { return shared_.contains(name); }
  at::Tensor shared(const std::string&) override { return {}; }
  int64_t shared_int(const std::string& name) override { return shared_.at(name); }
  void slice(const std::string& name, at::Tensor into, int64_t begin, int64_t) override {
    into.copy_(slices_.at(name).narrow(0, begin, into.numel()));
  }
  bool has_local() const override { return false; }
  at::Tensor local(const std::string&) override { return {}; }
  int64_t local_int(const std::string&) override { return 0; }

  std::map<std::string, int64_t> shared_;
  std::map<std::string, at::Tensor> slices_;
};

TEST(Stream, DrawsEveryExampleOnceAnEpochInAnotherOrder) {
  Stream stream(std::make_shared<Numbers>(12), {.micro_batch = 4});
  std::vector<std::vector<int64_t>> epochs(2);
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    for (int b = 0; b < 3; ++b) {
      const Batch batch = stream.next();
      EXPECT_EQ(batch.num_samples, 4);
      for (const int64_t index : values(batch.inputs))
        epochs[static_cast<size_t>(epoch)].push_back(index);
      for (const int64_t drawn : values(batch.targets)) EXPECT_EQ(drawn, epoch);
    }
  }
  EXPECT_NE(epochs[0], epochs[1]);
  std::vector<int64_t> all(12);
  std::iota(all.begin(), all.end(), 0);
  for (auto& epoch : epochs) EXPECT_THAT(epoch, ::testing::UnorderedElementsAreArray(all));
}

TEST(Stream, MicroBatchesReachOverTheEndOfAnEpoch) {
  Stream stream(std::make_shared<Numbers>(5), {.micro_batch = 4, .shuffle = false});
  EXPECT_THAT(all_of(stream.next()), ::testing::ElementsAre(0, /**/ 0, 1, 2, 3, /**/ 0, 0, 0, 0));
  EXPECT_THAT(all_of(stream.next()), ::testing::ElementsAre(1, /**/ 4, 0, 1, 2, /**/ 0, 1, 1, 1));
}

TEST(Stream, ReplicasTogetherDrawTheRowThatOneDrawsAlone) {
  auto numbers = std::make_shared<Numbers>(31);
  Stream alone(numbers, {.micro_batch = 3, .seed = 7});
  const auto row = draw(alone, 24);
  for (const int num_replicas : {2, 3}) {
    for (int replica = 0; replica < num_replicas; ++replica) {
      Stream stream(
          numbers, {.micro_batch = 3, .replica = replica, .num_replicas = num_replicas, .seed = 7});
      for (size_t k = 0; k < 8; ++k) {
        const auto number = k * static_cast<size_t>(num_replicas) + static_cast<size_t>(replica);
        EXPECT_EQ(all_of(stream.next()), row[number])
            << num_replicas << " replicas, number " << number;
      }
    }
  }
}

TEST(Stream, SeedChangesTheOrder) {
  auto numbers = std::make_shared<Numbers>(100);
  Stream one(numbers, {.micro_batch = 50, .seed = 1});
  Stream two(numbers, {.micro_batch = 50, .seed = 2});
  EXPECT_NE(all_of(one.next()), all_of(two.next()));
}

TEST(Stream, PrefetchingChangesNothing) {
  auto numbers = std::make_shared<Numbers>(17);
  Stream plain(numbers, {.micro_batch = 5, .prefetch = 0});
  Stream ahead(numbers, {.micro_batch = 5, .prefetch = 3});
  EXPECT_EQ(draw(plain, 20), draw(ahead, 20));
  EXPECT_EQ(plain.num_drawn(), 20);
  EXPECT_EQ(ahead.num_drawn(), 20);
}

TEST(Stream, SeekGoesOnExactly) {
  for (const int prefetch : {0, 2}) {
    Stream stream(std::make_shared<Numbers>(17), {.micro_batch = 5, .prefetch = prefetch});
    const auto row = draw(stream, 9);
    stream.seek(4);
    EXPECT_EQ(stream.num_drawn(), 4);
    EXPECT_EQ(all_of(stream.next()), row[4]);
    EXPECT_EQ(all_of(stream.next()), row[5]);
    stream.seek(0);
    EXPECT_EQ(all_of(stream.next()), row[0]);
  }
}

TEST(Stream, ALoadedStreamGoesOnWhereEachReplicaStood) {
  auto numbers = std::make_shared<Numbers>(17);
  StreamOptions options{.micro_batch = 2, .replica = 1, .num_replicas = 2};
  Stream original(numbers, options);
  draw(original, 7);
  State state;
  original.save(state);
  Stream loaded(numbers, options);
  loaded.next();
  loaded.load(state);
  EXPECT_EQ(loaded.num_drawn(), 7);
  EXPECT_EQ(draw(loaded, 5), draw(original, 5));
}

TEST(Stream, AnotherNumberOfReplicasGoesOnBeyondWhatWasDrawn) {
  auto numbers = std::make_shared<Numbers>(17);
  Stream alone(numbers, {.micro_batch = 2});
  const auto row = draw(alone, 30);
  State state;
  for (int replica = 0; replica < 3; ++replica) {  // the last one is the fastest: up to number 11
    Stream original(numbers, {.micro_batch = 2, .replica = replica, .num_replicas = 3});
    draw(original, 2 + replica);
    original.save(state);
  }
  for (int replica = 0; replica < 2; ++replica) {
    const StreamOptions options{.micro_batch = 2, .replica = replica, .num_replicas = 2};
    Stream loaded(numbers, options);
    loaded.load(state);
    const auto first = static_cast<size_t>(12 + replica);
    EXPECT_EQ(all_of(loaded.next()), row[first]);
    EXPECT_EQ(all_of(loaded.next()), row[first + 2]);
    // And what was loaded can be saved and loaded again.
    State again;
    loaded.save(again);
    Stream later(numbers, options);
    later.load(again);
    EXPECT_EQ(all_of(later.next()), row[first + 4]);
  }
}

TEST(Stream, RefusesAStateThatCannotBe) {
  Stream stream(std::make_shared<Numbers>(17), {});
  State state;
  state.shared_ = {{"stream.first", 0}, {"stream.num_replicas", 1}};
  state.slices_ = {{"stream.num_drawn", at::tensor({-3}, at::kLong)}};
  EXPECT_THAT(testing::data_error([&] { stream.load(state); }),
              ::testing::HasSubstr("before its beginning"));
  state.shared_["stream.num_replicas"] = int64_t{1} << 40;
  EXPECT_THAT(testing::data_error([&] { stream.load(state); }),
              ::testing::HasSubstr("1099511627776 replicas"));
  constexpr int64_t kFar = int64_t{1} << 62;
  for (const int64_t num_replicas : {1, 3}) {
    state.shared_["stream.num_replicas"] = num_replicas;
    for (const auto& [first, num_drawn] : {std::pair(kFar, int64_t{0}), {int64_t{0}, kFar}}) {
      state.shared_["stream.first"] = first;
      state.slices_["stream.num_drawn"] = at::full({num_replicas}, num_drawn, at::kLong);
      EXPECT_THAT(testing::data_error([&] { stream.load(state); }),
                  ::testing::HasSubstr("4611686018427387904"));
    }
  }
  // As far as is allowed there is something to draw.
  state.shared_ = {{"stream.first", (int64_t{1} << 46) / 16}, {"stream.num_replicas", 1}};
  state.slices_["stream.num_drawn"] = at::full({1}, (int64_t{1} << 46) / 16, at::kLong);
  stream.load(state);
  EXPECT_EQ(stream.next().index, (int64_t{1} << 47) / 16);
}

TEST(Stream, RethrowsWhatItsThreadMet) {
  for (const int prefetch : {0, 2}) {
    Stream stream(std::make_shared<Numbers>(10, /*broken=*/7),
                  {.micro_batch = 2, .shuffle = false, .prefetch = prefetch});
    for (int b = 0; b < 3; ++b) stream.next();
    EXPECT_EQ(testing::data_error([&] { stream.next(); }), "example 7 is broken");
    EXPECT_EQ(testing::data_error([&] { stream.next(); }), "example 7 is broken");
    EXPECT_EQ(stream.num_drawn(), 3);
    stream.seek(4);
    EXPECT_EQ(values(stream.next().inputs), (std::vector<int64_t>{8, 9}));
  }
}

TEST(Stream, EndsWhileItsThreadIsAhead) {
  for (int i = 0; i < 20; ++i) {
    Stream stream(std::make_shared<Numbers>(10), {.micro_batch = 2, .prefetch = 1 + i % 4});
    for (int k = 0; k < i % 3; ++k) stream.next();
  }
}

TEST(Stream, RefusesImpossibleOptions) {
  const auto make = [](StreamOptions options) {
    return testing::message_of<ConfigError>([&] { Stream(std::make_shared<Numbers>(3), options); });
  };
  EXPECT_EQ(make({.micro_batch = 0}), "a micro-batch needs at least 1 example, not 0");
  EXPECT_EQ(make({.prefetch = -1}), "data.prefetch is -1; it must be 0 or more");
}

TEST(Stream, RecordsWhatMakingABatchTakes) {
  trace::Tracer tracer;
  Stream stream(std::make_shared<Numbers>(10), {.prefetch = 0, .tracer = &tracer});
  stream.next();
  ASSERT_EQ(tracer.events().size(), 1);
  EXPECT_EQ(tracer.events()[0].track, trace::Track::data);
}

TEST(Sweep, GoesOverAllOnceInOrder) {
  const Sweep sweep(std::make_shared<Numbers>(7), 3);
  ASSERT_EQ(sweep.num_batches(), 3);
  EXPECT_EQ(values(sweep.batch(0).inputs), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(values(sweep.batch(2).inputs), (std::vector<int64_t>{6}));
  EXPECT_EQ(sweep.batch(2).num_samples, 1);
  EXPECT_EQ(sweep.batch(1).index, 1);
}

TEST(Sweep, StopsEarlyWhenAsked) {
  EXPECT_EQ(Sweep(std::make_shared<Numbers>(7), 3, 2).num_batches(), 2);
  EXPECT_EQ(Sweep(std::make_shared<Numbers>(7), 3, 9).num_batches(), 3);
  EXPECT_THROW(Sweep(std::make_shared<Numbers>(7), 0), ConfigError);
}

}  // namespace
}  // namespace outstep::data
