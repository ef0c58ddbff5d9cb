#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "outstep/base/trace.h"
#include "outstep/comm/fabric.h"
#include "outstep/data/datasets.h"
#include "outstep/data/stream.h"
#include "outstep/engine/pipeline/cut.h"
#include "outstep/engine/pipeline/pipeline.h"
#include "outstep/ensemble/soup.h"
#include "outstep/method/engine.h"
#include "outstep/method/mixer.h"
#include "outstep/method/synchronizer.h"
#include "outstep/nn/flat_params.h"
#include "outstep/optim/optimizer.h"
#include "outstep/optim/schedule.h"
#include "outstep/train/recipe.h"

namespace outstep::train {

// Everything one rank trains with, built from a recipe. Members are in order of construction; each
// may borrow from those above it.
struct Assembly {
  comm::Mesh mesh;
  comm::Mesh::Place place;
  std::vector<int> member_ids = {0};  // members.h
  at::Device device = at::kCPU;
  int64_t threads = 1;                         // compute threads of this rank
  std::unique_ptr<comm::Group> world_group;    // all ranks: stopping, identity checks
  std::unique_ptr<comm::Group> replica_group;  // the sync's; its collectives run on its thread
  std::unique_ptr<comm::Group> control_group;  // along replica: running statistics
  std::unique_ptr<comm::Group> member_group;   // replicas and stages: evaluation, step statistics
  std::unique_ptr<comm::Group> stage_group;    // the pipeline's, for its engine alone; else null
  // Along member: the mixer's alone, perhaps on a thread of its own; and the trainer's.
  std::unique_ptr<comm::Group> mixing_group;
  std::unique_ptr<comm::Group> population_group;
  data::Datasets data;
  std::unique_ptr<nn::Model> model;  // the whole of it, of which a stage holds some blocks
  engine::Cut cut;                   // blocks a stage; empty: the model is not cut
  std::unique_ptr<nn::FlatParams> params;
  std::filesystem::path start_from;  // weights that step 0 begins with; empty: those of the seed
  std::unique_ptr<data::Stream> stream;
  std::unique_ptr<method::GradientEngine> engine;
  std::unique_ptr<optim::Optimizer> optimizer;
  optim::Schedule schedule;
  ensemble::SoupOptions soup;  // at the end of a population's run
  std::unique_ptr<method::Synchronizer> sync;
  std::unique_ptr<method::Mixer> mixer;  // null: none

  // This rank's member by its own number, which place.member is not when others are lost.
  int member_id() const { return member_ids[static_cast<size_t>(place.member)]; }
  bool is_last_stage() const { return place.stage + 1 == mesh.stages; }
  // Whether this is the rank that speaks for its member.
  bool is_first_of_member() const { return place.replica == 0 && place.stage == 0; }

  Assembly();
  ~Assembly();
};

// Builds this rank's part of the run. Refuses combinations that make no sense, unknown keys, a
// world that is not the mesh's size, and ranks whose recipe or parameter layout differ: ConfigError
// with the reason, on every rank, before any training. Sets how many threads the calling thread
// computes with. tracer may be null; fabric and tracer outlive the assembly.
std::unique_ptr<Assembly> assemble(Recipe& recipe, const data::Places& places, comm::Fabric& fabric,
                                   trace::Tracer* tracer);

// What keys a member's chance: its data order, augmentation, dropout and, with ensemble.init =
// "independent", initial weights. Member 0's is the recipe's own; another member is what a run of
// one model with this train.seed would be, if nothing were mixed.
uint64_t member_seed(uint64_t seed, int member);

// Throws ConfigError if the world has another number of ranks than the mesh: to be asked before
// connecting, while every rank can still say so.
void require_world(const comm::Mesh& mesh, const comm::World& world);

// Throws ConfigError where ranks could not send each other what lies on the recipe's device: from
// GPUs, tensors travel over NCCL alone.
void require_takes_device(const Recipe& recipe);

// The parts of assemble, for whoever builds a rank without its peers (plan.cc).
std::unique_ptr<Assembly> make_groups(Recipe& recipe, comm::Fabric& fabric);
enum class MissingData {
  refuse,    // DataError
  stand_in,  // the model's own examples take its place
};
// Data and model. Returns why data was replaced; empty: it is here.
std::string build_model(Recipe& recipe, const data::Places& places, Assembly& assembly,
                        MissingData missing_data = MissingData::refuse);
// What the model's blocks cost on this machine for micro-batches of a size; measure_blocks of
// cut.h.
std::vector<engine::BlockCost> measure_costs(const engine::PipelineOptions& options,
                                             int64_t micro_batch, const Assembly& assembly);
// Where costs come from, and what the recipe's key is said to come from then.
struct CostSource {
  std::function<std::vector<engine::BlockCost>(const engine::PipelineOptions& options,
                                               int64_t micro_batch, const Assembly& assembly)>
      find = measure_costs;
  std::string origin = "measured";
};
// Where engine.stages cuts it; "auto" asks for costs, and settles the recipe's key. Every rank of
// the world calls it; null: one process alone.
void choose_cut(Recipe& recipe, Assembly& assembly, comm::Group* world,
                const CostSource& costs = {});
// The rest, for the cut that all ranks agree on.
void build_rest(Recipe& recipe, Assembly& assembly, trace::Tracer* tracer);
// All three, for one process.
std::string build(Recipe& recipe, const data::Places& places, Assembly& assembly,
                  trace::Tracer* tracer, MissingData missing_data = MissingData::refuse,
                  const CostSource& costs = {});

// As many threads as wanted; for 0 a fair share of this machine's cores.
int64_t fair_threads(int64_t wanted, int64_t num_ranks_here);
// Makes the calling thread, which is the one that trains, compute with so many.
void use_threads(Assembly& assembly, int64_t num_threads);

}  // namespace outstep::train
