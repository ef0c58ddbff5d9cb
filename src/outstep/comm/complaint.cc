#include "outstep/comm/complaint.h"

#include <fmt/format.h>

namespace outstep::comm {

std::string describe_deadline(std::chrono::milliseconds deadline) {
  if (deadline.count() % 1000 == 0) return fmt::format("{} s", deadline.count() / 1000);
  if (deadline.count() < 1000) return fmt::format("{} ms", deadline.count());
  return fmt::format("{:.2f} s", static_cast<double>(deadline.count()) / 1000);
}

std::string describe_call(const CallOptions& options) {
  std::string text = fmt::format("{}, tag {}", options.operation, options.tag % kReservedTags);
  const bool has_what = options.what != nullptr && *options.what != '\0';
  if (has_what && options.step >= 0) {
    text += fmt::format(" (\"{}, step {}\")", options.what, options.step);
  } else if (has_what) {
    text += fmt::format(" (\"{}\")", options.what);
  } else if (options.step >= 0) {
    text += fmt::format(" (step {})", options.step);
  }
  return text;
}

CommError Complaint::error(std::string_view event, Clock::time_point waiting_since) const {
  return CommError("{} {} during {}, {:.2f} s of {}", (*names)[static_cast<size_t>(peer)], event,
                   describe_call(options), seconds_since(waiting_since),
                   describe_deadline(deadline()));
}

bool Departure::set(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (reason_) return false;
  reason_ = reason;
  is_set_.notify_all();
  return true;
}

std::optional<std::string> Departure::reason() const {
  const std::lock_guard lock(mutex_);
  return reason_;
}

std::optional<std::string> Departure::wait_for_reason(std::chrono::milliseconds patience) const {
  std::unique_lock lock(mutex_);
  is_set_.wait_for(lock, patience, [&] { return reason_.has_value(); });
  return reason_;
}

void Departure::throw_if_set(const std::string& self) const {
  if (const auto why = reason())
    throw CommError("this group is of no use any more: {} {}", self, *why);
}

}  // namespace outstep::comm
