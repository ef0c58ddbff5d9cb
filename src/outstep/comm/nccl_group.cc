#include "outstep/comm/nccl_group.h"

#include "outstep/base/errors.h"

#ifdef OUTSTEP_CUDA

#include <c10/cuda/CUDAFunctions.h>

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "outstep/comm/complaint.h"
#include "outstep/comm/wrapped_group.h"

namespace outstep::comm {
namespace {

using c10d::ProcessGroupNCCL;
using NcclWork = c10::intrusive_ptr<c10d::Work>;

// Posts and waits with the call's deadline; what NCCL reports is told as a CommError.
template <typename Post>
void run_bounded(const Post& post, const Complaint& complaint, Group& cpu_group) {
  const auto begun = Clock::now();
  try {
    post()->wait(complaint.deadline());
  } catch (const std::exception& error) {
    const std::string text = error.what();
    cpu_group.abort();
    throw complaint.error("failed in NCCL (" + text.substr(0, text.find('\n')) + ")", begun);
  }
}

void require_exact(Wire wire) {
  if (wire == Wire::exact) return;
  throw ConfigError("sync.wire = \"bf16\" is not there for comm.backend = \"nccl\"; use \"fp32\"");
}

class NcclTransfer : public Work::Transfer {
 public:
  NcclTransfer(NcclWork work, Complaint complaint, Group& cpu_group)
      : work_(std::move(work)), complaint_(std::move(complaint)), cpu_group_(cpu_group) {}
  void wait() override {
    run_bounded([&] { return work_; }, complaint_, cpu_group_);
  }
  bool is_done() override { return work_->isCompleted(); }

 private:
  NcclWork work_;
  Complaint complaint_;
  Group& cpu_group_;
};

class NcclGroup : public WrappedGroup {
 public:
  NcclGroup(std::unique_ptr<Group> cpu_group, c10::intrusive_ptr<ProcessGroupNCCL> backend)
      : WrappedGroup(std::move(cpu_group)), backend_(std::move(backend)) {
    std::vector<std::string> names;
    for (int rank = 0; rank < size(); ++rank) names.push_back(describe(rank));
    names_ = std::make_shared<const std::vector<std::string>>(std::move(names));
    group_name_ = std::make_shared<const std::vector<std::string>>(
        1, "a rank of the group \"" + name() + "\"");
  }
  ~NcclGroup() override { backend_->shutdown(); }

  void abort() noexcept override {
    inner().abort();
    try {
      backend_->abort();
    } catch (const std::exception&) {
      // Aborting twice, or after NCCL has given up by itself.
    }
  }
  int64_t bytes_sent() const override { return Group::bytes_sent(); }

  void all_reduce(at::Tensor tensor, CallOptions options, Wire wire) override {
    if (!tensor.is_cuda()) return on_cpu([&] { inner().all_reduce(tensor, options, wire); });
    require_exact(wire);
    std::vector<at::Tensor> tensors = {tensor};
    finish([&] { return backend_->allreduce(tensors); }, "all_reduce", options,
           2 * tensor.nbytes());
  }

  // NCCL wants shards of one size: where the last ones are short, copies are filled up with zeros.
  void reduce_scatter(const at::Tensor& input, at::Tensor output, const Shards& shards,
                      CallOptions options, Wire wire) override {
    if (!input.is_cuda())
      return on_cpu([&] { inner().reduce_scatter(input, output, shards, options, wire); });
    require_exact(wire);
    const int64_t length = shards.length();
    at::Tensor whole = input.detach().view({-1});
    at::Tensor shard = output.detach().view({-1});
    const bool is_even = length * shards.count == shards.total;
    if (!is_even) {
      whole = at::constant_pad_nd(whole, {0, length * shards.count - shards.total});
      shard = at::empty({length}, whole.options());
    }
    finish([&] { return backend_->_reduce_scatter_base(shard, whole); }, "reduce_scatter", options,
           input.nbytes());
    if (!is_even) output.detach().view({-1}).copy_(shard.narrow(0, 0, output.numel()));
  }

  void all_gather(const at::Tensor& input, at::Tensor output, const Shards& shards,
                  CallOptions options, Wire wire) override {
    if (!output.is_cuda())
      return on_cpu([&] { inner().all_gather(input, output, shards, options, wire); });
    require_exact(wire);
    const int64_t length = shards.length();
    at::Tensor shard = input.detach().view({-1});
    at::Tensor whole = output.detach().view({-1});
    const bool is_even = length * shards.count == shards.total;
    if (!is_even) {
      shard = at::constant_pad_nd(shard, {0, length - shard.numel()});
      whole = at::empty({length * shards.count}, shard.options());
    }
    finish([&] { return backend_->_allgather_base(whole, shard); }, "all_gather", options,
           output.nbytes());
    if (!is_even) output.detach().view({-1}).copy_(whole.narrow(0, 0, output.numel()));
  }

  void all_to_all(const at::Tensor& input, at::Tensor output, CallOptions options) override {
    if (!input.is_cuda()) return on_cpu([&] { inner().all_to_all(input, output, options); });
    std::vector<int64_t> equal_splits;  // empty: equal
    at::Tensor from = input.detach(), to = output.detach();
    finish([&] { return backend_->alltoall_base(to, from, equal_splits, equal_splits); },
           "all_to_all", options, input.nbytes());
  }

  void all_to_all(const at::Tensor& input, at::Tensor output, const Splits& splits,
                  CallOptions options) override {
    if (!input.is_cuda()) {
      return on_cpu([&] { inner().all_to_all(input, output, splits, options); });
    }
    std::vector<int64_t> received = splits.received, sent = splits.sent;
    at::Tensor from = input.detach(), to = output.detach();
    run([&] { return backend_->alltoall_base(to, from, received, sent); }, "all_to_all", options);
    const int64_t leaving = input.numel() - sent[static_cast<size_t>(rank())];
    count_sent(leaving * static_cast<int64_t>(input.element_size()));
  }

  void broadcast(at::Tensor tensor, int root, CallOptions options) override {
    if (!tensor.is_cuda()) return on_cpu([&] { inner().broadcast(tensor, root, options); });
    std::vector<at::Tensor> tensors = {tensor.detach()};
    c10d::BroadcastOptions nccl_options;
    nccl_options.rootRank = root;
    finish([&] { return backend_->broadcast(tensors, nccl_options); }, "broadcast", options,
           root == rank() ? tensor.nbytes() : 0);
  }

  void barrier(CallOptions options) override {
    on_cpu([&] { inner().barrier(options); });
  }

 protected:
  Work do_send(const at::Tensor& tensor, int peer, const CallOptions& options) override {
    if (!tensor.is_cuda()) return WrappedGroup::do_send(tensor, peer, options);
    std::vector<at::Tensor> tensors = {tensor};
    return Work(std::make_shared<NcclTransfer>(backend_->send(tensors, peer, 0),
                                               complaint(peer, options), inner()));
  }
  Work do_recv(at::Tensor tensor, int peer, const CallOptions& options) override {
    if (!tensor.is_cuda()) return WrappedGroup::do_recv(std::move(tensor), peer, options);
    std::vector<at::Tensor> tensors = {std::move(tensor)};
    return Work(std::make_shared<NcclTransfer>(backend_->recv(tensors, peer, 0),
                                               complaint(peer, options), inner()));
  }

 private:
  // bytes_sent counts both ways of travelling: sends are counted by Group, the inner group's
  // collectives here.
  template <typename Collective>
  void on_cpu(const Collective& collective) {
    const int64_t before = inner().bytes_sent();
    collective();
    count_sent(inner().bytes_sent() - before);
  }

  Complaint complaint(int peer, const CallOptions& options) const {
    return {.names = names_, .peer = peer, .options = options};
  }

  // NCCL does not say which peer a collective failed at: the complaint names the group.
  template <typename Post>
  void run(const Post& post, const char* operation, CallOptions options) {
    if (!options.deadline) options.deadline = deadline();
    options.operation = operation;
    run_bounded(post, {.names = group_name_, .peer = 0, .options = options}, inner());
  }

  // traffic: what the collective moves if all of it were sent; a rank sends (N-1)/N of it.
  template <typename Post>
  void finish(const Post& post, const char* operation, CallOptions options, size_t traffic) {
    run(post, operation, options);
    count_sent(static_cast<int64_t>(traffic) * (size() - 1) / size());
  }

  c10::intrusive_ptr<ProcessGroupNCCL> backend_;
  std::shared_ptr<const std::vector<std::string>> names_;
  std::shared_ptr<const std::vector<std::string>> group_name_;
};

}  // namespace

void require_nccl(const World& world) {
  const int num_gpus = static_cast<int>(c10::cuda::device_count());
  if (world.local_rank < num_gpus) return;
  throw ConfigError(
      "comm.backend is \"nccl\", but rank {} (local rank {}) finds {} GPUs on its machine; start "
      "at most one "
      "rank a GPU, or use comm.backend = \"gloo\"",
      world.rank, world.local_rank, num_gpus);
}

std::unique_ptr<Group> make_nccl_group(std::unique_ptr<Group> cpu_group, Rendezvous& rendezvous,
                                       const std::string& key, int local_rank) {
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(local_rank));
  auto backend = std::make_shared<c10::intrusive_ptr<ProcessGroupNCCL>>();
  rendezvous.with_store("nccl/" + key, "connecting NCCL",
                        [=, rank = cpu_group->rank(), size = cpu_group->size(),
                         deadline = cpu_group->deadline()](c10d::Store& store) {
                          auto options = ProcessGroupNCCL::Options::create();
                          options->timeout = deadline;
                          *backend = c10::make_intrusive<ProcessGroupNCCL>(
                              c10::intrusive_ptr<c10d::Store>::reclaim_copy(&store), rank, size,
                              options);
                        });
  return std::make_unique<NcclGroup>(std::move(cpu_group), *backend);
}

}  // namespace outstep::comm

#else

namespace outstep::comm {

void require_nccl(const World&) {
  throw ConfigError(
      "comm.backend is \"nccl\", but this LibTorch was built without CUDA; point OUTSTEP_TORCH at "
      "one with CUDA, "
      "or use comm.backend = \"gloo\"");
}

std::unique_ptr<Group> make_nccl_group(std::unique_ptr<Group>, Rendezvous&, const std::string&,
                                       int) {
  throw InternalError("require_nccl comes before make_nccl_group");
}

}  // namespace outstep::comm

#endif  // OUTSTEP_CUDA
