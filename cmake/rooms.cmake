# outstep_room(NAME DEPENDS room... LIBRARIES target...)
#
# A room is a folder of src/outstep with a library of its own, outstep_NAME, made of every *.cc in it, and a
# test program, NAME_test, made of every *_test.cc. A room may include only the rooms it depends on.
function(outstep_room name)
  cmake_parse_arguments(ROOM "" "" "DEPENDS;LIBRARIES" ${ARGN})
  set(folder "${PROJECT_SOURCE_DIR}/src/outstep/${name}")
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${folder}/*.cc")
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")

  set(library outstep_${name})
  list(TRANSFORM ROOM_DEPENDS PREPEND outstep_)
  if(sources)
    add_library(${library} STATIC ${sources})
    target_include_directories(${library} PUBLIC
      "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>" "$<INSTALL_INTERFACE:include>")
    target_link_libraries(${library} PUBLIC ${ROOM_DEPENDS} ${ROOM_LIBRARIES} outstep::torch)
    target_link_libraries(${library} PRIVATE $<BUILD_INTERFACE:outstep_warnings>)
    outstep_precompile(${library})
  else()
    add_library(${library} INTERFACE)
    target_include_directories(${library} INTERFACE
      "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>" "$<INSTALL_INTERFACE:include>")
    target_link_libraries(${library} INTERFACE ${ROOM_DEPENDS} ${ROOM_LIBRARIES} outstep::torch)
  endif()
  set_target_properties(${library} PROPERTIES EXPORT_NAME ${name})
  set_property(GLOBAL APPEND PROPERTY OUTSTEP_ROOMS ${library})

  if(tests AND OUTSTEP_TESTS)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE ${library} outstep_testing outstep_warnings)
    outstep_precompile(${name}_test)
    # One ctest entry a case: they run in parallel, and a crash fails one case only.
    gtest_discover_tests(${name}_test TEST_PREFIX "${name}." DISCOVERY_MODE PRE_TEST
      PROPERTIES TIMEOUT 300 ENVIRONMENT "OMP_NUM_THREADS=1")
  endif()
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
