#include "outstep/train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <nlohmann/json.hpp>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/base/log.h"
#include "outstep/base/memory.h"
#include "outstep/base/version.h"
#include "outstep/comm/exchange.h"
#include "outstep/io/files.h"
#include "outstep/method/committing.h"
#include "outstep/nn/hugging_face.h"
#include "outstep/train/agree.h"
#include "outstep/train/checkpoint.h"
#include "outstep/train/evaluation.h"
#include "outstep/train/metrics.h"
#include "outstep/train/process_age.h"
#include "outstep/train/regularize.h"
#include "outstep/train/run_lock.h"
#include "outstep/train/tally.h"

namespace outstep::train {
namespace {

using Json = nlohmann::ordered_json;

constexpr comm::Tag kStatisticsTag = 1;  // on the world's group, beside its agreements

// After how many further steps a step's statistics are read. Stages end a step at different times,
// the last one up to J - 1 micro-batches before the first: none is to wait for that.
size_t statistics_lag(const Recipe& recipe) {
  const int64_t k = recipe.train.accumulation;
  return static_cast<size_t>(1 + (recipe.mesh.stages - 1 + k - 1) / k);
}

// Whether a multiple of every lies in (from, to].
bool is_due(int64_t every, double from, double to) {
  const auto period = static_cast<double>(every);
  return every > 0 && std::floor(to / period) > std::floor(from / period);
}

class Trainer {
 public:
  Trainer(Recipe& recipe, Assembly& assembly, const TrainerOptions& options)
      : recipe_(recipe),
        assembly_(assembly),
        options_(options),
        unit_(assembly.data.unit),
        lag_(statistics_lag(recipe)),
        exchange_(*assembly.world_group, StepTotals::kNumValues,
                  {.tag = kStatisticsTag,
                   .deadline = assembly.world_group->deadline() * recipe.mesh.stages,
                   .what = "step statistics"}) {}

  Summary run();

 private:
  void begin();
  method::StepContext context() const;
  void restore_newest();
  void train_step();
  void mix(StepRecord& record);
  void settle();
  void settle_oldest();
  void write_line(const Position& position);
  void show_progress(const StepRecord& record) const;
  void look_up();
  void evaluate_now();
  void save_now();
  Summary summarise() const;

  bool is_first() const { return assembly_.world_group->rank() == 0; }
  bool is_end(double progress) const {
    return progress >= static_cast<double>(recipe_.train.steps);
  }
  bool is_line_due(const StepRecord& record) const {
    return is_due(recipe_.log.every, record.progress_before, record.progress);
  }
  bool is_evaluation_due(const StepRecord& record) const {
    return is_end(record.progress) ||
           is_due(recipe_.evaluation.every, record.progress_before, record.progress);
  }
  bool is_checkpoint_due(const StepRecord& record) const {
    return is_end(record.progress) ||
           is_due(recipe_.checkpoint.every, record.progress_before, record.progress);
  }
  bool is_population() const { return assembly_.mesh.members > 1; }
  bool has_classes() const { return assembly_.data.num_classes > 0; }

  Recipe& recipe_;
  Assembly& assembly_;
  const TrainerOptions& options_;
  const std::string unit_;
  const size_t lag_;
  comm::Exchange exchange_;
  std::optional<RunLock> lock_;  // rank 0's
  std::optional<Metrics> metrics_;

  Position first_;  // when this process began
  Position now_;
  StepRecord last_;                // the newest step
  std::deque<StepRecord> posted_;  // steps whose totals are on their way, oldest first
  bool is_stopping_ = false;       // agreed by all ranks
  int64_t saved_step_ = -1;
  std::vector<method::Evaluation> evaluations_;  // by member; empty: none yet
  Distance distance_;                            // of a population, when it was evaluated last
  std::optional<int64_t> evaluated_step_;
  std::optional<Population> population_;

  Tally interval_;   // since the last line of the log; of this member
  Tally everyones_;  // likewise, of all members; as steady_ and whole_
  std::vector<std::vector<int64_t>> interval_rounds_;  // micro-batches of each of its steps' rounds
  Tally steady_;
  Tally whole_;
  std::optional<double> train_loss_;
  double seconds_to_first_step_ = 0;
};

Summary Trainer::run() {
  begin();
  while (!is_end(now_.progress) && !is_stopping_) {
    train_step();
    look_up();
  }
  settle();
  if (interval_.num_steps() > 0) write_line(now_);  // stopped between two lines
  assembly_.sync->pause(context());
  if (is_end(now_.progress) && evaluated_step_ != now_.step) evaluate_now();
  if (saved_step_ != now_.step) save_now();
  if (is_population() && is_end(now_.progress)) {
    const int64_t bytes_before = evaluation_bytes_sent(assembly_);
    population_ =
        conclude(recipe_, assembly_, options_.run_folder, now_.step, evaluations_, distance_);
    population_->bytes_sent = evaluation_bytes_sent(assembly_) - bytes_before;
    metrics_->write("population", now_.step, population_->to_json());
  }
  return summarise();
}

// Takes the run for this process alone, restores its newest checkpoint and opens its records.
void Trainer::begin() {
  const auto& folder = options_.run_folder;
  together(*assembly_.world_group, [&] {
    if (is_first()) lock_.emplace(folder);
  });
  restore_newest();
  together(*assembly_.world_group, [&] {
    metrics_.emplace(Metrics::Options{.run_folder = folder,
                                      .rank = assembly_.world_group->rank(),
                                      .num_ranks = assembly_.world_group->size(),
                                      .has_tensorboard = recipe_.log.tensorboard,
                                      .first_step = first_.step});
    if (is_first()) {
      // Of a run that was finished before and now goes on; made anew at the end.
      std::error_code ignored;
      std::filesystem::remove_all(average_folder(folder), ignored);
      io::write_text_atomically(folder / "recipe.toml", recipe_.settings.resolved());
    }
  });
  Json line{{"outstep", build_info().version},
            {"commit", build_info().commit},
            {"torch", build_info().torch_version},
            {"mesh", assembly_.mesh.describe()},
            {"member", assembly_.member_id()},
            {"threads", assembly_.threads},
            {"parameters", assembly_.params->num_parameters()}};
  if (const auto own = own_regularization(recipe_, assembly_.member_id())) {
    line["regularization"] = {{"mixup", own->mixup},
                              {"label_smoothing", own->label_smoothing},
                              {"cutmix", own->cutmix},
                              {"random_erasing", own->random_erasing}};
  }
  metrics_->write("start", now_.step, line);
  memory::reset_peak();
}

void Trainer::restore_newest() {
  const auto& folder = options_.run_folder;
  std::string newest;
  together(*assembly_.world_group, [&] {
    if (!options_.resume || !is_first()) return;
    const auto checkpoints = list_checkpoints(folder);
    if (!checkpoints.empty()) newest = checkpoints.back().folder.string();
  });
  newest = broadcast_text(*assembly_.world_group, newest);
  if (newest.empty()) {
    if (options_.resume && is_first()) {
      log::warn("{} has no checkpoint yet: starting from step 0", folder.string());
    }
    together(*assembly_.world_group, [&] {
      if (assembly_.start_from.empty()) return;
      nn::load_folder(assembly_.start_from, *assembly_.model, *assembly_.params);
    });
    return;
  }
  first_ = now_ = load_checkpoint(newest, assembly_);
  saved_step_ = now_.step;
  if (now_.progress > static_cast<double>(recipe_.train.steps)) {
    throw ConfigError("{} is of step {:.0f}, beyond train.steps = {}; raise it to train on", newest,
                      std::floor(now_.progress), recipe_.train.steps);
  }
  if (is_first()) log::info("going on from {}", newest);
}

method::StepContext Trainer::context() const {
  return {.step = now_.step,
          .lr = assembly_.schedule.at(now_.progress),
          .accumulation = recipe_.train.accumulation,
          .clip_norm = recipe_.train.clip_norm,
          .tracer = options_.tracer};
}

void Trainer::train_step() {
  const auto begin = Clock::now();
  StepRecord record;
  record.report = assembly_.sync->step(*assembly_.engine, context());
  mix(record);
  record.progress_before = now_.progress;
  // What a last commit brings beyond the end does not count.
  now_.progress = std::min(
      now_.progress + static_cast<double>(record.report.micro_batches_total) /
                          static_cast<double>(recipe_.train.accumulation * assembly_.mesh.replicas),
      static_cast<double>(recipe_.train.steps));
  record.step = ++now_.step;
  record.progress = now_.progress;
  record.wants_to_stop = options_.stop && options_.stop->load();
  record.engine = assembly_.engine->take_report();
  // Earlier steps, whose messages have come in the meantime.
  while (posted_.size() >= lag_) settle_oldest();
  exchange_.post(StepTotals::of(record, assembly_.is_last_stage()).to_values());
  record.seconds = seconds_since(begin);
  last_ = record;
  posted_.push_back(record);
  if (seconds_to_first_step_ == 0) seconds_to_first_step_ = process_age_seconds();
}

void Trainer::mix(StepRecord& record) {
  const double full_lr = assembly_.schedule.lr;
  const method::MixContext mixing{.step = now_.step,
                                  .lr_share = full_lr > 0 ? record.report.lr / full_lr : 1,
                                  .tracer = options_.tracer};
  if (!assembly_.mixer || !assembly_.mixer->is_due(mixing)) return;
  assembly_.sync->begin_mixing(context());
  const std::vector<optim::State*> states = assembly_.sync->optimizer_states();
  record.mix = assembly_.mixer->after_step(mixing, states);
  assembly_.sync->end_mixing();
  record.mixed_fraction = static_cast<double>(record.mix.num_mixed) /
                          static_cast<double>(assembly_.params->num_parameters());
}

// Takes in what all ranks told of the steps so far.
void Trainer::settle() {
  while (!posted_.empty()) settle_oldest();
}

void Trainer::settle_oldest() {
  const StepRecord record = posted_.front();
  posted_.pop_front();
  StepTotals of_member, totals;
  const auto all = exchange_.collect();
  for (int rank = 0; rank < std::ssize(all); ++rank) {
    const StepTotals of_rank = StepTotals::from_values(all[static_cast<size_t>(rank)]);
    totals += of_rank;
    if (assembly_.mesh.place_of(rank).member == assembly_.place.member) of_member += of_rank;
  }
  is_stopping_ = is_stopping_ || totals.num_stop_wishes > 0;
  interval_.add(record, of_member);
  everyones_.add(record, totals);
  if (!record.report.round_micro_batches.empty()) {
    interval_rounds_.push_back(record.report.round_micro_batches);
  }
  whole_.add(record, totals);
  const double warm_up =
      std::max(std::floor((static_cast<double>(recipe_.train.steps) - first_.progress) / 10), 1.0);
  if (record.progress_before - first_.progress >= warm_up) steady_.add(record, totals);
  show_progress(record);
  // A line ends where a checkpoint may be: what is logged after it does not depend on what was
  // before, so a run that resumes there writes the same lines.
  if (is_line_due(record) || is_evaluation_due(record) || is_checkpoint_due(record)) {
    write_line({.step = record.step, .progress = record.progress});
  }
}

void Trainer::write_line(const Position& position) {
  Json line = interval_.to_json(unit_);
  line["progress"] = position.progress;
  if (is_population()) line["member"] = assembly_.member_id();
  if (!interval_rounds_.empty()) line["round_micro_batches"] = interval_rounds_;
  metrics_->write("train", position.step, line);
  train_loss_ = everyones_.loss();
  interval_ = {};
  everyones_ = {};
  interval_rounds_.clear();
}

void Trainer::show_progress(const StepRecord& record) const {
  if (!is_first() || !options_.on_progress) return;
  Progress progress{.step = static_cast<int64_t>(record.progress),
                    .steps = recipe_.train.steps,
                    .crosses_interval = is_line_due(record),
                    .loss = everyones_.loss(),
                    .lr = record.report.lr,
                    .grad_norm = record.report.grad_norm,
                    .steps_per_second = everyones_.progress_per_second(),
                    .units_per_second = everyones_.units_per_second(),
                    .overlap_fraction = everyones_.overlap_fraction(),
                    .unit = unit_};
  if (!evaluations_.empty()) progress.validation_loss = mean_loss(evaluations_);
  options_.on_progress(progress);
}

// Between two steps: evaluation first, so that the checkpoint knows its loss.
void Trainer::look_up() {
  const bool evaluates = is_evaluation_due(last_);
  const bool saves = is_checkpoint_due(last_);
  if (!evaluates && !saves) return;
  settle();
  assembly_.sync->pause(context());
  if (evaluates) evaluate_now();
  if (saves) save_now();
  if (!is_end(now_.progress)) assembly_.sync->resume();
  // What stages waited and sent meanwhile is no part of a step.
  assembly_.engine->take_report();
}

void Trainer::evaluate_now() {
  const trace::Span span(options_.tracer, trace::Track::compute, "evaluate", {.step = now_.step});
  const auto begin = Clock::now();
  const int64_t bytes_before = evaluation_bytes_sent(assembly_);
  const method::Evaluation evaluation = evaluate(recipe_, assembly_);
  evaluated_step_ = now_.step;
  if (is_population()) {
    meet(*assembly_.world_group, "the evaluations of other members");
    distance_ = measure_distance(assembly_);
  }
  if (evaluation.units == 0) return;
  evaluations_ = gather_evaluations(evaluation, assembly_);
  Json line{{"validation_loss", evaluation.loss()}};
  if (has_classes()) line["accuracy"] = evaluation.accuracy();
  line["validation_units"] = evaluation.units;
  if (is_population()) {
    line["member"] = assembly_.member_id();
    line["consensus_distance"] = distance_.squared;
    line["relative_distance"] = distance_.relative;
    line["members/validation_loss"] = mean_loss(evaluations_);
    if (has_classes()) line["members/accuracy"] = mean_accuracy(evaluations_);
  }
  line["evaluation_seconds"] = seconds_since(begin);
  line["evaluation_bytes_sent"] = evaluation_bytes_sent(assembly_) - bytes_before;
  metrics_->write("validation", now_.step, line);
}

void Trainer::save_now() {
  const trace::Span span(options_.tracer, trace::Track::checkpoint, "checkpoint",
                         {.step = now_.step});
  const auto begin = Clock::now();
  std::optional<double> loss;
  if (!evaluations_.empty() && evaluated_step_ == now_.step) loss = mean_loss(evaluations_);
  const auto folder = save_checkpoint(options_.run_folder, now_, recipe_, assembly_, loss);
  together(*assembly_.world_group, [&] {
    if (!is_first()) return;
    prune_checkpoints(options_.run_folder, recipe_.checkpoint.keep, recipe_.checkpoint.keep_best);
  });
  saved_step_ = now_.step;
  metrics_->write(
      "checkpoint", now_.step,
      Json{{"folder", folder.filename().string()}, {"checkpoint_seconds", seconds_since(begin)}});
}

Summary Trainer::summarise() const {
  const Tally& steady = steady_.num_steps() > 0 ? steady_ : whole_;
  Summary summary{.run = options_.run_folder,
                  .steps = now_.step,
                  .progress = now_.progress,
                  .finished = is_end(now_.progress),
                  .train_loss = train_loss_,
                  .unit = unit_,
                  .units_per_second = steady.units_per_second(),
                  .train_seconds = whole_.seconds(),
                  .seconds_to_first_step = seconds_to_first_step_,
                  .peak_memory_bytes = memory::peak_bytes(),
                  .bytes_sent = whole_.bytes_sent(),
                  .overlap_fraction = whole_.overlap_fraction(),
                  .population = population_,
                  .lost_members = recipe_.members.lost};
  if (!evaluations_.empty()) {
    summary.validation_loss = mean_loss(evaluations_);
    if (has_classes()) summary.accuracy = mean_accuracy(evaluations_);
  }
  return summary;
}

}  // namespace

Summary run_training(Recipe& recipe, Assembly& assembly, const TrainerOptions& options) {
  // A rank that fails lets the others know at once.
  const method::AbortOnError sync_guard(*assembly.replica_group);
  const method::AbortOnError control_guard(*assembly.control_group);
  const method::AbortOnError member_guard(*assembly.member_group);
  std::optional<method::AbortOnError> stage_guard;
  if (assembly.stage_group) stage_guard.emplace(*assembly.stage_group);
  const method::AbortOnError mixing_guard(*assembly.mixing_group);
  const method::AbortOnError population_guard(*assembly.population_group);
  const method::AbortOnError world_guard(*assembly.world_group);
  return Trainer(recipe, assembly, options).run();
}

}  // namespace outstep::train
