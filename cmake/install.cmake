# What `cmake --install` puts down: the program, the library's rooms and headers, a package that
# find_package(outstep) finds, and share/outstep with the recipes and data samples, where the program looks for them.

include(CMakePackageConfigHelpers)
set(_package "${CMAKE_INSTALL_LIBDIR}/cmake/outstep")
set(_share "share/outstep")  # not CMAKE_INSTALL_DATADIR: share_dir() finds it beside bin/

get_property(_rooms GLOBAL PROPERTY OUTSTEP_ROOMS)
list(REMOVE_ITEM _rooms outstep_apps)  # the program's own
install(TARGETS ${_rooms} outstep_all EXPORT outstepTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(EXPORT outstepTargets NAMESPACE outstep:: DESTINATION "${_package}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/src/outstep" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  FILES_MATCHING PATTERN "*.h" PATTERN "*testing.h" EXCLUDE PATTERN "apps" EXCLUDE
  PATTERN "gloo_headers" EXCLUDE)

configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/outstepConfig.cmake.in" "${PROJECT_BINARY_DIR}/outstepConfig.cmake"
  INSTALL_DESTINATION "${_package}" PATH_VARS _share NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/outstepConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES
  "${PROJECT_BINARY_DIR}/outstepConfig.cmake" "${PROJECT_BINARY_DIR}/outstepConfigVersion.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/OutstepTorch.cmake" "${PROJECT_SOURCE_DIR}/cmake/OutstepDependencies.cmake"
  DESTINATION "${_package}")

# Said outright: CMake leaves out of the rpath what lies in the source tree, and .venv does.
set_target_properties(outstep PROPERTIES INSTALL_RPATH "${OUTSTEP_TORCH}/lib")
install(TARGETS outstep RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/recipes" "${PROJECT_SOURCE_DIR}/data" DESTINATION "${_share}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${_share}")
