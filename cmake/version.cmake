# Tells base/version.cc what it is part of. The commit is looked up at every build, all else when configuring.

set(_commit_folder "${PROJECT_BINARY_DIR}/generated/outstep/base")
add_custom_target(outstep_commit
  COMMAND "${CMAKE_COMMAND}" "-DSOURCE_DIR=${PROJECT_SOURCE_DIR}" "-DOUTPUT=${_commit_folder}/commit.h"
    -P "${PROJECT_SOURCE_DIR}/cmake/commit.cmake"
  BYPRODUCTS "${_commit_folder}/commit.h"
  COMMENT "Looking up the commit" VERBATIM)
add_dependencies(outstep_base outstep_commit)
target_include_directories(outstep_base PRIVATE "$<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/generated>")

set(_build_type "${CMAKE_BUILD_TYPE}")
if(OUTSTEP_SANITIZE)
  string(APPEND _build_type "+${OUTSTEP_SANITIZE}")
endif()
set_source_files_properties("${PROJECT_SOURCE_DIR}/src/outstep/base/version.cc" PROPERTIES
  SKIP_PRECOMPILE_HEADERS ON
  COMPILE_DEFINITIONS "OUTSTEP_VERSION=\"${PROJECT_VERSION}\";\
OUTSTEP_TORCH_VERSION=\"${OUTSTEP_TORCH_VERSION}\";\
OUTSTEP_COMPILER=\"${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}\";\
OUTSTEP_BUILD_TYPE=\"${_build_type}\";\
OUTSTEP_SOURCE_DIR=\"${PROJECT_SOURCE_DIR}\"")
