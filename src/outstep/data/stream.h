#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "outstep/base/trace.h"
#include "outstep/data/dataset.h"
#include "outstep/io/state.h"

namespace outstep::data {

struct StreamOptions {
  int64_t micro_batch = 16;  // examples
  int replica = 0;           // this stream yields micro-batches replica, replica + num_replicas, …
  int num_replicas = 1;
  uint64_t seed = 1;
  bool shuffle = true;
  bool augment = false;
  int prefetch = 2;  // micro-batches made ahead on a thread; 0: made when asked for
  trace::Tracer* tracer = nullptr;
};

// An endless row of micro-batches. All replicas together draw one global row, numbered from 0: the
// k-th call on replica r yields number k · num_replicas + r. Example j of micro-batch n is example
// n · B + j of the endless row of shuffled epochs, a pure function of (seed, number): any rank can
// name any example, and one rank that draws alone sees the same row.
//
// One thread calls next; prefetching happens on a thread of the stream's own, whose errors next()
// rethrows.
class Stream : public io::Stateful {
 public:
  Stream(std::shared_ptr<const Dataset> dataset, StreamOptions options);
  ~Stream() override;

  // After an error, every later call throws it again, until seek.
  Batch next();
  // How many micro-batches this stream has yielded since it was made (or loaded for another number
  // of replicas).
  int64_t num_drawn() const { return num_drawn_; }
  // Goes on as if num_drawn micro-batches had been yielded.
  void seek(int64_t num_drawn);
  // Goes on with the micro-batch of this number, which must be one of this replica's. num_drawn
  // counts from here.
  void restart_at(int64_t number);

  // Which micro-batch next() yields next, by its number.
  int64_t next_number() const { return number_of(num_drawn_); }
  // Any micro-batch of the row by its number, whatever was yielded so far.
  Batch at(int64_t number) const;

  const Dataset& dataset() const { return *dataset_; }
  const StreamOptions& options() const { return options_; }

  // Saves how far each replica has come. As many replicas go on where each stood; another number of
  // them goes on beyond what any has drawn.
  void save(io::StateWriter& writer) const override;
  void load(io::StateReader& reader) override;

 private:
  int64_t number_of(int64_t drawn) const {
    return first_ + drawn * options_.num_replicas + options_.replica;
  }
  void prefetch_loop(std::stop_token stop, int64_t drawn);
  void stop_prefetching();

  std::shared_ptr<const Dataset> dataset_;
  StreamOptions options_;
  int64_t first_ =
      0;  // number of the first micro-batch of replica 0; not 0 after a change of num_replicas
  int64_t num_drawn_ = 0;  // the caller's thread only

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Batch> ready_;   // guarded by mutex_
  std::exception_ptr error_;  // guarded by mutex_
  std::jthread thread_;       // started by the first next()
};

// Every example of a dataset once, in order, for evaluation: batch b of num_batches(), the last one
// short.
class Sweep {
 public:
  Sweep(std::shared_ptr<const Dataset> dataset, int64_t batch_size,
        int64_t max_batches = 0);  // 0: all
  int64_t num_batches() const { return num_batches_; }
  Batch batch(int64_t b) const;

 private:
  std::shared_ptr<const Dataset> dataset_;
  int64_t batch_size_;
  int64_t num_batches_;
};

}  // namespace outstep::data
