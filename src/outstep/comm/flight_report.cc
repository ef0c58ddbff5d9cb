#include "outstep/comm/flight_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/io/files.h"
#include "outstep/io/json.h"

namespace outstep::comm {
namespace {

constexpr size_t kMaxFindings = 20;
constexpr int kMaxRanks = 1 << 20;
constexpr size_t kLastOperations = 8;  // shown of each rank

struct Operation {
  int group = 0;
  std::string name;
  int64_t number = 0;
  int peer = -1;  // rank in the group; -1: a collective
  int64_t tag = 0;
  int64_t num_bytes = 0;
  std::string what;
  int64_t step = -1;
  double begun_at = 0;
  double seconds = -1;
  std::string status;
};

struct GroupInfo {
  std::string name;
  int rank = 0;
  std::vector<std::string> ranks;
  int64_t num_collectives = 0;
};

struct Record {
  int rank = 0;
  int world_size = 1;
  double written_at = 0;
  std::string error;
  int64_t num_operations = 0;
  std::vector<GroupInfo> groups;
  std::vector<Operation> operations;
};

Record read_record(const std::filesystem::path& path) {
  Record record;
  try {
    const auto json = io::parse_json(io::read_text(path), path.string());
    if (json.at("format") != "outstep flight record" || json.at("version") != 1) {
      throw DataError("{}: not a flight record of a version this outstep knows", path.string());
    }
    record.rank = json.at("rank");
    record.world_size = json.at("world_size");
    if (record.world_size < 1 || record.world_size > kMaxRanks || record.rank < 0 ||
        record.rank >= record.world_size) {
      throw DataError("{}: rank {} of {} is none", path.string(), record.rank, record.world_size);
    }
    record.written_at = json.at("written_at");
    record.error = json.at("error");
    record.num_operations = json.at("num_operations");
    for (const auto& group : json.at("groups")) {
      record.groups.push_back(
          {group.at("name"), group.at("rank"), group.at("ranks"), group.at("num_collectives")});
    }
    for (const auto& op : json.at("operations")) {
      record.operations.push_back({op.at("group"), op.at("operation"), op.at("number"),
                                   op.at("peer"), op.at("tag"), op.at("bytes"), op.at("what"),
                                   op.at("step"), op.at("begun_at"), op.at("seconds"),
                                   op.at("status")});
      const Operation& read = record.operations.back();
      const auto group = static_cast<size_t>(read.group);
      if (read.group < 0 || group >= record.groups.size() ||
          read.peer >= static_cast<int>(record.groups[group].ranks.size())) {
        throw DataError("{}: an operation names a group or peer that is not there", path.string());
      }
    }
  } catch (const nlohmann::json::exception& error) {
    throw DataError("{}: not a flight record ({})", path.string(), error.what());
  }
  return record;
}

std::string describe(const Operation& op) {
  std::string text = fmt::format("{} number {}, tag {}", op.name, op.number, op.tag);
  if (!op.what.empty()) {
    text += op.step >= 0 ? fmt::format(" (\"{}, step {}\")", op.what, op.step)
                         : fmt::format(" (\"{}\")", op.what);
  }
  if (op.num_bytes > 0) text += ", " + human_bytes(op.num_bytes);
  return text;
}

std::string state_of(const Operation& op, const Record& record) {
  if (op.status != "under way") return fmt::format("{} after {:.3f} s", op.status, op.seconds);
  return fmt::format("under way for {:.3f} s", record.written_at - op.begun_at);
}

// One group as its ranks recorded it; a rank without a record is null.
struct Member {
  const Record* record = nullptr;
  int group = 0;  // index in that record
  std::map<int64_t, const Operation*> collectives;
};

struct Meeting {
  std::string name;
  std::vector<std::string> ranks;
  std::vector<Member> members;  // by rank in the group
};

// Groups are the same where name, ranks and order of making agree.
std::vector<Meeting> meetings_of(const std::vector<Record>& records) {
  std::map<std::string, Meeting> by_key;
  for (const Record& record : records) {
    std::map<std::string, int> num_seen;
    for (size_t index = 0; index < record.groups.size(); ++index) {
      const GroupInfo& group = record.groups[index];
      std::string key = nlohmann::json{group.name, group.ranks}.dump();
      key += std::to_string(num_seen[key]++);
      Meeting& meeting = by_key[key];
      meeting.name = group.name;
      meeting.ranks = group.ranks;
      meeting.members.resize(group.ranks.size());
      if (group.rank < 0 || static_cast<size_t>(group.rank) >= group.ranks.size()) continue;
      Member& member = meeting.members[static_cast<size_t>(group.rank)];
      member.record = &record;
      member.group = static_cast<int>(index);
      for (const Operation& op : record.operations) {
        if (op.group == member.group && op.peer < 0) member.collectives[op.number] = &op;
      }
    }
  }
  std::vector<Meeting> meetings;
  for (auto& [key, meeting] : by_key) meetings.push_back(std::move(meeting));
  return meetings;
}

std::string last_collective(const Member& member) {
  if (member.collectives.empty()) return "it has posted none";
  const Operation& last = *member.collectives.rbegin()->second;
  return fmt::format("its last is {}, {}", describe(last), state_of(last, *member.record));
}

// What not all ranks came to, or came to with something else. One finding a number, the earliest
// first.
void compare_collectives(const Meeting& meeting, std::vector<std::string>& findings) {
  std::set<int64_t> numbers;
  for (const Member& member : meeting.members) {
    for (const auto& [number, op] : member.collectives) numbers.insert(number);
  }
  for (const int64_t number : numbers) {
    const Operation* first = nullptr;
    std::vector<std::string> parts;
    bool is_odd = false;
    for (size_t rank = 0; rank < meeting.members.size(); ++rank) {
      const Member& member = meeting.members[rank];
      if (member.record == nullptr) continue;
      const auto found = member.collectives.find(number);
      if (found == member.collectives.end()) {
        const bool is_forgotten =
            number < member.record->groups[static_cast<size_t>(member.group)].num_collectives;
        if (is_forgotten) continue;  // posted, but no longer kept
        parts.push_back(
            fmt::format("{} has not posted it: {}", meeting.ranks[rank], last_collective(member)));
        is_odd = true;
        continue;
      }
      const Operation& op = *found->second;
      if (first == nullptr) first = &op;
      const bool differs =
          op.name != first->name || op.tag != first->tag || op.num_bytes != first->num_bytes;
      parts.push_back(
          differs ? fmt::format("{} posted {} instead, {}", meeting.ranks[rank], describe(op),
                                state_of(op, *member.record))
                  : fmt::format("{}: {}", meeting.ranks[rank], state_of(op, *member.record)));
      is_odd = is_odd || differs || op.status != "done";
    }
    if (!is_odd) continue;
    findings.push_back(fmt::format("group \"{}\": {}\n    {}", meeting.name, describe(*first),
                                   fmt::join(parts, "\n    ")));
    return;  // what follows it is its consequence
  }
}

// The other half of a transfer, if its rank's record has it.
const Operation* other_half(const Member& member, const Operation& op, int rank) {
  for (const Operation& other : member.record->operations) {
    if (other.group == member.group && other.peer == rank && other.tag == op.tag &&
        other.number == op.number && other.name != op.name) {
      return &other;
    }
  }
  return nullptr;
}

void compare_transfers(const Meeting& meeting, std::vector<std::string>& findings) {
  for (size_t rank = 0; rank < meeting.members.size(); ++rank) {
    const Member& member = meeting.members[rank];
    if (member.record == nullptr) continue;
    for (const Operation& op : member.record->operations) {
      if (op.group != member.group || op.peer < 0 || op.status == "done") continue;
      const Member& peer = meeting.members[static_cast<size_t>(op.peer)];
      const std::string& peer_name = meeting.ranks[static_cast<size_t>(op.peer)];
      std::string other_end = fmt::format("there is no record of {}", peer_name);
      if (peer.record != nullptr) {
        const Operation* other = other_half(peer, op, static_cast<int>(rank));
        if (other != nullptr && op.name == "recv" && other->status != "done")
          continue;  // told from the sender's side
        other_end = other == nullptr ? fmt::format("{} has not posted the other half", peer_name)
                                     : fmt::format("{} has the other half {}", peer_name,
                                                   state_of(*other, *peer.record));
      }
      findings.push_back(fmt::format("group \"{}\": {} {} {}\n    {}: {}\n    {}", meeting.name,
                                     describe(op), op.name == "send" ? "to" : "from", peer_name,
                                     meeting.ranks[rank], state_of(op, *member.record), other_end));
    }
  }
}

std::string last_operations(const Record& record) {
  std::string text;
  const size_t first =
      record.operations.size() - std::min(kLastOperations, record.operations.size());
  for (size_t index = first; index < record.operations.size(); ++index) {
    const Operation& op = record.operations[index];
    const GroupInfo& group = record.groups[static_cast<size_t>(op.group)];
    const std::string peer =
        op.peer < 0 ? "" : fmt::format(" with {}", group.ranks[static_cast<size_t>(op.peer)]);
    text += fmt::format("  {:+9.3f} s  {}: {}{}, {}\n", op.begun_at - record.written_at, group.name,
                        describe(op), peer, state_of(op, record));
  }
  return text;
}

std::vector<Record> read_records(const std::vector<std::filesystem::path>& files) {
  std::map<int, Record> by_rank;
  for (const std::filesystem::path& file : files) {
    Record record = read_record(file);
    const int rank = record.rank;
    if (!by_rank.empty() && by_rank.begin()->second.world_size != record.world_size) {
      throw DataError(
          "{}: of a world of {}, other records are of a world of {}; give the records of one run",
          file.string(), record.world_size, by_rank.begin()->second.world_size);
    }
    if (!by_rank.emplace(rank, std::move(record)).second) {
      throw DataError("{}: a second record of rank {}; give the records of one run", file.string(),
                      rank);
    }
  }
  std::vector<Record> records;
  for (auto& [rank, record] : by_rank) records.push_back(std::move(record));
  return records;
}

}  // namespace

std::vector<std::filesystem::path> flight_records_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("flight") && name.ends_with(".json")) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) {
    const std::string x = a.filename().string(), y = b.filename().string();
    return std::pair(x.size(), x) < std::pair(y.size(), y);  // flight-2 before flight-10
  });
  return files;
}

FlightReport report_flights(const std::vector<std::filesystem::path>& files) {
  const std::vector<Record> records = read_records(files);
  check(!records.empty(), "a report needs a flight record");
  std::vector<std::string> findings;
  for (const Meeting& meeting : meetings_of(records)) {
    compare_collectives(meeting, findings);
    compare_transfers(meeting, findings);
  }

  const int world_size = records.front().world_size;
  FlightReport report;
  report.json = {{"ranks", nlohmann::ordered_json::array()},
                 {"missing_ranks", nlohmann::ordered_json::array()},
                 {"findings", findings}};
  report.text = fmt::format("flight records of {} of {} ranks\n", records.size(), world_size);
  for (int rank = 0; rank < world_size; ++rank) {
    const auto found = std::find_if(records.begin(), records.end(),
                                    [&](const Record& r) { return r.rank == rank; });
    if (found == records.end()) {
      report.json["missing_ranks"].push_back(rank);
      report.text += fmt::format("rank {}: no record\n", rank);
      continue;
    }
    report.json["ranks"].push_back(
        {{"rank", rank}, {"error", found->error}, {"num_operations", found->num_operations}});
    report.text += fmt::format("rank {}: {} operations, the last {} kept; {}\n", rank,
                               with_commas(found->num_operations),
                               with_commas(static_cast<int64_t>(found->operations.size())),
                               found->error.empty() ? "no error" : "error: " + found->error);
  }
  report.text +=
      findings.empty() ? "\nall operations were matched\n" : "\nnot matched, or not finished:\n";
  for (size_t index = 0; index < std::min(findings.size(), kMaxFindings); ++index) {
    report.text += "  " + findings[index] + "\n";
  }
  if (findings.size() > kMaxFindings) {
    report.text += fmt::format("  … and {} more\n", findings.size() - kMaxFindings);
  }
  for (const Record& record : records) {
    report.text +=
        fmt::format("\nlast operations of rank {} (time before the record was written):\n{}",
                    record.rank, last_operations(record));
  }
  return report;
}

}  // namespace outstep::comm
