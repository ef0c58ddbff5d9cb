#include "outstep/data/stream.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "outstep/base/errors.h"
#include "outstep/base/rng.h"
#include "outstep/base/threads.h"

namespace outstep::data {
namespace {

// Example `number` of the endless row of epochs.
class Row {
 public:
  Row(int64_t size, const StreamOptions& options) : size_(size), options_(options) {}

  Dataset::Example example(int64_t number) {
    const int64_t epoch = number / size_;
    const int64_t place = number % size_;
    return {.epoch = epoch, .index = options_.shuffle ? shuffled(epoch, place) : place};
  }

 private:
  int64_t shuffled(int64_t epoch, int64_t place) {
    if (!order_ || epoch != order_epoch_) {
      order_.emplace(static_cast<uint64_t>(size_), RngKey{.seed = options_.seed,
                                                          .purpose = purpose("data.shuffle"),
                                                          .stream = static_cast<uint64_t>(epoch)});
      order_epoch_ = epoch;
    }
    return static_cast<int64_t>((*order_)[static_cast<uint64_t>(place)]);
  }

  int64_t size_;
  const StreamOptions& options_;
  std::optional<Permutation> order_;
  int64_t order_epoch_ = 0;
};

}  // namespace

Stream::Stream(std::shared_ptr<const Dataset> dataset, StreamOptions options)
    : dataset_(std::move(dataset)), options_(options) {
  if (options_.micro_batch < 1) {
    throw ConfigError("a micro-batch needs at least 1 example, not {}", options_.micro_batch);
  }
  if (options_.prefetch < 0) {
    throw ConfigError("data.prefetch is {}; it must be 0 or more", options_.prefetch);
  }
  check(options_.num_replicas >= 1 && options_.replica >= 0 &&
            options_.replica < options_.num_replicas,
        "a stream belongs to one of its replicas");
  check(dataset_ && dataset_->size() >= 1, "a stream draws from at least one example");
}

Stream::~Stream() { stop_prefetching(); }

Batch Stream::next() {
  if (options_.prefetch == 0) {
    Batch batch = at(next_number());
    ++num_drawn_;
    return batch;
  }
  if (!thread_.joinable()) {
    thread_ = std::jthread(
        [this, drawn = num_drawn_](std::stop_token stop) { prefetch_loop(stop, drawn); });
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !ready_.empty() || error_; });
  if (ready_.empty()) std::rethrow_exception(error_);
  Batch batch = std::move(ready_.front());
  ready_.pop_front();
  ++num_drawn_;
  changed_.notify_all();
  return batch;
}

void Stream::seek(int64_t num_drawn) {
  check(num_drawn >= 0, "a stream cannot be set before its beginning");
  stop_prefetching();
  num_drawn_ = num_drawn;
}

void Stream::restart_at(int64_t number) {
  check(number >= options_.replica, "a stream cannot be set before its beginning");
  seek(0);
  first_ = number - options_.replica;
}

void Stream::save(io::StateWriter& writer) const {
  writer.shared("stream.first", first_);
  writer.shared("stream.num_replicas", options_.num_replicas);
  writer.slice("stream.num_drawn", at::full({1}, num_drawn_, at::kLong), options_.replica,
               options_.num_replicas);
}

void Stream::load(io::StateReader& reader) {
  constexpr int64_t kMostReplicas = 1 << 20;
  const int64_t first = reader.shared_int("stream.first");
  const int64_t num_replicas = reader.shared_int("stream.num_replicas");
  if (num_replicas < 1 || num_replicas > kMostReplicas) {
    throw DataError("the checkpoint says that the data stream has {} replicas", num_replicas);
  }
  const at::Tensor num_drawn = at::empty({num_replicas}, at::kLong);
  reader.slice("stream.num_drawn", num_drawn, 0, num_replicas);
  const auto least = num_drawn.min().item<int64_t>(), most = num_drawn.max().item<int64_t>();
  if (first < 0 || least < 0) {
    throw DataError("the checkpoint says that the data stream stands before its beginning");
  }
  // Micro-batches and epochs key random numbers, which have streams of 48 bits: half of these at
  // most have been used.
  const int64_t end = (int64_t{1} << 46) / options_.micro_batch;
  if (first > end || most > end / num_replicas) {
    throw DataError(
        "the checkpoint says that the data stream has come to micro-batch {} and {} more of each "
        "replica, which no run does",
        first, most);
  }
  if (num_replicas == options_.num_replicas) {
    seek(num_drawn[options_.replica].item<int64_t>());
    first_ = first;
  } else {  // beyond what any replica has drawn
    seek(0);
    first_ = first + most * num_replicas;
  }
}

Batch Stream::at(int64_t number) const {
  check(number >= 0, "micro-batches are numbered from 0");
  trace::Span span(options_.tracer, trace::Track::data, "make batch");
  Row row(dataset_->size(), options_);
  std::vector<Dataset::Example> examples(static_cast<size_t>(options_.micro_batch));
  for (int64_t j = 0; j < options_.micro_batch; ++j) {
    examples[static_cast<size_t>(j)] = row.example(number * options_.micro_batch + j);
  }
  Batch batch = dataset_->gather(
      examples, {.seed = options_.seed, .augment = options_.augment, .micro_batch = number});
  batch.index = number;
  return batch;
}

void Stream::prefetch_loop(std::stop_token stop, int64_t drawn) {
  name_this_thread("data");
  try {
    for (;; ++drawn) {
      {
        std::unique_lock lock(mutex_);
        const bool has_room = changed_.wait(
            lock, stop, [this] { return ready_.size() < static_cast<size_t>(options_.prefetch); });
        if (!has_room || stop.stop_requested()) return;
      }
      Batch batch = at(number_of(drawn));
      std::lock_guard lock(mutex_);
      ready_.push_back(std::move(batch));
      changed_.notify_all();
    }
  } catch (...) {
    std::lock_guard lock(mutex_);
    error_ = std::current_exception();
    changed_.notify_all();
  }
}

void Stream::stop_prefetching() {
  if (thread_.joinable()) {
    thread_.request_stop();
    thread_.join();
    thread_ = std::jthread();
  }
  ready_.clear();
  error_ = nullptr;
}

Sweep::Sweep(std::shared_ptr<const Dataset> dataset, int64_t batch_size, int64_t max_batches)
    : dataset_(std::move(dataset)), batch_size_(batch_size) {
  if (batch_size < 1) throw ConfigError("a batch needs at least 1 example, not {}", batch_size);
  num_batches_ = (dataset_->size() + batch_size - 1) / batch_size;
  if (max_batches > 0) num_batches_ = std::min(num_batches_, max_batches);
}

Batch Sweep::batch(int64_t b) const {
  check(b >= 0 && b < num_batches_, "a sweep has the batch that is asked for");
  const int64_t begin = b * batch_size_;
  const int64_t end = std::min(dataset_->size(), begin + batch_size_);
  std::vector<Dataset::Example> examples;
  for (int64_t i = begin; i < end; ++i) examples.push_back({.epoch = 0, .index = i});
  Batch batch = dataset_->gather(examples, {.seed = 0, .augment = false});
  batch.index = b;
  return batch;
}

}  // namespace outstep::data
