#pragma once

#include <exception>

#include "outstep/base/errors.h"

// What libraries throw, told as one of our four errors, so that a person gets the same kind, exit
// code and words wherever it is caught.
//
//   } catch (...) {
//     const Error error = as_error(std::current_exception());

namespace outstep {

// An Error as it is. Memory that ran out becomes a config error, since the recipe asked for it; a
// file system's refusal a data error; all else, LibTorch's complaints included, an internal error
// without a stack trace. Thread safe.
Error as_error(const std::exception_ptr& exception);

}  // namespace outstep
