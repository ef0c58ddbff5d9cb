#include "outstep/train/assembly.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <span>
#include <sstream>

#include "outstep/base/errors.h"
#include "outstep/base/hash.h"
#include "outstep/base/rng.h"
#include "outstep/base/version.h"
#include "outstep/comm/agreement.h"
#include "outstep/engine/pipeline/footprint.h"
#include "outstep/nn/gpt2.h"
#include "outstep/nn/models.h"
#include "outstep/optim/optimizers.h"
#include "outstep/train/agree.h"
#include "outstep/train/regularize.h"
#include "outstep/train/stand_in.h"
#include "outstep/train/tables.h"

namespace outstep::train {
namespace {

uint64_t hash_text(const std::string& text) {
  return hash64(std::as_bytes(std::span(text.data(), text.size())));
}

// Whether ranks run stages that talk to each other, be it but one.
bool has_pipeline(Recipe& recipe) {
  io::Section section = recipe.settings.section("engine");
  const std::string name = section.text("name", "backprop", {.choices = engine_names()});
  const bool is_pipeline = std::ranges::count(engine::pipeline_mode_names(), name) > 0;
  if (!is_pipeline && recipe.mesh.stages > 1) {
    throw ConfigError(
        "mesh.stages = {}: engine \"{}\" trains the whole model on every rank; use an engine of "
        "stages, as --engine.name=petra, or mesh.stages = 1",
        recipe.mesh.stages, name);
  }
  if (recipe.mesh.stages > 1 && (recipe.train.device != "cpu" || recipe.comm.backend == "nccl")) {
    throw ConfigError(
        "mesh.stages = {}: stages send each other tensors on the CPU alone yet; use train.device = "
        "\"cpu\" and another comm.backend than \"nccl\", or mesh.stages = 1",
        recipe.mesh.stages);
  }
  return is_pipeline;
}

at::Device choose_device(const std::string& name) {
  if (name == "cpu") return at::kCPU;
  if (!at::hasCUDA()) {
    throw ConfigError(
        "train.device = \"cuda\": LibTorch {} finds no GPU here; use \"cpu\", or name a LibTorch "
        "built with CUDA by OUTSTEP_TORCH and build again",
        build_info().torch_version);
  }
  return at::kCUDA;
}

int64_t num_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
  return std::max(CPU_COUNT(&cores), 1);
}

// The key and value of each line, without the comment that tells its origin.
std::vector<std::string> values_of(const std::string& resolved) {
  std::vector<std::string> values;
  std::istringstream lines(resolved);
  for (std::string line; std::getline(lines, line);) {
    values.push_back(line.substr(0, line.rfind("  # ")));
  }
  return values;
}

// Compares line by line with what rank 0 has.
void require_same(const std::string& mine, const char* what, comm::Group& world) {
  const std::string first = broadcast_text(world, mine);
  together(world, [&] {
    const auto ours = values_of(mine);
    const auto theirs = values_of(first);
    if (ours == theirs) return;
    const auto [our, their] = std::ranges::mismatch(ours, theirs);
    throw ConfigError(
        "rank {} has {} than rank 0: \"{}\" where rank 0 has \"{}\"; start all ranks with the same "
        "recipe and overrides",
        world.rank(), what, our == ours.end() ? "" : *our, their == theirs.end() ? "" : *their);
  });
}

std::string layout_of(const nn::FlatParams& params) {
  std::string layout;
  for (const auto* entries : {&params.entries(), &params.buffer_entries()}) {
    for (const auto& entry : *entries) {
      layout += fmt::format("{} {} [{}]\n", entry.name, entry.offset, fmt::join(entry.shape, ", "));
    }
  }
  return layout;
}

// Of a set's first, middle and last example as they are; a recipe may have nothing to validate on.
uint64_t hash_of(const data::Dataset* set) {
  if (set == nullptr || set->size() == 0) return 0;
  const std::vector<data::Dataset::Example> examples = {
      {.index = 0}, {.index = set->size() / 2}, {.index = set->size() - 1}};
  const data::Batch batch = set->gather(examples, {.augment = false});
  uint64_t hash = static_cast<uint64_t>(set->size());
  for (const at::Tensor& part : {batch.inputs.contiguous(), batch.targets.contiguous()}) {
    const auto* bytes = static_cast<const std::byte*>(part.const_data_ptr());
    hash = hash64({bytes, part.nbytes()}, hash);
  }
  return hash;
}

// Stages read inputs and targets of one example, and replicas their parts of one row, each from
// files of its own.
uint64_t hash_of(const data::Datasets& data) {
  return hash_text(fmt::format("{} {}", hash_of(data.train.get()), hash_of(data.validation.get())));
}

// Of engine.record_ticks: before training, not at the first tick that is to be written.
void make_record_folder(Recipe& recipe) {
  io::Section engine = recipe.settings.section("engine");
  if (!engine.has("record_folder")) return;
  const std::string folder = engine.text("record_folder", "");
  if (folder.empty()) return;  // as a run's own recipe says that there is none
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!error && access(folder.c_str(), W_OK) != 0) {
    error = std::error_code(errno, std::generic_category());
  }
  if (!error) return;
  throw ConfigError("{}: engine.record_folder = \"{}\": cannot be written to: {}",
                    engine.origin("record_folder"), folder, error.message());
}

std::unique_ptr<data::Stream> make_stream(Recipe& recipe, const data::DataOptions& data,
                                          const Assembly& assembly, trace::Tracer* tracer) {
  data::StreamOptions options;
  options.micro_batch =
      recipe.settings.section("engine").integer("micro_batch", options.micro_batch, {.min = 1});
  options.replica = assembly.place.replica;
  options.num_replicas = assembly.mesh.replicas;
  options.seed = member_seed(recipe.train.seed, assembly.member_id());
  options.shuffle = data.shuffle;
  if (const int64_t ready = assembly.data.micro_batch; ready > 0) {
    options.shuffle = false;
    if (options.micro_batch != ready) {
      throw ConfigError(
          "{}: engine.micro_batch = {}, but the file of data \"tensors\" has "
          "micro-batches of {}",
          recipe.settings.section("engine").origin("micro_batch"), options.micro_batch, ready);
    }
  }
  options.augment = data.augment;
  options.prefetch = static_cast<int>(data.prefetch);
  options.tracer = tracer;
  return std::make_unique<data::Stream>(assembly.data.train, options);
}

// Ranks would measure differently: all take rank 0's. world: null for one process.
engine::Cut agreed_cut(comm::Group* world, const std::function<engine::Cut()>& measure) {
  if (!world) return measure();
  engine::Cut cut;
  together(*world, [&] {
    if (world->rank() == 0) cut = measure();
  });
  const std::string text = broadcast_text(*world, fmt::format("{}", fmt::join(cut, " ")));
  std::istringstream words(text);
  cut.clear();
  for (int64_t blocks = 0; words >> blocks;) cut.push_back(blocks);
  return cut;
}

data::DataOptions read_data(Recipe& recipe) {
  io::Section model = recipe.settings.section("model");
  const int64_t usual = nn::Gpt2Options().n_positions;
  const int64_t n_positions =
      model.has("n_positions") ? model.integer("n_positions", usual, {.min = 1}) : usual;
  return data::read_data_options(recipe.settings.section("data"), n_positions);
}

nn::ModelFacts facts_of(const data::Datasets& data, const std::string& name) {
  nn::ModelFacts facts{.source = fmt::format("data \"{}\"", name),
                       .vocab_size = data.vocab_size,
                       .num_classes = data.num_classes};
  if (data.vocab_size > 0) {
    facts.context = data.input_shape.empty() ? 0 : data.input_shape.front();
  } else {
    facts.input_shape = data.input_shape;
  }
  return facts;
}

}  // namespace

void require_world(const comm::Mesh& mesh, const comm::World& world) {
  if (mesh.size() == world.world_size) return;
  const int of_a_replica = mesh.stages * mesh.members;
  const std::string way_out =
      world.world_size % of_a_replica == 0
          ? fmt::format(", or set --mesh.replicas={}", world.world_size / of_a_replica)
          : fmt::format(", or {} · R with --mesh.replicas=R", of_a_replica);
  throw ConfigError("the recipe's mesh is {} = {} {}, but this world ({}) has {}; start as many{}",
                    mesh.describe(), mesh.size(), mesh.size() == 1 ? "rank" : "ranks", world.source,
                    world.world_size, way_out);
}

uint64_t member_seed(uint64_t seed, int member) {
  if (member == 0) return seed;
  CounterRng rng({.seed = seed,
                  .purpose = purpose("ensemble.member"),
                  .stream = static_cast<uint64_t>(member)});
  return rng.next_u32();  // short enough to be typed
}

Assembly::Assembly() = default;
Assembly::~Assembly() = default;

int64_t fair_threads(int64_t wanted, int64_t num_ranks_here) {
  return wanted > 0 ? wanted : std::max<int64_t>(num_cores() / num_ranks_here, 1);
}

void use_threads(Assembly& assembly, int64_t num_threads) {
  assembly.threads = num_threads;
  at::set_num_threads(static_cast<int>(num_threads));
}

void require_takes_device(const Recipe& recipe) {
  if (recipe.train.device == "cpu" || recipe.comm.backend == "nccl" || recipe.mesh.size() == 1) {
    return;
  }
  throw ConfigError(
      "train.device = \"{}\": {} ranks cannot send each other what lies there over comm.backend = "
      "\"{}\"; use comm.backend = \"nccl\", or train.device = \"cpu\"",
      recipe.train.device, recipe.mesh.size(), recipe.comm.backend);
}

std::unique_ptr<Assembly> make_groups(Recipe& recipe, comm::Fabric& fabric) {
  const comm::Mesh& mesh = recipe.mesh;
  const int rank = fabric.world().rank;
  const bool is_pipeline = has_pipeline(recipe);
  choose_device(recipe.train.device);  // where there is none, that is what to hear first
  require_takes_device(recipe);
  require_world(mesh, fabric.world());
  auto assembly = std::make_unique<Assembly>();
  assembly->mesh = mesh;
  assembly->place = mesh.place_of(rank);
  assembly->member_ids = recipe.members.ids;
  std::vector<int> everyone(static_cast<size_t>(mesh.size()));
  std::iota(everyone.begin(), everyone.end(), 0);
  assembly->world_group = fabric.new_group("world", everyone);
  require_same(mesh.describe(), "another mesh", *assembly->world_group);
  assembly->replica_group = fabric.new_group("replica", mesh.replica_peers(rank));
  assembly->control_group = fabric.new_group("control", mesh.replica_peers(rank));
  assembly->member_group = fabric.new_group("member", mesh.ranks_of_member(rank));
  if (is_pipeline) assembly->stage_group = fabric.new_group("stage", mesh.stage_peers(rank));
  assembly->mixing_group = fabric.new_group("mixing", mesh.member_peers(rank));
  assembly->population_group = fabric.new_group("population", mesh.member_peers(rank));
  return assembly;
}

std::string build_model(Recipe& recipe, const data::Places& places, Assembly& assembly,
                        MissingData missing_data) {
  io::Settings& settings = recipe.settings;
  assembly.device = choose_device(recipe.train.device);
  data::DataOptions data_options = read_data(recipe);
  const auto own = own_regularization(recipe, assembly.member_id());
  if (own) regularize(data_options, *own);
  nn::ModelFacts facts;
  std::string missing;
  try {
    assembly.data = data::open_datasets(data_options, places);
    facts = facts_of(assembly.data, data_options.name);
  } catch (const DataError& error) {
    if (missing_data == MissingData::refuse) throw;
    missing = error.what();
    facts = usual_facts(data_options, places);
  }
  assembly.model = nn::make_model(settings.section("model"), facts);
  if (own) regularize(*assembly.model, *own);
  if (!assembly.data.train) assembly.data = stand_in(*assembly.model, facts);
  return missing;
}

std::vector<engine::BlockCost> measure_costs(const engine::PipelineOptions& options,
                                             int64_t micro_batch, const Assembly& assembly) {
  nn::Model& model = *assembly.model;
  return engine::measure_blocks(
      model, model.example_input(micro_batch), model.example_target(micro_batch),
      engine::form_for(model, options.precision, options.channels_last, assembly.device),
      options.precision == engine::Precision::bf16);
}

void choose_cut(Recipe& recipe, Assembly& assembly, comm::Group* world, const CostSource& costs) {
  if (!assembly.stage_group) return;
  io::Section section = recipe.settings.section("engine");
  const int num_stages = assembly.mesh.stages;
  const engine::Cut whole = {std::ssize(assembly.model->blocks)};
  const bool is_said = section.has("stages") && !section.is_text("stages");
  engine::PipelineOptions options;
  int64_t micro_batch = 0;
  bool by_memory = false;  // else by time
  const auto read = [&] {
    const std::string name = section.text("name", "backprop");
    options = engine::PipelineOptions::read(section, name, recipe.train.accumulation, num_stages);
    micro_batch = section.integer("micro_batch", data::StreamOptions().micro_batch, {.min = 1});
    engine::require_enough_blocks(*assembly.model, num_stages,
                                  recipe.settings.section("mesh").origin("stages"));
    if (is_said) {
      section.integers("stages", whole);
    } else {
      if (num_stages > 1) {
        engine::require_untied(*assembly.model,
                               recipe.settings.section("model").origin("tie_word_embeddings"));
      }
      by_memory = section.text("stages", "auto", {.choices = {"auto", "memory"}}) == "memory";
      if (by_memory && options.mode.buffering.keep == engine::Keep::graph) {
        throw ConfigError(
            "{}: engine.stages = \"memory\" cannot tell how large the graphs are that engine "
            "\"{}\" "
            "keeps; use \"auto\"",
            section.origin("stages"), name);
      }
    }
  };
  if (world) {
    together(*world, read);
    // Before ranks do different things because their recipes say so.
    require_same(recipe.settings.resolved(), "another recipe", *world);
  } else {
    read();
  }
  assembly.cut = whole;
  if (num_stages == 1 && !is_said) return;
  if (!is_said) {
    // Balances the mode's own costs.
    const auto measure = [&] {
      if (by_memory) {
        return engine::lightest_cut(
            engine::measure_sizes(*assembly.model), num_stages, options.mode,
            engine::footprint_options(options, micro_batch, recipe.train.accumulation));
      }
      return engine::balanced_cut(costs.find(options, micro_batch, assembly), num_stages,
                                  options.mode);
    };
    section.settle("stages", agreed_cut(world, measure), by_memory ? "by memory" : costs.origin);
  }
  assembly.cut = section.integers("stages", whole);
  engine::require_cuts(*assembly.model, assembly.cut, num_stages, section.origin("stages"));
}

void build_rest(Recipe& recipe, Assembly& assembly, trace::Tracer* tracer) {
  io::Settings& settings = recipe.settings;
  io::Section engine = settings.section("engine");
  nn::Placement placement{.device = assembly.device,
                          .dtype = engine::dtype_of(engine::read_precision(engine))};
  if (!assembly.cut.empty()) {
    placement.blocks = engine::blocks_of(assembly.cut, assembly.place.stage);
  }
  io::Section ensemble = settings.section("ensemble");
  assembly.soup = ensemble::SoupOptions::read(ensemble);
  const bool is_own_init =
      ensemble.text("init", "same", {.choices = {"same", "independent"}}) == "independent";
  const uint64_t init_seed = member_seed(recipe.train.seed, is_own_init ? assembly.member_id() : 0);
  assembly.params = std::make_unique<nn::FlatParams>(*assembly.model, init_seed, placement);
  assembly.start_from = settings.section("model").text("start_from", "");
  assembly.stream = make_stream(recipe, read_data(recipe), assembly, tracer);
  assembly.engine = make_engine(recipe, assembly, tracer);
  assembly.optimizer = make_optimizer(recipe, assembly);
  io::Section optimizer = settings.section("optimizer");
  assembly.schedule = optim::read_schedule(settings.section("schedule"), optim::read_lr(optimizer),
                                           recipe.train.steps);
  assembly.sync = make_synchronizer(recipe, assembly);
  assembly.mixer = make_mixer(recipe, assembly);
  settings.require_all_used();
}

std::string build(Recipe& recipe, const data::Places& places, Assembly& assembly,
                  trace::Tracer* tracer, MissingData missing_data, const CostSource& costs) {
  std::string missing = build_model(recipe, places, assembly, missing_data);
  choose_cut(recipe, assembly, nullptr, costs);
  build_rest(recipe, assembly, tracer);
  return missing;
}

std::unique_ptr<Assembly> assemble(Recipe& recipe, const data::Places& places, comm::Fabric& fabric,
                                   trace::Tracer* tracer) {
  auto assembly = make_groups(recipe, fabric);
  comm::Group& world = *assembly->world_group;
  use_threads(*assembly, fair_threads(recipe.train.threads, fabric.world().local_size));
  uint64_t hash_of_data = 0;
  together(world, [&] {
    build_model(recipe, places, *assembly);
    hash_of_data = hash_of(assembly->data);
  });
  choose_cut(recipe, *assembly, &world);
  together(world, [&] {
    build_rest(recipe, *assembly, tracer);
    make_record_folder(recipe);
  });
  require_same(recipe.settings.resolved(), "another recipe", world);
  comm::require_agreement(world, "data", hash_of_data);
  const uint64_t layout = hash_text(layout_of(*assembly->params));
  comm::require_agreement(*assembly->control_group, "parameters", layout);
  comm::require_agreement(*assembly->population_group, "parameters", layout);
  return assembly;
}

}  // namespace outstep::train
