#include <vector>

#include "outstep/train/averaged_buffers.h"
#include "outstep/train/trainer.h"

namespace outstep::train {
namespace {

// The sums of every batch, each worked out by one replica (of a pipeline by its last stage).
struct BatchSums {
  explicit BatchSums(int64_t num_batches)
      : losses(at::zeros({num_batches}, at::kDouble)),
        units(at::zeros({num_batches}, at::kLong)),
        correct(at::zeros({num_batches}, at::kLong)) {}

  void set(int64_t batch, const method::Evaluation& evaluation) {
    losses[batch] = evaluation.loss_sum;
    units[batch] = evaluation.units;
    correct[batch] = evaluation.correct;
  }

  // A slot is a number on one rank and zero on the others: a sum in any order is exact.
  void share(comm::Group& group) {
    group.all_reduce(losses, {.what = "validation losses"});
    group.all_reduce(units, {.what = "validation units"});
    group.all_reduce(correct, {.what = "validation hits"});
  }

  // In the order of the batches, whoever worked them out.
  method::Evaluation total() const {
    method::Evaluation evaluation;
    for (int64_t b = 0; b < losses.numel(); ++b) {
      evaluation.loss_sum += losses[b].item<double>();
      evaluation.units += units[b].item<int64_t>();
      evaluation.correct += correct[b].item<int64_t>();
    }
    return evaluation;
  }

  at::Tensor losses;   // [batches] float64
  at::Tensor units;    // [batches] int64
  at::Tensor correct;  // [batches] int64
};

}  // namespace

method::Evaluation evaluate(const Recipe& recipe, Assembly& assembly) {
  if (!assembly.data.validation) return {};
  const int64_t batch_size = recipe.evaluation.batch > 0 ? recipe.evaluation.batch
                                                         : assembly.stream->options().micro_batch;
  const data::Sweep sweep(assembly.data.validation, batch_size, recipe.evaluation.max_batches);
  assembly.engine->pause();
  const AveragedBuffers buffers(*assembly.params, *assembly.control_group);
  BatchSums sums(sweep.num_batches());
  for (int64_t b = assembly.place.replica; b < sweep.num_batches(); b += assembly.mesh.replicas) {
    const method::Evaluation evaluation = assembly.engine->evaluate(sweep.batch(b));
    if (assembly.is_last_stage()) sums.set(b, evaluation);
  }
  sums.share(*assembly.member_group);
  return sums.total();
}

}  // namespace outstep::train
