#include "outstep/comm/fabric.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "outstep/base/errors.h"

namespace outstep::comm {
namespace {

using ::testing::HasSubstr;

std::string error_of(const World& world, const FabricOptions& options) {
  try {
    connect(world, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Fabric, AWorldOfOneNeedsNoNetwork) {
  const auto fabric = connect({.master_addr = "no.such.host.invalid", .master_port = 0}, {});
  const auto group = fabric->new_group("world", {0});
  at::Tensor tensor = at::ones({3});
  group->all_reduce(tensor);
  group->barrier();
  EXPECT_TRUE(at::equal(tensor, at::ones({3})));
  EXPECT_NE(fabric->flights(), nullptr);
  EXPECT_EQ(connect({}, {.record_flights = false})->flights(), nullptr);
}

TEST(Fabric, WrongOptionsAreRefused) {
  EXPECT_EQ(error_of({}, {.backend = "glo"}),
            "comm.backend is \"glo\"; it must be one of gloo, mpi, nccl; did you mean \"gloo\"?");
  EXPECT_THAT(error_of({}, {.link = "slow"}), HasSubstr("slow"));
  const World two{.rank = 0, .world_size = 2, .master_port = 1};
  EXPECT_THAT(error_of(two, {.interface = "nothing0"}),
              HasSubstr("comm.interface is \"nothing0\", but this machine"));
  EXPECT_THAT(error_of(two, {.interface = "nothing0"}), HasSubstr("it has lo"));
  EXPECT_THAT(
      error_of({.world_size = 2, .master_addr = "no.such.host.invalid", .master_port = 1}, {}),
      HasSubstr("no way to \"no.such.host.invalid\" from this machine"));
}

#ifndef OUTSTEP_CUDA
TEST(Fabric, AGpuIsNotAskedForWhereNoneCanBe) {
  EXPECT_THAT(error_of({}, {.backend = "nccl"}),
              HasSubstr("comm.backend is \"nccl\", but this LibTorch was built without CUDA"));
}
#endif

TEST(Fabric, LocalGroupsMeetByNameAndOrder) {
  auto fabrics = local_fabrics(4);
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 4; ++rank) {
    threads.emplace_back([&, rank] {
      Fabric& fabric = *fabrics[static_cast<size_t>(rank)];
      EXPECT_EQ(fabric.world().rank, rank);
      const std::vector<int> pair = rank % 2 == 0 ? std::vector<int>{0, 2} : std::vector<int>{1, 3};
      const auto first = fabric.new_group("pair", pair);
      const auto second = fabric.new_group("pair", pair);
      EXPECT_EQ(first->rank(), rank / 2);
      EXPECT_EQ(first->describe(1), "rank " + std::to_string(pair[1]) + " (thread)");
      // Messages of one group are not seen by its twin.
      at::Tensor a = at::full({1}, rank + 1.0);
      at::Tensor b = at::full({1}, 10.0 * (rank + 1));
      first->all_reduce(a);
      second->all_reduce(b);
      EXPECT_EQ(a.item<float>(), pair[0] + pair[1] + 2);
      EXPECT_EQ(b.item<float>(), 10 * (pair[0] + pair[1] + 2));
    });
  }
}

TEST(Fabric, NewGroupIsForItsMembers) {
  auto fabrics = local_fabrics(2);
  EXPECT_THROW(fabrics[0]->new_group("other", {1}), InternalError);
}

}  // namespace
}  // namespace outstep::comm
