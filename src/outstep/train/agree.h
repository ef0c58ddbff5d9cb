#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "outstep/comm/group.h"

// Coming together after work that takes ranks different times, and doing things on all ranks so
// that they fail on all ranks: nobody is left waiting for a rank that met a full disk or a missing
// file.
//
//   together(world, [&] { write_state(folder); });
//
// Every rank of the group calls these in the same order. They wait longer than the group's
// deadline, because what ranks do between two messages here is reading and writing files.

namespace outstep::train {

// Runs work on this rank, then agrees: if it failed on any rank, every rank throws the error of the
// lowest one that failed, of the same kind (ConfigError, DataError); what libraries throw as
// base/foreign_errors.h takes it. A CommError in work is thrown at once: then there is nobody to
// agree with.
void together(comm::Group& group, const std::function<void()>& work);

// Every rank gets root's text.
std::string broadcast_text(comm::Group& group, const std::string& text, int root = 0);

// Waits for all ranks of the group, longer than its deadline: where what they did before takes them
// different times, such as evaluating, and what comes next waits no longer than usual.
void meet(comm::Group& group, const char* what);

// The value of every rank, in rank order: [size] int64, the same on every rank.
at::Tensor gather_values(comm::Group& group, int64_t value);

}  // namespace outstep::train
