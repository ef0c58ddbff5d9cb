#pragma once

#include <cstdint>
#include <string>

#include "outstep/base/torch.h"

// What a checkpoint keeps of a component, entry by entry. train/checkpoint.h implements both sides.
//
// Three kinds of entry say how they relate to the ranks of a replica group, so that another world
// size can read them:
//   shared   the same on every replica; written once
//   slice    a range of a flat vector that all replicas hold together; keyed by flat index, never
//   by rank local    this rank's own (a message in flight, running statistics). Another world size
//   gets none.

namespace outstep::io {

class StateWriter {
 public:
  virtual ~StateWriter() = default;
  virtual void shared(const std::string& name, const at::Tensor& value) = 0;
  virtual void shared(const std::string& name, int64_t value) = 0;
  virtual void slice(const std::string& name, const at::Tensor& values, int64_t begin,
                     int64_t total) = 0;
  virtual void local(const std::string& name, const at::Tensor& value) = 0;
  virtual void local(const std::string& name, int64_t value) = 0;
};

// Each get throws DataError naming the entry if it is missing or of another shape.
class StateReader {
 public:
  virtual ~StateReader() = default;
  virtual bool has_shared(const std::string& name) const = 0;
  virtual at::Tensor shared(const std::string& name) = 0;
  virtual int64_t shared_int(const std::string& name) = 0;
  // Fills `into` with elements [begin, begin + into.numel()) of the flat vector.
  virtual void slice(const std::string& name, at::Tensor into, int64_t begin, int64_t total) = 0;
  // Whether this rank may read local entries: the checkpoint was written by a world of the same
  // shape.
  virtual bool has_local() const = 0;
  virtual at::Tensor local(const std::string& name) = 0;
  virtual int64_t local_int(const std::string& name) = 0;
};

class Stateful {
 public:
  virtual ~Stateful() = default;
  virtual void save(StateWriter& writer) const = 0;
  virtual void load(StateReader& reader) = 0;
};

}  // namespace outstep::io
