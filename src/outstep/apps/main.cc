#include <cstdio>
#include <nlohmann/json.hpp>

#include "outstep/apps/commands.h"
#include "outstep/apps/failure.h"
#include "outstep/apps/printable.h"
#include "outstep/apps/report.h"
#include "outstep/base/errors.h"
#include "outstep/base/log.h"
#include "outstep/base/memory.h"
#include "outstep/base/torch.h"
#include "outstep/comm/launch.h"

// The program `outstep`: reads what was typed, runs it, and turns an error into a message and an
// exit code: 2 config, 3 data, 4 communication, 70 our bug (docs/errors.md).

namespace outstep::apps {
namespace {

// Whether this process is the one of its world that speaks on stdout.
bool is_first_rank() {
  try {
    return comm::world_from_environment().rank == 0;
  } catch (const Error&) {
    return true;  // the environment is what is wrong
  }
}

int show_failure(const Failure& failure, bool wants_json) {
  if (report_failure(failure)) return failure.exit_code;  // the launcher shows the first one
  std::fprintf(stderr, "%s\n", printable(failure.text()).c_str());
  if (wants_json && is_first_rank()) {
    const nlohmann::ordered_json object{{"error",
                                         {{"kind", failure.kind},
                                          {"exit_code", failure.exit_code},
                                          {"message", failure.message},
                                          {"hint", failure.hint}}}};
    std::printf("%s\n",
                object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  }
  return failure.exit_code;
}

int run(int argc, char** argv) {
  memory::install();
  log::set_rank(0, 1);  // messages go to stderr from the first one on
  at::set_num_interop_threads(1);
  Invocation invocation({argv + 1, argv + argc});
  for (const auto add : {add_train, add_resume, add_eval, add_sample, add_export, add_soup,
                         add_plan, add_launch, add_data, add_inspect, add_bench}) {
    add(invocation);
  }
  try {
    return invocation.run();
  } catch (...) {
    return show_failure(describe_failure(std::current_exception()), invocation.wants_json());
  }
}

}  // namespace
}  // namespace outstep::apps

int main(int argc, char** argv) { return outstep::apps::run(argc, argv); }
