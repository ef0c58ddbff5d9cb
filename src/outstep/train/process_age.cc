#include "outstep/train/process_age.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

namespace outstep::train {

double process_age_seconds() {
  std::ifstream stat("/proc/self/stat");
  std::string text;
  std::getline(stat, text);
  // The program's name, in parentheses, may hold anything; field 3 follows it. The start is field
  // 22, in clock ticks since the machine was started.
  std::istringstream fields(text.substr(std::min(text.rfind(')') + 1, text.size())));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  double start_ticks = 0;
  fields >> start_ticks;
  double uptime_seconds = 0;
  std::ifstream("/proc/uptime") >> uptime_seconds;
  if (!fields || uptime_seconds <= 0) return 0;
  return uptime_seconds - start_ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace outstep::train
