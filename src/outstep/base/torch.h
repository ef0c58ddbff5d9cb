#pragma once

// What Outstep takes from LibTorch: tensors, operators and autograd. This is the project's
// precompiled header, so including it costs nothing in a file that is built with it. c10d is not
// here: only comm/ may see it.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/variable.h>
