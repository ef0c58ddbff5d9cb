#include "outstep/apps/launcher.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <deque>
#include <map>

#include "outstep/apps/descriptor.h"
#include "outstep/apps/hint.h"
#include "outstep/apps/report.h"
#include "outstep/apps/reserved_port.h"
#include "outstep/apps/signal_descriptor.h"
#include "outstep/apps/stop_signals.h"
#include "outstep/base/clock.h"
#include "outstep/comm/launch.h"

extern char** environ;

namespace outstep::apps {
namespace {

constexpr size_t kKeptLines = 20;
constexpr size_t kLongestLine = 1 << 16;
constexpr int kReadsAtATime = 32;  // of 4 KiB: more than a pipe holds by itself

// Splits what a pipe yields into lines, as a terminal would show them: what a carriage return
// leaves behind is overwritten.
class LineReader {
 public:
  // Reads what is there, but not for ever from a rank that never stops writing; false at the end of
  // the pipe.
  template <typename OnLine>
  bool read(Descriptor& pipe, const OnLine& on_line) {
    char bytes[4096];
    for (int i = 0; i < kReadsAtATime; ++i) {
      const ssize_t count = ::read(pipe.number(), bytes, sizeof bytes);
      if (count < 0) return errno == EAGAIN || errno == EINTR;
      if (count == 0) {
        if (!partial_.empty()) on_line(std::exchange(partial_, ""));
        return false;
      }
      for (const char c : std::string_view(bytes, static_cast<size_t>(count))) take(c, on_line);
    }
    return true;
  }

 private:
  template <typename OnLine>
  void take(char c, const OnLine& on_line) {
    if (c == '\r') {
      has_returned_ = true;
      return;
    }
    if (c == '\n' || partial_.size() == kLongestLine) on_line(std::exchange(partial_, ""));
    if (c != '\n') {
      if (has_returned_) partial_.clear();
      partial_.push_back(c);
    }
    has_returned_ = false;
  }

  std::string partial_;
  bool has_returned_ = false;  // to the line's start
};

struct Child {
  int rank = 0;
  pid_t pid = -1;
  bool has_exited = false;
  int status = 0;             // as waitpid gave it
  bool killed_by_us = false;  // after the grace
  std::optional<Failure> failure;
  bool has_reported = false;  // the failure is in its own words
  Descriptor report;          // what the rank tells us
  Descriptor output;          // stdout and stderr of ranks other than this machine's first
  LineReader report_lines;
  LineReader output_lines;
  std::deque<std::string> kept;  // the last lines of output
};

bool left_well(const Child& child) {
  return child.has_exited && WIFEXITED(child.status) && WEXITSTATUS(child.status) == 0;
}

// argv or envp for exec: made before fork, because a child may not allocate.
class StringArray {
 public:
  explicit StringArray(std::vector<std::string> strings) : strings_(std::move(strings)) {
    for (auto& string : strings_) pointers_.push_back(string.data());
    pointers_.push_back(nullptr);
  }
  char** get() { return pointers_.data(); }

 private:
  std::vector<std::string> strings_;
  std::vector<char*> pointers_;
};

std::vector<std::string> environment_with(const std::map<std::string, std::string>& ours,
                                          bool hosts) {
  std::vector<std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::string_view name = text.substr(0, text.find('='));
    if (ours.contains(std::string(name)) || (hosts && comm::is_place_of_process(name))) continue;
    variables.emplace_back(text);
  }
  for (const auto& [name, value] : ours) variables.push_back(name + "=" + value);
  return variables;
}

// In the child, between fork and exec: async-signal-safe calls only.
struct RankStart {
  char** argv;
  char** envp;
  const sigset_t* signal_mask;
  pid_t launcher;
  int report;      // stays open
  int output;      // becomes stdout and stderr; -1: the launcher's
  int exec_error;  // gets errno if the program cannot be started
};
[[noreturn]] void become_rank(const RankStart& start) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != start.launcher) _exit(0);  // it died before the line above
  fcntl(start.report, F_SETFD, 0);
  const int nothing = open("/dev/null", O_RDONLY);
  dup2(nothing, STDIN_FILENO);
  if (start.output >= 0) {
    dup2(start.output, STDOUT_FILENO);
    dup2(start.output, STDERR_FILENO);
  }
  sigprocmask(SIG_SETMASK, start.signal_mask, nullptr);
  execvpe(start.argv[0], start.argv, start.envp);
  const int reason = errno;
  const ssize_t told = write(start.exec_error, &reason, sizeof reason);
  _exit(told == sizeof reason ? 127 : 126);
}

// One launch: the ranks, what they said, and what is to happen next.
class Supervisor {
 public:
  explicit Supervisor(const LaunchOptions& options) : options_(options) {
    const bool has_rank_0 = options.first_rank == 0 && !options.hosts;
    if (has_rank_0 || options.master_port == 0) port_.emplace(options.master_port);
  }
  ~Supervisor() {
    kill_all();
    for (Child& child : children_) {
      if (!child.has_exited) waitpid(child.pid, nullptr, 0);
    }
  }

  LaunchOutcome run() {
    for (int i = 0; i < options_.num_ranks; ++i) start(i);
    while (std::any_of(children_.begin(), children_.end(),
                       [](const Child& child) { return !child.has_exited; })) {
      wait_for_news();
      if (grace_is_over()) kill_all();
    }
    for (Child& child : children_) read_pipes(child);
    return outcome();
  }

 private:
  void start(int index);
  void wait_for_news();
  void read_pipes(Child& child);
  void on_signal(int signal);
  void reap();
  void note_exit(Child& child);
  void note(Child& child, Failure failure);
  void signal_all(int signal);
  void kill_all();
  bool grace_is_over() const { return kill_at_ && Clock::now() >= *kill_at_; }
  int world_size() const {
    return options_.world_size > 0 ? options_.world_size : options_.num_ranks;
  }
  LaunchOutcome outcome() const;
  std::vector<LostRank> lost_ranks() const;

  const LaunchOptions& options_;
  std::optional<ReservedPort> port_;
  SignalsByDescriptor signals_;
  std::deque<Child> children_;
  std::string run_folder_;
  std::optional<Clock::time_point> kill_at_;
  int stop_signal_ = 0;           // the first SIGINT or SIGTERM of this process
  Clock::time_point stopped_at_;  // when it came
  bool left_at_once_ = false;
};

void Supervisor::start(int index) {
  const int rank = options_.first_rank + index;
  Pipe report = make_pipe();
  Pipe exec_error = make_pipe();
  Pipe output = index > 0 ? make_pipe() : Pipe{};

  const int local_size = options_.local_size > 0 ? options_.local_size : options_.num_ranks;
  StringArray argv(options_.command);
  StringArray envp(environment_with(
      {{"RANK", std::to_string(rank)},
       {"WORLD_SIZE", std::to_string(world_size())},
       {"LOCAL_RANK", std::to_string(options_.first_local_rank + index)},
       {"LOCAL_WORLD_SIZE", std::to_string(local_size)},
       {"MASTER_ADDR", options_.master_addr},
       {"MASTER_PORT", std::to_string(port_ ? port_->port() : options_.master_port)},
       {"OUTSTEP_LAUNCH", "1"},
       {"OUTSTEP_REPORT", std::to_string(report.write.number())}},
      options_.hosts));
  const pid_t launcher = getpid();
  // Nothing throws between these lines: a child that is listed has a process.
  Child& child = children_.emplace_back();
  child.rank = rank;
  child.pid = fork();
  if (child.pid == 0) {
    become_rank({.argv = argv.get(),
                 .envp = envp.get(),
                 .signal_mask = &signals_.before(),
                 .launcher = launcher,
                 .report = report.write.number(),
                 .output = output.write.number(),
                 .exec_error = exec_error.write.number()});
  }
  if (child.pid < 0) {
    const int reason = errno;
    children_.pop_back();
    throw ConfigError(
        "cannot start rank {}: {}; start fewer ranks, or raise the limit on "
        "processes (ulimit -u)",
        rank, std::strerror(reason));
  }
  setpgid(child.pid, child.pid);  // here too: whichever comes first
  child.report = std::move(report.read);
  child.output = std::move(output.read);

  exec_error.write.close();
  fcntl(exec_error.read.number(), F_SETFL, 0);
  int reason = 0;
  if (read(exec_error.read.number(), &reason, sizeof reason) == sizeof reason) {
    throw ConfigError("cannot start \"{}\": {}", options_.command[0], std::strerror(reason));
  }
}

void Supervisor::wait_for_news() {
  std::vector<pollfd> polled{{signals_.number(), POLLIN, 0}};
  for (const Child& child : children_) {
    for (const Descriptor* pipe : {&child.report, &child.output}) {
      if (pipe->is_open()) polled.push_back({pipe->number(), POLLIN, 0});
    }
  }
  int timeout = -1;
  if (kill_at_) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*kill_at_ - Clock::now());
    timeout = static_cast<int>(std::max<int64_t>(left.count(), 10));
  }
  poll(polled.data(), polled.size(), timeout);
  for (Child& child : children_) read_pipes(child);
  while (const int signal = signals_.take()) on_signal(signal);
}

void Supervisor::read_pipes(Child& child) {
  const auto on_report = [&](const std::string& line) {
    Report report = read_report(line);
    if (report.failure) {
      // A process that hosts ranks has said which one it was.
      if (report.failure->rank == 0) report.failure->rank = child.rank;
      child.has_reported = true;
      note(child, std::move(*report.failure));
    }
    if (!report.run_folder.empty()) {
      run_folder_ = report.run_folder;
      report_run_folder(run_folder_);  // to whoever has launched this launcher
    }
  };
  const auto on_output = [&](std::string line) {
    if (options_.shows_all_output) std::fprintf(stderr, "[%d] %s\n", child.rank, line.c_str());
    child.kept.push_back(std::move(line));
    if (child.kept.size() > kKeptLines) child.kept.pop_front();
  };
  if (child.report.is_open() && !child.report_lines.read(child.report, on_report)) {
    child.report.close();
  }
  if (child.output.is_open() && !child.output_lines.read(child.output, on_output)) {
    child.output.close();
  }
}

void Supervisor::on_signal(int signal) {
  if (signal == SIGCHLD) return reap();
  if (stop_signal_ == 0) {
    stop_signal_ = signal;
    stopped_at_ = Clock::now();
    signals_.stay_blocked();
    signal_all(signal);
    if (options_.starts_outstep) {
      std::fputs(
          "outstep: asked to stop: the ranks finish their step and save a checkpoint; a second "
          "Ctrl-C leaves at once\n",
          stderr);
    }
  } else if (Clock::now() - stopped_at_ > kSameWish) {
    left_at_once_ = true;
    kill_all();
  }
}

void Supervisor::reap() {
  for (Child& child : children_) {
    if (child.has_exited || waitpid(child.pid, &child.status, WNOHANG) != child.pid) continue;
    child.has_exited = true;
    kill(-child.pid, SIGKILL);  // what the rank itself started
    read_pipes(child);
    note_exit(child);
  }
}

// An exit that no report explains.
void Supervisor::note_exit(Child& child) {
  if (child.killed_by_us || child.failure) return;
  const std::string who = fmt::format("rank {} (process {})", child.rank, child.pid);
  const double now = std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
  if (WIFSIGNALED(child.status)) {
    const int signal = WTERMSIG(child.status);
    if (signal == stop_signal_) return;  // it had not come far enough to finish a step
    const bool is_crash = signal == SIGSEGV || signal == SIGABRT || signal == SIGBUS ||
                          signal == SIGILL || signal == SIGFPE;
    int code = options_.starts_outstep ? (is_crash ? 70 : 4) : 128 + signal;
    note(child, {.rank = child.rank,
                 .kind = is_crash ? "internal error" : "communication error",
                 .exit_code = code,
                 .message = fmt::format("{} was ended by {}", who, signal_name(signal)),
                 .hint = "",
                 .at_seconds = now,
                 .signal = signal});
  } else if (const int code = WEXITSTATUS(child.status);
             code != 0 && !(options_.starts_outstep && code > 128)) {  // 128 + signal: stopped
    note(child, {.rank = child.rank,
                 .kind = "launch error",
                 .exit_code = code,
                 .message = fmt::format("{} left with exit code {}", who, code),
                 .hint = "",
                 .at_seconds = now,
                 .signal = 0});
  }
}

void Supervisor::note(Child& child, Failure failure) {
  child.failure = std::move(failure);
  if (!kill_at_) kill_at_ = Clock::now() + options_.grace;
}

void Supervisor::signal_all(int signal) {
  for (Child& child : children_) {
    if (!child.has_exited) kill(-child.pid, signal);
  }
}

void Supervisor::kill_all() {
  for (Child& child : children_) {
    if (child.has_exited) continue;
    child.killed_by_us = true;
    kill(-child.pid, SIGKILL);
  }
}

LaunchOutcome Supervisor::outcome() const {
  LaunchOutcome outcome{.run_folder = run_folder_, .world_size = world_size()};
  if (left_at_once_) {
    outcome.exit_code = 128 + stop_signal_;
    return outcome;
  }
  std::vector<Failure> failures;
  for (const Child& child : children_) {
    if (child.failure) failures.push_back(*child.failure);
  }
  const Failure* first = first_failure(failures);
  // Ranks that were stopped while still starting leave without a word, and the others miss them:
  // not a failure.
  const bool is_echo_of_stop =
      first != nullptr && stop_signal_ != 0 && first->kind == "communication error" &&
      std::any_of(children_.begin(), children_.end(), [&](const Child& child) {
        return WIFSIGNALED(child.status) && WTERMSIG(child.status) == stop_signal_;
      });
  if (is_echo_of_stop) {
    outcome.exit_code = 128 + stop_signal_;
    return outcome;
  }
  if (first != nullptr) {
    outcome.failure = *first;
    outcome.exit_code = first->exit_code;
    outcome.lost = lost_ranks();
    outcome.has_finished = stop_signal_ == 0 && std::ranges::any_of(children_, left_well);
    for (const Child& child : children_) {
      if (child.failure && child.failure->rank == first->rank) {
        outcome.failed_output.assign(child.kept.begin(), child.kept.end());
      }
    }
    return outcome;
  }
  for (const Child& child : children_) {
    if (outcome.exit_code != 0) break;
    outcome.exit_code =
        WIFSIGNALED(child.status) ? 128 + WTERMSIG(child.status) : WEXITSTATUS(child.status);
  }
  return outcome;
}

std::vector<LostRank> Supervisor::lost_ranks() const {
  std::vector<LostRank> ended, silent;
  for (const Child& child : children_) {
    const bool is_well = left_well(child);
    const bool has_own_error =
        child.failure && (child.has_reported ? child.failure->kind != "communication error"
                                             : child.failure->kind == "internal error");
    if (is_well || has_own_error || stop_signal_ != 0) return {};
    if (child.has_reported) continue;
    if (child.killed_by_us) {
      silent.push_back({child.rank, fmt::format("rank {} (process {}) did not answer, nor end "
                                                "when the others had given it up",
                                                child.rank, child.pid)});
    } else if (child.failure) {
      ended.push_back({child.rank, child.failure->message});
    }
  }
  // Where somebody is gone, whoever had not ended in time may just have been busy.
  return ended.empty() ? silent : ended;
}

}  // namespace

LaunchOutcome launch(const LaunchOptions& options) {
  check(!options.command.empty() && options.num_ranks > 0, "a launch has a command and ranks");
  return Supervisor(options).run();
}

int finish_launch(const LaunchOutcome& outcome) {
  if (!outcome.failure) return outcome.exit_code;
  Failure failure = *outcome.failure;
  const bool is_loss = failure.kind == "communication error" || !outcome.lost.empty();
  if (is_loss && outcome.has_finished && !outcome.run_folder.empty()) {
    failure.hint = fmt::format("Other ranks had finished the run by then: {}", outcome.run_folder);
  } else if (is_loss && !outcome.run_folder.empty()) {
    if (failure.hint.empty()) failure.hint = resume_hint(outcome.run_folder);
    std::vector<int> lost;
    for (const LostRank& rank : outcome.lost) lost.push_back(rank.rank);
    // A launcher below this one may have said it.
    if (failure.hint.find("--ensemble.lost") == std::string::npos) {
      failure.hint += without_lost_hint(outcome.run_folder, lost, outcome.world_size);
    }
  }
  for (const std::string& line : outcome.failed_output) {
    failure.hint +=
        fmt::format("{}[rank {}] {}", failure.hint.empty() ? "" : "\n  ", failure.rank, line);
  }
  throw FailureError(std::move(failure));
}

}  // namespace outstep::apps
