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

if(NOT TARGET outstep::torch)
  add_library(outstep::torch INTERFACE IMPORTED)
  target_compile_options(outstep::torch INTERFACE
    "SHELL:-idirafter ${OUTSTEP_TORCH}/include"
    "SHELL:-idirafter ${OUTSTEP_TORCH}/include/torch/csrc/api/include")
  target_compile_definitions(outstep::torch INTERFACE USE_DISTRIBUTED USE_C10D_GLOO)
  target_link_directories(outstep::torch INTERFACE "${OUTSTEP_TORCH}/lib")
  set(_outstep_torch_libraries torch torch_cpu c10)
  set(OUTSTEP_TORCH_HAS_CUDA OFF)
  if(EXISTS "${OUTSTEP_TORCH}/lib/libtorch_cuda.so")
    set(OUTSTEP_TORCH_HAS_CUDA ON)
    list(APPEND _outstep_torch_libraries torch_cuda c10_cuda)
    target_compile_definitions(outstep::torch INTERFACE OUTSTEP_CUDA=1 USE_C10D_NCCL)
  endif()
  target_link_libraries(outstep::torch INTERFACE ${_outstep_torch_libraries})
endif()
