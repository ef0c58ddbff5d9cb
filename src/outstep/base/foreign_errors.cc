#include "outstep/base/foreign_errors.h"

#include <filesystem>
#include <new>
#include <string_view>

#include "outstep/base/torch.h"

namespace outstep {
namespace {

bool is_out_of_memory(std::string_view what) {
  for (const char* words : {"not enough memory", "out of memory", "can't allocate memory"}) {
    if (what.find(words) != what.npos) return true;
  }
  return false;
}

Error out_of_memory(std::string_view what) {
  return ConfigError(
      "not enough memory on this machine ({}). Make engine.micro_batch or the model smaller; "
      "`outstep plan RECIPE` tells what a recipe needs.",
      what);
}

Error internal_error(const std::string& message) { return {"internal error", 70, message}; }

// What follows it in LibTorch's messages is a stack trace: of no use to a person.
std::string first_line(const std::string& what) { return what.substr(0, what.find('\n')); }

}  // namespace

Error as_error(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc& error) {
    return out_of_memory(error.what());
  } catch (const c10::Error& error) {
    const std::string what = first_line(error.what_without_backtrace());
    return is_out_of_memory(what) ? out_of_memory(what) : internal_error("LibTorch: " + what);
  } catch (const std::filesystem::filesystem_error& error) {
    return DataError("{}", error.what());
  } catch (const std::exception& error) {
    return internal_error(error.what());
  } catch (...) {
    return internal_error("unknown exception");
  }
}

}  // namespace outstep
