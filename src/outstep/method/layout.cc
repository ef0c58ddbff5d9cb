#include "outstep/method/layout.h"

#include <algorithm>
#include <utility>

#include "outstep/base/errors.h"

namespace outstep::method {

std::vector<optim::Segment> decay_segments(const nn::FlatParams& params) {
  std::vector<optim::Segment> segments;
  for (const nn::FlatParams::Entry& entry : params.entries()) {
    segments.push_back({.range = {entry.offset, entry.offset + entry.numel},
                        .decays = entry.decay == nn::Decay::yes});
  }
  return segments;
}

std::vector<optim::Range> parameter_ranges(const nn::FlatParams& params) {
  std::vector<optim::Range> ranges;
  for (const nn::FlatParams::Entry& entry : params.entries()) {
    if (!ranges.empty()) ranges.back().end = entry.offset;
    ranges.push_back({ranges.empty() ? 0 : entry.offset, params.size()});
  }
  return ranges;
}

BucketOptions BucketOptions::read(io::Section& section) {
  BucketOptions options;
  options.bucket_bytes = section.integer("bucket_bytes", options.bucket_bytes, {.min = 1});
  options.first_bucket_bytes = section.integer(
      "first_bucket_bytes", std::min(options.first_bucket_bytes, options.bucket_bytes),
      {.min = 1, .max = options.bucket_bytes});
  return options;
}

std::vector<optim::Range> plan_buckets(const nn::FlatParams& params, const BucketOptions& options) {
  std::vector<optim::Range> buckets;
  const std::vector<optim::Range> ranges = parameter_ranges(params);
  int64_t end = params.size();
  for (auto range = ranges.rbegin(); range != ranges.rend(); ++range) {
    const int64_t limit = buckets.empty() ? options.first_bucket_bytes : options.bucket_bytes;
    const int64_t num_bytes = (end - range->begin) * static_cast<int64_t>(sizeof(float));
    if (num_bytes < limit && range->begin > 0) continue;
    buckets.push_back({range->begin, end});
    end = range->begin;
  }
  return buckets;
}

BucketProgress::BucketProgress(std::vector<optim::Range> buckets) : buckets_(std::move(buckets)) {
  restart();
}

void BucketProgress::restart() {
  num_missing_.clear();
  for (const optim::Range& bucket : buckets_) num_missing_.push_back(bucket.size());
  num_launched_ = 0;
}

void BucketProgress::mark(int64_t begin, int64_t end) {
  // Buckets descend: the first whose begin is below `end` is the highest that can overlap.
  auto bucket = std::partition_point(buckets_.begin(), buckets_.end(),
                                     [&](const optim::Range& b) { return b.begin >= end; });
  for (; bucket != buckets_.end() && bucket->end > begin; ++bucket) {
    int64_t& missing = num_missing_[static_cast<size_t>(bucket - buckets_.begin())];
    missing -= std::min(end, bucket->end) - std::max(begin, bucket->begin);
    check(missing >= 0, "a backward pass announces each element once");
  }
}

int64_t BucketProgress::next_complete() {
  if (all_launched() || num_missing_[static_cast<size_t>(num_launched_)] > 0) return -1;
  return num_launched_++;
}

}  // namespace outstep::method
