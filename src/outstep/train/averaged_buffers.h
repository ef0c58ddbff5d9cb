#pragma once

#include "outstep/comm/average.h"
#include "outstep/nn/flat_params.h"

namespace outstep::train {

// While it lives, the model's buffers (batch norm's running statistics, which each replica gathers
// from its own data) are their mean over the replicas: what evaluation uses and a checkpoint
// exports. Then every replica has its own ones back, to the last bit.
//
// Construction is collective over the group. Nothing may train in the meantime.
class AveragedBuffers {
 public:
  AveragedBuffers(const nn::FlatParams& params, comm::Group& replicas)
      : live_(params.buffers()), own_(live_.clone()) {
    comm::average(replicas, live_, {.what = "running statistics"});
  }
  ~AveragedBuffers() { live_.copy_(own_); }
  AveragedBuffers(const AveragedBuffers&) = delete;
  AveragedBuffers& operator=(const AveragedBuffers&) = delete;

 private:
  at::Tensor live_;
  at::Tensor own_;
};

}  // namespace outstep::train
