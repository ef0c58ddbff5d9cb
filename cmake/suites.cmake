# outstep_discover_suites(PROGRAM LABEL): one ctest entry for each suite of a GoogleTest program, named LABEL.Suite.
#
# Loading torch takes 0.4 s, so an entry a case (gtest_discover_tests) would spend minutes on starting programs. The
# suites are listed right after linking, where two programs can be asked at once, and ctest itself starts at once.
#
# This file is also the script that does the listing:
#   cmake -DPROGRAM=… -DLABEL=… -DTIMEOUT=… -DENVIRONMENT=… -DOUTPUT=… -P suites.cmake

function(outstep_discover_suites program label)
  set(list "${PROJECT_BINARY_DIR}/suites/${program}.cmake")
  add_custom_command(TARGET ${program} POST_BUILD
    COMMAND "${CMAKE_COMMAND}" "-DPROGRAM=$<TARGET_FILE:${program}>" "-DLABEL=${label}"
      "-DTIMEOUT=${OUTSTEP_TEST_TIMEOUT}" "-DENVIRONMENT=${OUTSTEP_TEST_ENVIRONMENT}" "-DOUTPUT=${list}"
      -P "${CMAKE_CURRENT_FUNCTION_LIST_FILE}"
    BYPRODUCTS "${list}" VERBATIM)
  # Until it has been built, the program is an entry that fails.
  set(include_file "${PROJECT_BINARY_DIR}/suites/${program}_include.cmake")
  file(WRITE "${include_file}"
    "if(EXISTS \"${list}\")\n  include(\"${list}\")\nelse()\n  add_test(${program}_NOT_BUILT ${program}_NOT_BUILT)\nendif()\n")
  set_property(DIRECTORY "${PROJECT_SOURCE_DIR}" APPEND PROPERTY TEST_INCLUDE_FILES "${include_file}")
endfunction()

if(NOT CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  return()
endif()

# Asks in the environment of the tests: a sanitizer that needs options needs them here too.
execute_process(COMMAND "${CMAKE_COMMAND}" -E env ${ENVIRONMENT} "${PROGRAM}" --gtest_list_tests
  OUTPUT_VARIABLE listing ERROR_VARIABLE errors RESULT_VARIABLE result TIMEOUT 120)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} --gtest_list_tests failed (${result}):\n${listing}${errors}")
endif()

set(content "")
string(REGEX MATCHALL "\n[^ \n][^ \n]*\\.[ \n]" suites "\n${listing}")
foreach(suite IN LISTS suites)
  string(STRIP "${suite}" suite)
  string(REGEX REPLACE "\\.$" "" suite "${suite}")
  set(name "${LABEL}.${suite}")
  string(APPEND content
    "add_test([[${name}]] [[${PROGRAM}]] [[--gtest_filter=${suite}.*]] --gtest_brief=1)\n"
    "set_tests_properties([[${name}]] PROPERTIES LABELS [[${LABEL}]] TIMEOUT ${TIMEOUT}"
    " ENVIRONMENT [[${ENVIRONMENT}]])\n")
endforeach()
file(WRITE "${OUTPUT}" "${content}")
