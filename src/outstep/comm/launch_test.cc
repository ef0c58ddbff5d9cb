#include "outstep/comm/launch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "outstep/base/errors.h"

namespace outstep::comm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Variables = std::map<std::string, std::string>;

World world_of(const Variables& variables) {
  return world_from_environment([&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  });
}

std::string error_of(const Variables& variables) {
  try {
    world_of(variables);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

Variables with(Variables variables, const Variables& more) {
  for (const auto& [name, value] : more) variables[name] = value;
  return variables;
}

const Variables kTorchrun = {{"RANK", "1"},
                             {"WORLD_SIZE", "2"},
                             {"LOCAL_RANK", "1"},
                             {"MASTER_ADDR", "10.0.0.1"},
                             {"MASTER_PORT", "29500"}};
const Variables kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "1"},
                            {"OMPI_COMM_WORLD_SIZE", "2"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                            {"PMIX_NAMESPACE", "1395261441"}};
const Variables kSlurm = {{"SLURM_PROCID", "3"},    {"SLURM_NTASKS", "4"},
                          {"SLURM_LOCALID", "0"},   {"SLURM_NODEID", "2"},
                          {"SLURM_STEP_ID", "0"},   {"SLURM_STEP_TASKS_PER_NODE", "2,1(x2)"},
                          {"SLURM_JOB_ID", "4711"}, {"SLURM_JOB_NODELIST", "node[01-03]"}};

TEST(Launch, WithoutVariablesAProcessIsAlone) {
  const World world = world_of({{"MASTER_ADDR", "somewhere"}, {"LOCAL_RANK", "5"}});
  EXPECT_EQ(world.rank, 0);
  EXPECT_EQ(world.world_size, 1);
  EXPECT_EQ(world.source, "alone");
}

TEST(Launch, ReadsTorchrun) {
  const World world = world_of(with(kTorchrun, {{"LOCAL_WORLD_SIZE", "2"},
                                                {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                                {"TORCHELASTIC_RESTART_COUNT", "3"}}));
  EXPECT_EQ(world.rank, 1);
  EXPECT_EQ(world.world_size, 2);
  EXPECT_EQ(world.local_rank, 1);
  EXPECT_EQ(world.local_size, 2);
  EXPECT_EQ(world.master_addr, "10.0.0.1");
  EXPECT_EQ(world.master_port, 29500);
  EXPECT_TRUE(world.agent_holds_store);
  EXPECT_EQ(world.attempt, 3);
  EXPECT_EQ(world.source, "torchrun");
  EXPECT_FALSE(world_of(kTorchrun).agent_holds_store);
}

TEST(Launch, KnowsItsOwnChildren) {
  EXPECT_EQ(world_of(with(kTorchrun, {{"OUTSTEP_LAUNCH", "7"}})).source, "outstep");
}

TEST(Launch, ReadsOpenMpiOnOneMachine) {
  const World world = world_of(kOpenMpi);
  EXPECT_EQ(world.rank, 1);
  EXPECT_EQ(world.world_size, 2);
  EXPECT_EQ(world.local_size, 2);
  EXPECT_EQ(world.source, "mpirun");
  EXPECT_EQ(world.master_addr, "127.0.0.1");
  EXPECT_GE(world.master_port, 20000);
  EXPECT_LT(world.master_port, 32000);
  EXPECT_NE(world.master_port,
            world_of(with(kOpenMpi, {{"PMIX_NAMESPACE", "1395261442"}})).master_port);
}

TEST(Launch, MasterVariablesGoBeforeGuesses) {
  const World world = world_of(with(kOpenMpi, {{"MASTER_ADDR", "head"}, {"MASTER_PORT", "1234"}}));
  EXPECT_EQ(world.master_addr, "head");
  EXPECT_EQ(world.master_port, 1234);
}

TEST(Launch, OpenMpiOnSeveralMachinesNeedsAnAddress) {
  const Variables spread =
      with(kOpenMpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}});
  EXPECT_THAT(error_of(spread),
              HasSubstr("mpirun does not say where rank 0 listens; set MASTER_ADDR to its host and "
                        "MASTER_PORT to a free port there"));
  EXPECT_EQ(world_of(with(spread, {{"MASTER_ADDR", "head"}})).master_addr, "head");
}

TEST(Launch, ReadsSlurm) {
  const World world = world_of(kSlurm);
  EXPECT_EQ(world.rank, 3);
  EXPECT_EQ(world.world_size, 4);
  EXPECT_EQ(world.local_rank, 0);
  EXPECT_EQ(world.local_size, 1);
  EXPECT_EQ(world.master_addr, "node01");
  EXPECT_EQ(world.source, "srun");
  EXPECT_NE(world.master_port, world_of(with(kSlurm, {{"SLURM_STEP_ID", "1"}})).master_port);
  EXPECT_EQ(world_of(with(kSlurm, {{"SLURM_NODEID", "0"}})).local_size, 2);
  EXPECT_EQ(world_of(with(kSlurm, {{"SLURM_STEP_NUM_NODES", "1"}})).master_addr, "127.0.0.1");
}

TEST(Launch, ABatchScriptIsNoTask) {
  Variables batch = kSlurm;
  batch.erase("SLURM_STEP_ID");
  EXPECT_EQ(world_of(batch).source, "alone");
  batch.insert(kTorchrun.begin(), kTorchrun.end());
  EXPECT_EQ(world_of(batch).source, "torchrun");
}

TEST(Launch, DaemonsOfMpirunAreNoTasks) {
  const Variables daemons =
      with(kSlurm, {{"SLURM_STEP_NUM_TASKS", "3"}, {"SLURM_STEP_NUM_NODES", "3"}});
  EXPECT_EQ(world_of(with(daemons, kOpenMpi)).source, "mpirun");
  EXPECT_EQ(world_of(with(daemons, kTorchrun)).source, "torchrun");
}

TEST(Launch, SourcesThatAgreeAreFine) {
  EXPECT_EQ(world_of(with(kTorchrun, kOpenMpi)).source, "torchrun");
  EXPECT_EQ(world_of(with(kTorchrun, kOpenMpi)).master_port, 29500);
}

TEST(Launch, SourcesThatDisagreeAreBothNamed) {
  EXPECT_EQ(error_of(with(kTorchrun, with(kOpenMpi, {{"OMPI_COMM_WORLD_SIZE", "4"}}))),
            "two launchers disagree about the world size: WORLD_SIZE is 2 (torchrun), but "
            "OMPI_COMM_WORLD_SIZE is 4 "
            "(mpirun); start the program with one launcher, or unset the variables of the other");
  EXPECT_THAT(
      error_of(
          with(kTorchrun, {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}, {"SLURM_LOCALID", "0"}})),
      HasSubstr("disagree about the rank: RANK is 1 (torchrun), but SLURM_PROCID is 0 (srun)"));
  EXPECT_THAT(
      error_of(
          with(kOpenMpi, {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}, {"SLURM_LOCALID", "0"}})),
      HasSubstr("OMPI_COMM_WORLD_RANK is 1 (mpirun), but SLURM_PROCID is 0 (srun)"));
}

TEST(Launch, GarbageIsRefusedByName) {
  EXPECT_EQ(error_of(with(kTorchrun, {{"RANK", "one"}})),
            "environment variable RANK is \"one\"; it must be a whole number from 0 to 1048575");
  EXPECT_THAT(error_of(with(kTorchrun, {{"RANK", "1x"}})), HasSubstr("RANK is \"1x\""));
  EXPECT_THAT(error_of(with(kTorchrun, {{"RANK", ""}})), HasSubstr("RANK is \"\""));
  EXPECT_THAT(error_of(with(kTorchrun, {{"RANK", "-1"}})), HasSubstr("RANK is \"-1\""));
  EXPECT_THAT(error_of(with(kTorchrun, {{"WORLD_SIZE", "0"}})), HasSubstr("WORLD_SIZE is \"0\""));
  EXPECT_THAT(error_of(with(kTorchrun, {{"WORLD_SIZE", "99999999999999999999"}})),
              HasSubstr("WORLD_SIZE is"));
  EXPECT_THAT(error_of(with(kTorchrun, {{"RANK", "2"}})),
              HasSubstr("RANK is 2, but WORLD_SIZE is 2"));
  EXPECT_THAT(error_of(with(kTorchrun, {{"MASTER_PORT", "0"}})),
              HasSubstr("MASTER_PORT is \"0\"; it must be a whole number from 1 to 65535"));
  EXPECT_THAT(error_of(with(kTorchrun, {{"MASTER_PORT", "65536"}})),
              HasSubstr("MASTER_PORT is \"65536\""));
  EXPECT_THAT(error_of(with(kTorchrun, {{"MASTER_ADDR", ""}})), HasSubstr("MASTER_ADDR is empty"));
  EXPECT_THAT(error_of(with(kSlurm, {{"SLURM_STEP_TASKS_PER_NODE", "2(x"}})),
              HasSubstr("SLURM_STEP_TASKS_PER_NODE"));
}

TEST(Launch, AnIncompleteSetNamesWhatIsMissing) {
  EXPECT_EQ(error_of({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}}),
            "environment variables RANK, WORLD_SIZE, MASTER_ADDR are set as torchrun does, but "
            "LOCAL_RANK, MASTER_PORT are "
            "not; set all of RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT, or none");
  EXPECT_THAT(error_of({{"OMPI_COMM_WORLD_SIZE", "2"}}),
              HasSubstr("OMPI_COMM_WORLD_SIZE are set as mpirun does, but OMPI_COMM_WORLD_RANK, "
                        "OMPI_COMM_WORLD_LOCAL_RANK are not"));
  EXPECT_THAT(error_of({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}}),
              HasSubstr("are set as srun does, but SLURM_LOCALID is not"));
}

TEST(Launch, AWorldOfOneNeedsNoPort) {
  const World world = world_of({{"RANK", "0"},
                                {"WORLD_SIZE", "1"},
                                {"LOCAL_RANK", "0"},
                                {"MASTER_ADDR", "127.0.0.1"},
                                {"MASTER_PORT", "0"}});
  EXPECT_EQ(world.world_size, 1);
}

TEST(Launch, ProcessesHostRanksInEvenBlocks) {
  for (int num_processes = 1; num_processes <= 7; ++num_processes) {
    int next = 0;
    for (int rank = 0; rank < num_processes; ++rank) {
      const HostedRanks hosted = hosted_ranks({.rank = rank,
                                               .world_size = num_processes,
                                               .local_rank = rank,
                                               .local_size = num_processes},
                                              7);
      EXPECT_EQ(hosted.first_rank, next);
      EXPECT_GE(hosted.num_ranks, 7 / num_processes);
      EXPECT_LE(hosted.num_ranks, (7 + num_processes - 1) / num_processes);
      EXPECT_EQ(hosted.first_local_rank, next);
      EXPECT_EQ(hosted.local_size, 7);
      next += hosted.num_ranks;
    }
    EXPECT_EQ(next, 7);
  }
  // Two machines of two processes: seven ranks are 1 + 2 and 2 + 2.
  const HostedRanks last =
      hosted_ranks({.rank = 3, .world_size = 4, .local_rank = 1, .local_size = 2}, 7);
  EXPECT_EQ(last.first_rank, 5);
  EXPECT_EQ(last.num_ranks, 2);
  EXPECT_EQ(last.first_local_rank, 2);
  EXPECT_EQ(last.local_size, 4);
  // A launcher that does not tell how many there are on this machine.
  const HostedRanks unknown =
      hosted_ranks({.rank = 1, .world_size = 2, .local_rank = 0, .local_size = 2}, 3);
  EXPECT_EQ(unknown.first_local_rank, 0);
  EXPECT_EQ(unknown.local_size, 2);
}

TEST(Launch, WhatItsLauncherSaysOfAProcessIsNotHandedOnToItsRanks) {
  for (const auto& variables : {kOpenMpi, kSlurm}) {
    auto left = variables;
    std::erase_if(left, [](const auto& entry) { return is_place_of_process(entry.first); });
    EXPECT_EQ(world_of(left).source, "alone");
  }
  for (const auto& [name, value] : kTorchrun) EXPECT_FALSE(is_place_of_process(name)) << name;
}

TEST(Launch, FindsTheFirstHostOfASlurmNodeList) {
  EXPECT_EQ(first_slurm_host("gpu3"), "gpu3");
  EXPECT_EQ(first_slurm_host("gpu3,gpu4"), "gpu3");
  EXPECT_EQ(first_slurm_host("node[01-04,07],gpu3"), "node01");
  EXPECT_EQ(first_slurm_host("node[7]"), "node7");
  EXPECT_EQ(first_slurm_host("node[007,9]-ib,x"), "node007-ib");
  EXPECT_EQ(first_slurm_host("a,node[1-2]"), "a");
  for (const char* broken : {"", "node[", "node[]", "node[a-b]", "[1-2]", "node[1-2", "node]"}) {
    EXPECT_THROW(first_slurm_host(broken), ConfigError) << broken;
  }
}

}  // namespace
}  // namespace outstep::comm
