# Finds what Outstep is built on beside LibTorch: for its own build, and, installed, for whoever links it.
# docs/dependencies.md says what each is for.

find_package(Threads REQUIRED)
find_package(spdlog REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(ZLIB REQUIRED)
find_package(CURL REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(PkgConfig REQUIRED)
pkg_check_modules(tomlplusplus REQUIRED QUIET IMPORTED_TARGET tomlplusplus)
pkg_check_modules(utf8proc REQUIRED QUIET IMPORTED_TARGET libutf8proc)
pkg_check_modules(xxhash REQUIRED QUIET IMPORTED_TARGET libxxhash)
if(OUTSTEP_MPI)
  set(MPI_CXX_SKIP_MPICXX ON)  # the C interface is enough
  find_package(MPI REQUIRED COMPONENTS CXX)
endif()
