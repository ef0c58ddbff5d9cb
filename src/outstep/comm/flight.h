#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "outstep/comm/wrapped_group.h"

// A flight recorder: the last operations of a rank, kept in memory and written to a file when one
// fails, so that the files of all ranks together show what was not matched by whom
// (comm/flight_report.h).
//
//   FlightRecorder flights(rank, world_size);
//   group = std::make_unique<Recorded>(std::move(group), flights);
//   flights.dump_on_error(run_folder / "flight-0.json");

namespace outstep::comm {

// Thread safe. Outlives the groups that record in it, and their Works.
class FlightRecorder {
 public:
  FlightRecorder(int rank, int world_size, size_t max_operations = 2000);

  // Where to write when an operation fails; the first failure is written, later ones are its
  // consequences.
  void dump_on_error(std::filesystem::path path);
  // Writes what is recorded now. Throws DataError.
  void dump(const std::filesystem::path& path) const;

  // What Recorded tells.
  using Id = uint64_t;
  struct Call {
    int group = 0;  // as given by add_group
    int peer = -1;  // rank in the group; -1: a collective
    CallOptions options;
    int64_t num_bytes = 0;
  };
  int add_group(const Group& group);
  Id begin(const Call& call);
  void end(Id id);
  void fail(Id id, const std::string& error);  // dumps, once

 private:
  enum class Status { under_way, done, failed };
  struct Operation {
    Call call;
    int64_t number = 0;  // counted from 0 among the group's collectives, or its transfers of one
                         // peer, way and tag
    Clock::time_point begun;
    Clock::time_point ended;
    Status status = Status::under_way;
    std::string error;
  };
  struct GroupInfo {
    std::string name;
    int rank = 0;
    std::vector<std::string> names;
    int64_t num_collectives = 0;
    std::map<std::tuple<bool, int, Tag>, int64_t> num_transfers;  // by is_send, peer and tag
  };

  int64_t next_number(const Call& call);
  Operation* find(Id id);  // null where it is no longer kept
  nlohmann::ordered_json to_json() const;

  const int rank_;
  const int world_size_;
  const size_t max_operations_;
  mutable std::mutex mutex_;
  // A ring: operation i is at i % max_operations_.
  std::vector<Operation> operations_;  // guarded by mutex_
  Id num_begun_ = 0;                   // guarded by mutex_
  std::vector<GroupInfo> groups_;      // guarded by mutex_
  std::filesystem::path path_;         // guarded by mutex_; empty: nowhere
  std::string first_error_;            // guarded by mutex_
};

// Records what is called: sends and receives, and collectives as one operation each.
class Recorded : public WrappedGroup {
 public:
  Recorded(std::unique_ptr<Group> inner, FlightRecorder& recorder);

  void all_reduce(at::Tensor tensor, CallOptions options = {}, Wire wire = Wire::exact) override;
  void reduce_scatter(const at::Tensor& input, at::Tensor output, const Shards& shards,
                      CallOptions options = {}, Wire wire = Wire::exact) override;
  void all_gather(const at::Tensor& input, at::Tensor output, const Shards& shards,
                  CallOptions options = {}, Wire wire = Wire::exact) override;
  void all_to_all(const at::Tensor& input, at::Tensor output, CallOptions options = {}) override;
  void all_to_all(const at::Tensor& input, at::Tensor output, const Splits& splits,
                  CallOptions options = {}) override;
  void broadcast(at::Tensor tensor, int root, CallOptions options = {}) override;
  void barrier(CallOptions options = {}) override;

 protected:
  Work do_send(const at::Tensor& tensor, int peer, const CallOptions& options) override;
  Work do_recv(at::Tensor tensor, int peer, const CallOptions& options) override;

 private:
  template <typename Post>
  Work record_transfer(int peer, int64_t num_bytes, const CallOptions& options, const Post& post);
  template <typename Collective>
  void record(const char* operation, size_t num_bytes, CallOptions options,
              const Collective& collective);

  FlightRecorder& recorder_;
  const int group_;
};

}  // namespace outstep::comm
