#pragma once

#include <cstdint>
#include <vector>

#include "outstep/io/settings.h"
#include "outstep/nn/flat_params.h"
#include "outstep/optim/optimizer.h"

// How methods look at the flat parameter vector: where weight decay applies, and how it is cut for
// communication.

namespace outstep::method {

// One segment a parameter, for optim::make_optimizer.
std::vector<optim::Segment> decay_segments(const nn::FlatParams& params);

// Parameter i and the padding behind it. Together they cover the flat vector, in order.
std::vector<optim::Range> parameter_ranges(const nn::FlatParams& params);

struct BucketOptions {
  int64_t bucket_bytes = 2 << 20;
  int64_t first_bucket_bytes = 512 << 10;  // small, so that communication begins early

  // bucket_bytes and first_bucket_bytes of [sync].
  static BucketOptions read(io::Section& section);
};

// The flat vector cut into buckets of whole parameters, in the order in which backward finishes
// them: from its end. A bucket is closed when it has reached its size; a parameter larger than that
// is a bucket of its own or ends one.
std::vector<optim::Range> plan_buckets(const nn::FlatParams& params, const BucketOptions& options);

// Follows a backward pass: which buckets are complete, in launch order. Every rank launches in the
// order of the plan, whatever the order in which its ranges become ready. One thread uses it.
class BucketProgress {
 public:
  explicit BucketProgress(std::vector<optim::Range> buckets);

  // Begins a new pass: nothing is ready.
  void restart();
  // Notes that [begin, end) is final; it may span buckets.
  void mark(int64_t begin, int64_t end);
  // The next bucket in launch order if all of it is ready, else -1. Returns each bucket once.
  int64_t next_complete();
  bool all_launched() const { return num_launched_ == static_cast<int64_t>(buckets_.size()); }

  const std::vector<optim::Range>& buckets() const { return buckets_; }

 private:
  std::vector<optim::Range> buckets_;
  std::vector<int64_t> num_missing_;  // elements of each bucket that are not final yet
  int64_t num_launched_ = 0;
};

}  // namespace outstep::method
