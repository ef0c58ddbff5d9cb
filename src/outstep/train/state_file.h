#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "outstep/io/safetensors.h"
#include "outstep/io/state.h"

// The state entries of a checkpoint as safetensors files, one a rank:
//
//   "shared:sync/optimizer.step"
//        the same on every replica: in replica 0's file only
//   "slice:sync/optimizer.momentum@65536"
//        elements 65536, … of a flat vector; the metadata "total:sync/optimizer.momentum" tells its
//        whole length. A slice that is all of its vector is in replica 0's file only.
//   "local:engine/engine.buffers"
//        this rank's own
//
// The name begins with the component that saved the entry. Integers are tensors without dimensions.

namespace outstep::train {

// Collects entries; the tensors are borrowed until write().
class StateFileWriter : public io::StateWriter {
 public:
  explicit StateFileWriter(int replica) : replica_(replica) {}

  // All that the component saves, under its name.
  void save(const std::string& component, const io::Stateful& stateful);
  void write(const std::filesystem::path& path) const;

  void shared(const std::string& name, const at::Tensor& value) override;
  void shared(const std::string& name, int64_t value) override;
  void slice(const std::string& name, const at::Tensor& values, int64_t begin,
             int64_t total) override;
  void local(const std::string& name, const at::Tensor& value) override;
  void local(const std::string& name, int64_t value) override;

 private:
  void add(const std::string& kind, const std::string& name, const at::Tensor& value);

  const int replica_;
  std::string component_;
  std::vector<std::pair<std::string, at::Tensor>> entries_;
  std::map<std::string, std::string> totals_;
};

// Reads the files of all replicas of one member and stage.
class StateFileReader : public io::StateReader {
 public:
  // files: by replica, as saved. own_replica: whose local entries may be read; -1: nobody's,
  // because the world that saved was of another shape.
  StateFileReader(const std::vector<std::filesystem::path>& files, int own_replica);

  void load(const std::string& component, io::Stateful& stateful);

  at::Tensor shared(const std::string& name) override;
  int64_t shared_int(const std::string& name) override;
  bool has_shared(const std::string& name) const override;
  void slice(const std::string& name, at::Tensor into, int64_t begin, int64_t total) override;
  bool has_local() const override { return own_replica_ >= 0; }
  at::Tensor local(const std::string& name) override;
  int64_t local_int(const std::string& name) override;

 private:
  struct Piece {
    int64_t begin = 0;
    int64_t end = 0;
    size_t file = 0;
    std::string entry;
  };
  void index_slices(size_t file);
  at::Tensor entry(size_t file, const std::string& kind, const std::string& name) const;
  int64_t integer(size_t file, const std::string& kind, const std::string& name) const;

  std::vector<io::Safetensors> files_;
  const int own_replica_;
  std::string component_;
  std::map<std::string, std::vector<Piece>> slices_;  // by full name, sorted by begin
  std::map<std::string, int64_t> totals_;
};

}  // namespace outstep::train
