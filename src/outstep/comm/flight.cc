#include "outstep/comm/flight.h"

#include <fmt/format.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/base/log.h"
#include "outstep/io/files.h"

namespace outstep::comm {
namespace {

// Ends a recorded transfer's entry when it is seen to end.
class RecordedTransfer : public Work::Transfer {
 public:
  RecordedTransfer(Work work, FlightRecorder& recorder, FlightRecorder::Id id)
      : work_(std::move(work)), recorder_(recorder), id_(id) {}

  void wait() override {
    try {
      work_.wait();
    } catch (const CommError& error) {
      recorder_.fail(id_, error.what());
      throw;
    }
    recorder_.end(id_);
  }
  bool is_done() override {
    if (!work_.is_done()) return false;
    try {
      wait();  // how it ended is known to wait alone
    } catch (const CommError&) {
      // Thrown again by the caller's wait.
    }
    return true;
  }

 private:
  Work work_;
  FlightRecorder& recorder_;
  const FlightRecorder::Id id_;
};

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

FlightRecorder::FlightRecorder(int rank, int world_size, size_t max_operations)
    : rank_(rank), world_size_(world_size), max_operations_(max_operations) {
  operations_.reserve(max_operations);
}

void FlightRecorder::dump_on_error(std::filesystem::path path) {
  const std::lock_guard lock(mutex_);
  path_ = std::move(path);
}

void FlightRecorder::dump(const std::filesystem::path& path) const {
  std::string text;
  {
    const std::lock_guard lock(mutex_);
    text = to_json().dump(1);
  }
  io::write_text_atomically(path, text + "\n");
}

int FlightRecorder::add_group(const Group& group) {
  GroupInfo info{.name = group.name(), .rank = group.rank(), .names = {}, .num_transfers = {}};
  for (int rank = 0; rank < group.size(); ++rank) info.names.push_back(group.describe(rank));
  const std::lock_guard lock(mutex_);
  groups_.push_back(std::move(info));
  return static_cast<int>(groups_.size()) - 1;
}

int64_t FlightRecorder::next_number(const Call& call) {
  GroupInfo& group = groups_[static_cast<size_t>(call.group)];
  if (call.peer < 0) return group.num_collectives++;
  const bool is_send = std::strcmp(call.options.operation, "send") == 0;
  return group.num_transfers[{is_send, call.peer, call.options.tag}]++;
}

FlightRecorder::Id FlightRecorder::begin(const Call& call) {
  const std::lock_guard lock(mutex_);
  Operation operation{
      .call = call, .number = next_number(call), .begun = Clock::now(), .ended = {}, .error = {}};
  const Id id = num_begun_++;
  if (operations_.size() < max_operations_) {
    operations_.push_back(std::move(operation));
  } else {
    operations_[id % max_operations_] = std::move(operation);
  }
  return id;
}

FlightRecorder::Operation* FlightRecorder::find(Id id) {
  if (id + max_operations_ < num_begun_) return nullptr;
  Operation& operation = operations_[id % max_operations_];
  return operation.status == Status::under_way ? &operation : nullptr;  // the first end counts
}

void FlightRecorder::end(Id id) {
  const std::lock_guard lock(mutex_);
  if (Operation* operation = find(id)) {
    operation->status = Status::done;
    operation->ended = Clock::now();
  }
}

void FlightRecorder::fail(Id id, const std::string& error) {
  std::filesystem::path path;
  {
    const std::lock_guard lock(mutex_);
    if (Operation* operation = find(id)) {
      operation->status = Status::failed;
      operation->ended = Clock::now();
      operation->error = error;
    }
    if (!first_error_.empty()) return;
    first_error_ = error;
    path = path_;
  }
  if (path.empty()) return;
  try {
    dump(path);
  } catch (const DataError& trouble) {
    log::warn("the flight record was not written: {}",
              trouble.what());  // the error itself matters more
  }
}

nlohmann::ordered_json FlightRecorder::to_json() const {
  const double clock_offset =
      seconds_since_1970() - std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
  const auto time = [&](Clock::time_point point) {
    return clock_offset + std::chrono::duration<double>(point.time_since_epoch()).count();
  };
  nlohmann::ordered_json json = {{"format", "outstep flight record"},
                                 {"version", 1},
                                 {"rank", rank_},
                                 {"world_size", world_size_},
                                 {"written_at", seconds_since_1970()},
                                 {"error", first_error_},
                                 {"num_operations", num_begun_},
                                 {"groups", nlohmann::ordered_json::array()},
                                 {"operations", nlohmann::ordered_json::array()}};
  for (const GroupInfo& group : groups_) {
    json["groups"].push_back({{"name", group.name},
                              {"rank", group.rank},
                              {"ranks", group.names},
                              {"num_collectives", group.num_collectives}});
  }
  const Id first = num_begun_ - operations_.size();
  for (Id id = first; id < num_begun_; ++id) {
    const Operation& operation = operations_[id % max_operations_];
    const CallOptions& options = operation.call.options;
    const bool is_over = operation.status != Status::under_way;
    static constexpr const char* kStatusNames[] = {"under way", "done", "failed"};
    json["operations"].push_back(
        {{"group", operation.call.group},
         {"operation", options.operation},
         {"number", operation.number},
         {"peer", operation.call.peer},
         {"tag", options.tag},
         {"bytes", operation.call.num_bytes},
         {"what", options.what},
         {"step", options.step},
         {"begun_at", time(operation.begun)},
         {"seconds", is_over ? seconds_between(operation.begun, operation.ended) : -1.0},
         {"status", kStatusNames[static_cast<int>(operation.status)]},
         {"error", operation.error}});
  }
  return json;
}

Recorded::Recorded(std::unique_ptr<Group> inner, FlightRecorder& recorder)
    : WrappedGroup(std::move(inner)), recorder_(recorder), group_(recorder.add_group(*this)) {}

template <typename Post>
Work Recorded::record_transfer(int peer, int64_t num_bytes, const CallOptions& options,
                               const Post& post) {
  const auto id =
      recorder_.begin({.group = group_, .peer = peer, .options = options, .num_bytes = num_bytes});
  try {
    return Work(std::make_shared<RecordedTransfer>(post(), recorder_, id));
  } catch (const CommError& error) {
    recorder_.fail(id, error.what());
    throw;
  }
}

Work Recorded::do_send(const at::Tensor& tensor, int peer, const CallOptions& options) {
  const auto num_bytes = static_cast<int64_t>(tensor.nbytes());
  return record_transfer(peer, num_bytes, options,
                         [&] { return WrappedGroup::do_send(tensor, peer, options); });
}

Work Recorded::do_recv(at::Tensor tensor, int peer, const CallOptions& options) {
  const auto num_bytes = static_cast<int64_t>(tensor.nbytes());
  return record_transfer(peer, num_bytes, options,
                         [&] { return WrappedGroup::do_recv(std::move(tensor), peer, options); });
}

template <typename Collective>
void Recorded::record(const char* operation, size_t num_bytes, CallOptions options,
                      const Collective& collective) {
  CallOptions named = options;
  named.operation = operation;
  const auto id = recorder_.begin(
      {.group = group_, .options = named, .num_bytes = static_cast<int64_t>(num_bytes)});
  try {
    collective(options);
  } catch (const CommError& error) {
    recorder_.fail(id, error.what());
    throw;
  }
  recorder_.end(id);
}

void Recorded::all_reduce(at::Tensor tensor, CallOptions options, Wire wire) {
  record("all_reduce", tensor.nbytes(), options,
         [&](const CallOptions& call) { inner().all_reduce(tensor, call, wire); });
}

void Recorded::reduce_scatter(const at::Tensor& input, at::Tensor output, const Shards& shards,
                              CallOptions options, Wire wire) {
  record("reduce_scatter", input.nbytes(), options, [&](const CallOptions& call) {
    inner().reduce_scatter(input, output, shards, call, wire);
  });
}

void Recorded::all_gather(const at::Tensor& input, at::Tensor output, const Shards& shards,
                          CallOptions options, Wire wire) {
  record("all_gather", output.nbytes(), options,
         [&](const CallOptions& call) { inner().all_gather(input, output, shards, call, wire); });
}

void Recorded::all_to_all(const at::Tensor& input, at::Tensor output, CallOptions options) {
  record("all_to_all", input.nbytes(), options,
         [&](const CallOptions& call) { inner().all_to_all(input, output, call); });
}

void Recorded::all_to_all(const at::Tensor& input, at::Tensor output, const Splits& splits,
                          CallOptions options) {
  record("all_to_all", input.nbytes(), options,
         [&](const CallOptions& call) { inner().all_to_all(input, output, splits, call); });
}

void Recorded::broadcast(at::Tensor tensor, int root, CallOptions options) {
  record("broadcast", tensor.nbytes(), options,
         [&](const CallOptions& call) { inner().broadcast(tensor, root, call); });
}

void Recorded::barrier(CallOptions options) {
  record("barrier", 0, options, [&](const CallOptions& call) { inner().barrier(call); });
}

}  // namespace outstep::comm
