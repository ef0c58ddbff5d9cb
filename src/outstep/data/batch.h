#pragma once

#include <cstdint>

#include "outstep/base/torch.h"

namespace outstep::data {

// One micro-batch. Written by the loader before it is handed out, by nobody after.
struct Batch {
  at::Tensor inputs;  // tokens [B, T] int64, or images [B, C, H, W] float32
  // Tokens [B, T] int64 (the next token), or classes [B] int64; of mixed images probabilities of
  // classes [B, num_classes] float64.
  at::Tensor targets;
  int64_t index = 0;  // number of this micro-batch among all that the run draws, over all replicas;
                      // keys dropout
  int64_t num_samples = 0;
  int64_t num_units = 0;  // tokens for text, images for images: what losses are means over
};

}  // namespace outstep::data
