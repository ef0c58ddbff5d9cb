#include "outstep/train/agree.h"

#include <chrono>
#include <cstring>
#include <vector>

#include "outstep/base/foreign_errors.h"

namespace outstep::train {
namespace {

// Writing or checking a large checkpoint takes a while, and so does evaluating. A peer that is gone
// is noticed at once all the same; this is for one that hangs.
constexpr int kPatience = 10;

comm::CallOptions patient(const comm::Group& group, const char* what) {
  return {.deadline = group.deadline() * kPatience, .what = what};
}

struct Failure {
  int64_t exit_code = 0;  // 0: none
  std::string message = {};
};

Failure attempt(const std::function<void()>& work) {
  try {
    work();
    return {};
  } catch (const CommError&) {
    throw;
  } catch (...) {
    const Error error = as_error(std::current_exception());
    return {error.exit_code(), error.what()};
  }
}

// A rank that throws may end the process or abort its groups: not before all have the message.
void leave_together(comm::Group& group) {
  try {
    group.barrier(patient(group, "agreement on an error"));
  } catch (const CommError&) {
    // Whoever left early has the message already.
  }
}

[[noreturn]] void throw_failure(int64_t exit_code, const std::string& message) {
  if (exit_code == ConfigError("").exit_code()) throw ConfigError("{}", message);
  if (exit_code == DataError("").exit_code()) throw DataError("{}", message);
  throw Error("internal error", static_cast<int>(exit_code),
              message);  // has its file and line already
}

}  // namespace

void meet(comm::Group& group, const char* what) { group.barrier(patient(group, what)); }

at::Tensor gather_values(comm::Group& group, int64_t value) {
  at::Tensor values = at::zeros({group.size()}, at::kLong);
  values[group.rank()] = value;
  group.all_reduce(values, patient(group, "agreement"));
  return values;
}

std::string broadcast_text(comm::Group& group, const std::string& text, int root) {
  if (group.size() == 1) return text;
  at::Tensor length = at::full({1}, static_cast<int64_t>(text.size()), at::kLong);
  group.broadcast(length, root, patient(group, "length of a text"));
  at::Tensor bytes = at::empty({length.item<int64_t>()}, at::kByte);
  if (group.rank() == root) std::memcpy(bytes.mutable_data_ptr(), text.data(), text.size());
  if (bytes.numel() > 0) group.broadcast(bytes, root, patient(group, "text"));
  return {static_cast<const char*>(bytes.const_data_ptr()), static_cast<size_t>(bytes.numel())};
}

void together(comm::Group& group, const std::function<void()>& work) {
  const Failure mine = attempt(work);
  const at::Tensor exit_codes = gather_values(group, mine.exit_code);
  for (int rank = 0; rank < group.size(); ++rank) {
    const int64_t exit_code = exit_codes[rank].item<int64_t>();
    if (exit_code == 0) continue;
    const std::string message = broadcast_text(group, mine.message, rank);
    leave_together(group);
    throw_failure(exit_code, message);
  }
}

}  // namespace outstep::train
