#pragma once

#include <string>

#include "outstep/train/trainer.h"

// What a run says of itself at its start and at its end.

namespace outstep::apps {

// gpt2  3,323,392 parameters · fp32 · 2 replicas × 1 stage × 1 member · 1 thread each
// engine backprop (micro-batch 16) · sync zero1 · ensemble none · optimizer adamw (lr 0.001,
// cosine) data   … · data/shakespeare per rank: 40.0 MB parameters, gradients, optimizer and
// buffers · sends 13.3 MB a step
std::string start_text(train::Recipe& recipe, const train::Assembly& assembly);

// validation loss 1.71 nats/byte (2.47 bits) after 800 steps, 2 min 33 s (21,437 tokens/s)
// memory 190 MB of tensors at most · sent 10.6 GB · 98 % of it behind computing
// run    runs/quickstart-3    tensorboard --logdir runs/quickstart-3
// next   ./outstep sample runs/quickstart-3 --prompt "ROMEO:"
std::string end_text(const train::Assembly& assembly, const train::Summary& summary);

}  // namespace outstep::apps
