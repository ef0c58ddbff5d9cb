# Writes OUTPUT, a header with the commit of the sources in SOURCE_DIR, and leaves it alone if it says so already:
# the build calls this every time, and only a new commit or the first change after one compiles anything.
#
#   cmake -DSOURCE_DIR=… -DOUTPUT=….h -P commit.cmake

set(archived "$Format:%h$")  # filled in by git archive (.gitattributes)
set(commit "unknown")
if(EXISTS "${SOURCE_DIR}/.git")
  execute_process(COMMAND git -C "${SOURCE_DIR}" rev-parse --short=12 HEAD
    RESULT_VARIABLE failed OUTPUT_VARIABLE head OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT failed)
    set(commit "${head}")
    execute_process(COMMAND git -C "${SOURCE_DIR}" diff --quiet HEAD -- src cmake CMakeLists.txt
      RESULT_VARIABLE changed OUTPUT_QUIET ERROR_QUIET)
    if(changed)
      string(APPEND commit "+changes")
    endif()
  endif()
elseif(NOT archived MATCHES "Format")
  set(commit "${archived}")
endif()

set(content "#pragma once\n\n#define OUTSTEP_COMMIT \"${commit}\"\n")
set(written "")
if(EXISTS "${OUTPUT}")
  file(READ "${OUTPUT}" written)
endif()
if(NOT written STREQUAL content)
  file(WRITE "${OUTPUT}" "${content}")
endif()
