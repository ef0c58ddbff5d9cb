# Defines outstep::torch, LibTorch as an imported target.
#
# TorchConfig.cmake probes for much that is not needed here; this takes the folder of a LibTorch (the one
# named by OUTSTEP_TORCH, else the torch package of the project's .venv) and finds the libraries in it.
# Its include folders come last (-idirafter): torch ships its own fmt, which would hide the system's.

set(OUTSTEP_TORCH "$ENV{OUTSTEP_TORCH}" CACHE PATH "Folder of LibTorch: holds include/ and lib/")
if(NOT OUTSTEP_TORCH AND OUTSTEP_TORCH_HINT)
  file(GLOB _outstep_torch_found "${OUTSTEP_TORCH_HINT}")
  if(_outstep_torch_found)
    list(GET _outstep_torch_found 0 OUTSTEP_TORCH)
  endif()
endif()
if(NOT EXISTS "${OUTSTEP_TORCH}/include/ATen/ATen.h")
  message(FATAL_ERROR "No LibTorch in OUTSTEP_TORCH=\"${OUTSTEP_TORCH}\" (include/ATen/ATen.h is missing). "
    "Run ./outstep, which sets one up in .venv, or point OUTSTEP_TORCH at a LibTorch folder.")
endif()

# "2.13.0+cpu", or "2.13.0" where only the headers say it.
set(OUTSTEP_TORCH_VERSION "")
if(EXISTS "${OUTSTEP_TORCH}/version.py")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${OUTSTEP_TORCH}/version.py")
  file(STRINGS "${OUTSTEP_TORCH}/version.py" _outstep_line REGEX "^__version__ = ")
else()
  file(STRINGS "${OUTSTEP_TORCH}/include/torch/headeronly/version.h" _outstep_line REGEX "^ *\"[0-9.]+\"")
endif()
if(_outstep_line MATCHES "['\"]([^'\"]+)['\"]")
  set(OUTSTEP_TORCH_VERSION "${CMAKE_MATCH_1}")
endif()

# A CUDA build of torch is linked whole; NCCL groups are compiled where CUDA's and NCCL's headers are found, in the
# nvidia packages beside a torch from pip or in an installed toolkit.
set(OUTSTEP_TORCH_HAS_CUDA OFF)
if(EXISTS "${OUTSTEP_TORCH}/lib/libtorch_cuda.so")
  set(OUTSTEP_TORCH_HAS_CUDA ON)
  file(GLOB _outstep_nvidia "${OUTSTEP_TORCH}/../nvidia/*/include")
  set(_outstep_nvidia ${_outstep_nvidia} "$ENV{CUDA_HOME}/include" /usr/local/cuda/include)
  find_path(OUTSTEP_CUDA_INCLUDE cuda_runtime_api.h HINTS ${_outstep_nvidia})
  find_path(OUTSTEP_NCCL_INCLUDE nccl.h HINTS ${_outstep_nvidia})
endif()

if(NOT TARGET outstep::torch)
  add_library(outstep::torch INTERFACE IMPORTED)
  target_compile_options(outstep::torch INTERFACE
    "SHELL:-idirafter \"${OUTSTEP_TORCH}/include\""
    "SHELL:-idirafter \"${OUTSTEP_TORCH}/include/torch/csrc/api/include\"")
  target_compile_definitions(outstep::torch INTERFACE USE_DISTRIBUTED USE_C10D_GLOO)
  # Full paths, so that programs find the libraries again by their rpath.
  target_link_libraries(outstep::torch INTERFACE
    "${OUTSTEP_TORCH}/lib/libtorch_cpu.so" "${OUTSTEP_TORCH}/lib/libc10.so")
  if(OUTSTEP_TORCH_HAS_CUDA)
    # Nothing calls into torch_cuda by name; loading it is what registers the GPU.
    target_link_libraries(outstep::torch INTERFACE
      -Wl,--push-state,--no-as-needed "${OUTSTEP_TORCH}/lib/libtorch_cuda.so" -Wl,--pop-state
      "${OUTSTEP_TORCH}/lib/libc10_cuda.so")
    if(OUTSTEP_CUDA_INCLUDE AND OUTSTEP_NCCL_INCLUDE)
      target_compile_definitions(outstep::torch INTERFACE OUTSTEP_CUDA=1 USE_C10D_NCCL)
      target_compile_options(outstep::torch INTERFACE
        "SHELL:-idirafter \"${OUTSTEP_CUDA_INCLUDE}\"" "SHELL:-idirafter \"${OUTSTEP_NCCL_INCLUDE}\"")
    else()
      message(STATUS "LibTorch has CUDA, but cuda_runtime_api.h or nccl.h was not found: no NCCL groups")
    endif()
  endif()
endif()
