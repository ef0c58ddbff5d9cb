# outstep_room(NAME DEPENDS room... LIBRARIES target...)
#
# A room is a folder of src/outstep with a library of its own, outstep_NAME, made of every *.cc in it but main.cc, and a
# test program, NAME_test, made of every *_test.cc. A room may include only the rooms it depends on.
function(outstep_room name)
  cmake_parse_arguments(ROOM "" "" "DEPENDS;LIBRARIES" ${ARGN})
  set(folder "${PROJECT_SOURCE_DIR}/src/outstep/${name}")
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${folder}/*.cc")
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "(_test|/main)\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")

  set(library outstep_${name})
  list(TRANSFORM ROOM_DEPENDS PREPEND outstep_)
  set(scope INTERFACE)
  if(sources)
    set(scope PUBLIC)
    add_library(${library} STATIC ${sources})
    target_link_libraries(${library} PRIVATE $<BUILD_INTERFACE:outstep_warnings>)
    outstep_precompile(${library})
  else()
    add_library(${library} INTERFACE)
  endif()
  target_compile_features(${library} ${scope} cxx_std_20)
  target_include_directories(${library} ${scope}
    "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>" "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
  target_link_libraries(${library} ${scope} ${ROOM_DEPENDS} ${ROOM_LIBRARIES} outstep::torch)
  set_target_properties(${library} PROPERTIES EXPORT_NAME ${name})
  set_property(GLOBAL APPEND PROPERTY OUTSTEP_ROOMS ${library})

  if(tests AND OUTSTEP_TESTS)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE ${library} outstep_testing outstep_warnings)
    outstep_precompile(${name}_test)
    # One ctest entry a case: they run in parallel, and a crash fails one case only.
    gtest_discover_tests(${name}_test TEST_PREFIX "${name}." DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 120
      PROPERTIES LABELS ${name} TIMEOUT ${OUTSTEP_TEST_TIMEOUT} ENVIRONMENT "${OUTSTEP_TEST_ENVIRONMENT}")
  endif()
endfunction()

# outstep_program(NAME ROOM) makes bin/NAME of the room's main.cc.
function(outstep_program name room)
  add_executable(${name} "${PROJECT_SOURCE_DIR}/src/outstep/${room}/main.cc")
  target_link_libraries(${name} PRIVATE outstep_${room} outstep_warnings)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
  outstep_precompile(${name})
endfunction()

# All targets share one precompiled header: base/torch.h costs 20 s a file without it.
function(outstep_precompile target)
  if(NOT OUTSTEP_PRECOMPILE)
    return()
  endif()
  if(TARGET outstep_base AND NOT target STREQUAL "outstep_base")
    target_precompile_headers(${target} REUSE_FROM outstep_base)
  else()
    target_precompile_headers(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${PROJECT_SOURCE_DIR}/src/outstep/base/torch.h>")
  endif()
endfunction()
