#pragma once

#include <memory>
#include <span>
#include <string>

#include "outstep/data/batch.h"

namespace outstep::data {

// Examples that can be named by number. Immutable after construction, hence thread safe.
class Dataset {
 public:
  virtual ~Dataset() = default;

  virtual int64_t size() const = 0;  // examples in one epoch
  // Says how a random choice about examples (crop, flip, the offset of text windows) is keyed.
  struct Draw {
    uint64_t seed = 0;
    bool augment = false;     // false: the example as it is
    int64_t micro_batch = 0;  // its number, which keys what is drawn once for all of it
  };
  struct Example {
    int64_t epoch = 0;
    int64_t index = 0;  // in [0, size())
  };
  // Stacks examples into a batch; Batch::index is left to the caller.
  virtual Batch gather(std::span<const Example> examples, const Draw& draw) const = 0;

  virtual std::string unit() const = 0;  // "tokens", "images" or, for other inputs, "samples"
  virtual std::string describe() const = 0;
};

}  // namespace outstep::data
