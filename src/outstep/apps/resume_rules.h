#pragma once

#include <string>
#include <vector>

namespace outstep::apps {

// Which keys may change when a run goes on. Those of [log], [checkpoint], [evaluation], [comm],
// where the data lies and what is done about a loss cannot change what is learned. A few others do
// and are worth it: for each of these a line that says so is returned. The rest would make the run
// another one: ConfigError.
std::vector<std::string> check_resume_overrides(const std::vector<std::string>& overrides);

}  // namespace outstep::apps
