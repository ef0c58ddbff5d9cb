#include "outstep/train/tables.h"

#include <algorithm>

#include "outstep/base/errors.h"
#include "outstep/engine/backprop.h"
#include "outstep/engine/pipeline/pipeline.h"
#include "outstep/ensemble/averaging.h"
#include "outstep/ensemble/sparta.h"
#include "outstep/ensemble/wash.h"
#include "outstep/method/layout.h"
#include "outstep/optim/optimizers.h"
#include "outstep/sync/acco.h"
#include "outstep/sync/ddp.h"
#include "outstep/sync/none.h"
#include "outstep/sync/one_step_late.h"
#include "outstep/sync/zero1.h"

namespace outstep::train {
namespace {

// The value of `name` in a section: one of the table's names. Other values are refused with the
// list and the nearest spelling.
std::string read_name(io::Section& section, const std::vector<std::string>& names,
                      const std::string& otherwise) {
  return section.text("name", otherwise, {.choices = names});
}

// Syncs whose parameters change between the micro-batches of a step.
bool changes_within_steps(const std::string& sync) {
  return sync == "acco" || sync == "dpu" || sync == "wp";
}

// Throws ConfigError for a sync that the engine cannot work under.
void require_fits_engine(Recipe& recipe, const std::string& sync, const std::string& origin,
                         const Assembly& assembly) {
  if (assembly.params->values().scalar_type() == at::kDouble && sync != "none" && sync != "ddp") {
    throw ConfigError(
        "{}: sync \"{}\" works in float32, and engine.precision is \"fp64\"; use sync \"none\" or "
        "\"ddp\"",
        origin, sync);
  }
  if (assembly.mesh.stages > 1 &&
      recipe.settings.section("sync").text("on_nonfinite", "fail") == "skip") {
    throw ConfigError(
        "sync.on_nonfinite = \"skip\": each of the {} stages judges its own gradient, and a step "
        "that "
        "one alone drops would be half a step; use \"fail\"",
        assembly.mesh.stages);
  }
  const std::string engine = recipe.settings.section("engine").text("name", "backprop");
  const auto modes = engine::pipeline_mode_names();
  if (std::ranges::count(modes, engine) == 0 || !changes_within_steps(sync)) return;
  const engine::Mode mode = engine::pipeline_mode(engine);
  const bool holds_several = assembly.mesh.stages > 1 || mode.order == engine::Order::all_forward;
  if (!mode.flushes() || !holds_several) return;
  throw ConfigError(
      "{}: engine \"{}\" needs the same parameters for all micro-batches of a step, and sync "
      "\"{}\" changes them in between; use sync \"ddp\" or \"zero1\", or engine \"petra\"",
      origin, engine, sync);
}

// Stages must make their updates of the same micro-batches; members must make as many updates in a
// run as the others, of which the mixings count.
void require_fits_mesh(const sync::OverlappedOptions& options, const std::string& sync,
                       const Assembly& assembly) {
  if (options.has_fixed_counts) return;
  if (assembly.mesh.stages > 1) {
    throw ConfigError(
        "sync \"{}\" with dynamic counts would let the {} stages make updates of different "
        "micro-batches; set sync.counts = \"fixed\"",
        sync, assembly.mesh.stages);
  }
  if (assembly.mesh.members > 1) {
    throw ConfigError(
        "sync \"{}\" with dynamic counts would let the {} members make different numbers of "
        "updates; set sync.counts = \"fixed\"",
        sync, assembly.mesh.members);
  }
}

// Vectors of optimizer state that this rank holds, in lengths of the flat vector.
double moments_per_parameter(const Assembly& assembly) {
  int64_t elements = 0;
  for (const optim::State* state : assembly.sync->optimizer_states()) {
    for (const at::Tensor& vector : state->vectors) elements += vector.numel();
  }
  return static_cast<double>(elements) / static_cast<double>(assembly.params->size());
}

// Files of ticks are named by stage alone.
void require_one_pipeline(const engine::PipelineOptions& options, const comm::Mesh& mesh,
                          const std::string& origin) {
  if (options.record_ticks.empty() || mesh.replicas * mesh.members == 1) return;
  throw ConfigError(
      "{}: engine.record_ticks is for one pipeline, and here are {}; use mesh.replicas = 1 and "
      "mesh.members = 1",
      origin, mesh.replicas * mesh.members);
}

// A stage records a tick as it begins the next one, and the last stage, in tick t with micro-batch
// t - (J - 1), ends first.
void require_ticks_to_come(const engine::PipelineOptions& options, const Recipe& recipe,
                           const std::string& origin) {
  const int64_t last = recipe.train.steps * recipe.train.accumulation + recipe.mesh.stages - 3;
  for (const int64_t tick : options.record_ticks) {
    if (tick <= last) continue;
    throw ConfigError(
        "{}: tick {} of engine.record_ticks will not come on all stages: in train.steps = {} of {} "
        "micro-batches the last one is {}",
        origin, tick, recipe.train.steps, recipe.train.accumulation, last);
  }
}

}  // namespace

std::vector<std::string> engine_names() {
  std::vector<std::string> names = engine::pipeline_mode_names();
  names.insert(names.begin(), "backprop");
  return names;
}
std::vector<std::string> sync_names() { return {"none", "ddp", "zero1", "dpu", "wp", "acco"}; }
std::vector<std::string> ensemble_names() {
  return {"none", "wash", "wash_opt", "papa", "papa_all", "papa_2", "dart", "sparta", "noloco"};
}
std::vector<std::string> optimizer_names() { return optim::optimizer_names(); }

std::unique_ptr<method::GradientEngine> make_engine(Recipe& recipe, Assembly& assembly,
                                                    trace::Tracer* tracer) {
  io::Section section = recipe.settings.section("engine");
  const std::string name = read_name(section, engine_names(), "backprop");
  if (name != "backprop") {
    auto options = engine::PipelineOptions::read(section, name, recipe.train.accumulation,
                                                 assembly.mesh.stages);
    require_one_pipeline(options, assembly.mesh, section.origin("record_ticks"));
    require_ticks_to_come(options, recipe, section.origin("record_ticks"));
    options.seed = member_seed(recipe.train.seed, assembly.member_id());
    options.tracer = tracer;
    return std::make_unique<engine::PipelineEngine>(
        engine::StageParts{.model = *assembly.model,
                           .params = *assembly.params,
                           .stream = *assembly.stream,
                           .stages = *assembly.stage_group},
        std::move(options));
  }
  engine::BackpropOptions options = engine::BackpropOptions::read(section);
  options.seed = member_seed(recipe.train.seed, assembly.member_id());
  options.tracer = tracer;
  return std::make_unique<engine::BackpropEngine>(*assembly.model, *assembly.params,
                                                  *assembly.stream, options);
}

std::unique_ptr<optim::Optimizer> make_optimizer(Recipe& recipe, const Assembly& assembly) {
  io::Section section = recipe.settings.section("optimizer");
  return optim::make_optimizer(section, method::decay_segments(*assembly.params));
}

std::unique_ptr<method::Synchronizer> make_synchronizer(Recipe& recipe, Assembly& assembly) {
  io::Section section = recipe.settings.section("sync");
  const int replicas = assembly.mesh.replicas;
  const int rank = assembly.mesh.rank_of(assembly.place);  // of the world
  const std::string name = read_name(section, sync_names(), replicas > 1 ? "ddp" : "none");
  if (name == "none" && replicas > 1) {
    throw ConfigError(
        "{}: sync \"none\" is for one replica, and mesh.replicas is {}; use sync \"ddp\" or "
        "\"zero1\", or mesh.replicas = 1. A run can go on with another sync: --sync.name=ddp",
        section.origin("name"), replicas);
  }
  require_fits_engine(recipe, name, section.origin("name"), assembly);
  const sync::Parts parts{.params = *assembly.params,
                          .group = *assembly.replica_group,
                          .optimizer = *assembly.optimizer};
  if (name == "ddp") return std::make_unique<sync::Ddp>(parts, sync::DdpOptions::read(section));
  if (name == "zero1") {
    return std::make_unique<sync::Zero1>(parts, sync::Zero1Options::read(section));
  }
  if (name == "dpu" || name == "wp") {
    const auto next =
        name == "dpu" ? sync::NextGradient::at_old_parameters : sync::NextGradient::at_prediction;
    auto options = sync::OverlappedOptions::read(section);
    require_fits_mesh(options, name, assembly);
    options.read_record(rank, assembly.mesh.size(), 1);
    return std::make_unique<sync::OneStepLate>(parts, next, std::move(options));
  }
  if (name == "acco") {
    auto options = sync::AccoOptions::read(section, recipe.train.accumulation);
    require_fits_mesh(options.overlapped, name, assembly);
    options.overlapped.read_record(rank, assembly.mesh.size(), 2);
    return std::make_unique<sync::Acco>(parts, std::move(options));
  }
  return std::make_unique<sync::None>(parts, sync::NoneOptions::read(section));
}

std::unique_ptr<method::Mixer> make_mixer(Recipe& recipe, Assembly& assembly) {
  io::Section section = recipe.settings.section("ensemble");
  const std::string name = read_name(section, ensemble_names(), "none");
  const ensemble::Parts parts{.model = *assembly.model,
                              .params = *assembly.params,
                              .group = *assembly.mixing_group,
                              .seed = recipe.train.seed,
                              .moments_per_parameter = moments_per_parameter(assembly)};
  if (name == "none") return nullptr;
  if (name == "wash" || name == "wash_opt") {
    return std::make_unique<ensemble::Wash>(
        parts, ensemble::WashOptions::read(section, name == "wash_opt"));
  }
  if (name == "sparta") {
    return std::make_unique<ensemble::Sparta>(parts, ensemble::SpartaOptions::read(section));
  }
  return std::make_unique<ensemble::Averaging>(parts, name,
                                               ensemble::AveragingOptions::read(section, name));
}

}  // namespace outstep::train
