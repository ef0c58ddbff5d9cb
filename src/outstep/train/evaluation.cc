#include "outstep/train/evaluation.h"

#include <functional>
#include <vector>

#include "outstep/train/agree.h"
#include "outstep/train/averaged_buffers.h"

namespace outstep::train {
namespace {

// The sums of every batch, each worked out by one rank (of a pipeline by a last stage).
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

// Which batches this rank works out, and with whom it shares the sums.
struct Share {
  int first = 0;
  int stride = 1;
  comm::Group& group;
};

Share share_of_member(const Assembly& assembly) {
  return {.first = assembly.place.replica,
          .stride = assembly.mesh.replicas,
          .group = *assembly.member_group};
}

// predict: a batch's logits, where this rank has them.
method::Evaluation sweep(const Recipe& recipe, Assembly& assembly, const Share& share,
                         const std::function<at::Tensor(const data::Batch&)>& predict) {
  if (!assembly.data.validation) return {};
  const int64_t batch_size = recipe.evaluation.batch > 0 ? recipe.evaluation.batch
                                                         : assembly.stream->options().micro_batch;
  const data::Sweep batches(assembly.data.validation, batch_size, recipe.evaluation.max_batches);
  BatchSums sums(batches.num_batches());
  for (int64_t b = share.first; b < batches.num_batches(); b += share.stride) {
    const data::Batch batch = batches.batch(b);
    const at::Tensor logits = predict(batch);
    if (logits.defined()) sums.set(b, assembly.engine->score(logits, batch));
  }
  meet(share.group, "the end of an evaluation");
  sums.share(share.group);
  return sums.total();
}

}  // namespace

method::Evaluation evaluate(const Recipe& recipe, Assembly& assembly) {
  assembly.engine->pause();
  const AveragedBuffers buffers(*assembly.params, *assembly.control_group);
  return sweep(recipe, assembly, share_of_member(assembly),
               [&](const data::Batch& batch) { return assembly.engine->predict(batch, {}); });
}

method::Evaluation evaluate_ensemble(const Recipe& recipe, Assembly& assembly) {
  assembly.engine->pause();
  const AveragedBuffers buffers(*assembly.params, *assembly.control_group);
  const auto mean_logits = [&](const data::Batch& batch) {
    at::Tensor logits = assembly.engine->predict(batch, {});
    if (!logits.defined()) return logits;
    const at::NoGradGuard no_grad;
    logits = logits.to(at::kFloat).contiguous().clone();
    assembly.population_group->all_reduce(logits, {.what = "logits of the ensemble"});
    return logits.div_(assembly.mesh.members);
  };
  return sweep(recipe, assembly, share_of_member(assembly), mean_logits);
}

method::Evaluation evaluate_shared(const Recipe& recipe, Assembly& assembly) {
  const auto& [members, replicas, stages] = assembly.mesh;
  return sweep(recipe, assembly,
               {.first = assembly.place.member * replicas + assembly.place.replica,
                .stride = members * replicas,
                .group = *assembly.world_group},
               [&](const data::Batch& batch) { return assembly.engine->predict(batch, {}); });
}

std::vector<method::Evaluation> gather_evaluations(const method::Evaluation& own,
                                                   Assembly& assembly) {
  const int num_members = assembly.mesh.members;
  const at::Tensor values = at::zeros({num_members, 3}, at::kDouble);
  const at::Tensor row = values[assembly.place.member];
  row[0] = own.loss_sum;
  row[1] = static_cast<double>(own.units);
  row[2] = static_cast<double>(own.correct);
  assembly.population_group->all_gather(
      row, values, {.total = 3 * num_members, .count = num_members}, {.what = "evaluations"});
  std::vector<method::Evaluation> all;
  for (int member = 0; member < num_members; ++member) {
    all.push_back({.loss_sum = values[member][0].item<double>(),
                   .units = static_cast<int64_t>(values[member][1].item<double>()),
                   .correct = static_cast<int64_t>(values[member][2].item<double>())});
  }
  return all;
}

int64_t evaluation_bytes_sent(const Assembly& assembly) {
  int64_t sent = 0;
  for (const comm::Group* group :
       {assembly.world_group.get(), assembly.control_group.get(), assembly.member_group.get(),
        assembly.stage_group.get(), assembly.population_group.get()}) {
    if (group) sent += group->bytes_sent();
  }
  return sent;
}

double mean_loss(std::span<const method::Evaluation> members) {
  double sum = 0;
  for (const method::Evaluation& member : members) sum += member.loss();
  return sum / static_cast<double>(members.size());
}

double mean_accuracy(std::span<const method::Evaluation> members) {
  double sum = 0;
  for (const method::Evaluation& member : members) sum += member.accuracy();
  return sum / static_cast<double>(members.size());
}

}  // namespace outstep::train
