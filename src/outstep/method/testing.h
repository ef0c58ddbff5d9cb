#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "outstep/base/errors.h"
#include "outstep/base/rng.h"
#include "outstep/io/state.h"
#include "outstep/method/engine.h"
#include "outstep/method/layout.h"

// What tests of methods share: a model that is only parameters, an engine whose gradients are a
// formula, and a checkpoint in memory. Included by tests only.

namespace outstep::method::testing {

// Parameters of the given sizes, one a block; every second one does not decay. If asked for,
// buffers too, a scalar each.
class ParametersOnly : public nn::Model {
 public:
  explicit ParametersOnly(const std::vector<int64_t>& sizes, int64_t num_buffers = 0) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      const nn::Decay decay = i % 2 == 0 ? nn::Decay::yes : nn::Decay::no;
      blocks.push_back(std::make_unique<OneParameter>("p" + std::to_string(i), sizes[i], decay));
    }
    for (int64_t i = 0; i < num_buffers; ++i) {
      blocks.push_back(std::make_unique<OneBuffer>("b" + std::to_string(i)));
    }
  }
  const std::string& family() const override { return family_; }
  void require_takes(const nn::ModelFacts&, const nn::OriginOf&) const override {}
  nlohmann::ordered_json config() const override { return {}; }
  at::Tensor example_input(int64_t) const override { return {}; }
  at::Tensor example_target(int64_t) const override { return {}; }

 private:
  class OneParameter : public nn::PlainBlock {
   public:
    OneParameter(const std::string& name, int64_t size, nn::Decay decay) : PlainBlock(name) {
      add_parameter(name, {size}, nn::init::normal(1), decay);
    }
    at::Tensor transform(const at::Tensor& input, nn::ForwardContext&) override { return input; }
  };
  class OneBuffer : public nn::PlainBlock {
   public:
    explicit OneBuffer(const std::string& name) : PlainBlock(name) { add_buffer(name, {}, 1); }
    at::Tensor transform(const at::Tensor& input, nn::ForwardContext&) override { return input; }
  };

  std::string family_ = "parameters only";
};

struct FormulaOptions {
  int replica = 0;  // draws micro-batches replica, replica + num_replicas, …, as data::Stream
  int num_replicas = 1;
  std::function<void()> before_accumulate = {};
  bool announces_forwards = false;  // ranges in another order than backward's
  double pull = 0.1;                // λ: how much of the parameters is in their gradient
  double noise = 1;                 // times a micro-batch's own part
  int64_t not_finite_at = -1;       // number of a micro-batch with a NaN in its gradient
  int64_t throws_at = -1;           // number of a micro-batch that throws half way through backward
};

// The gradient of micro-batch n at parameters p is λ · p + noise(n): it depends on both, and has
// no order of its own. Buffers move towards n + 1, or to NaN with the gradient.
class FormulaEngine : public GradientEngine {
 public:
  FormulaEngine(nn::FlatParams& params, FormulaOptions options)
      : params_(params), options_(options) {}

  Contribution accumulate() override {
    if (options_.before_accumulate) options_.before_accumulate();
    const int64_t number = num_drawn_++ * options_.num_replicas + options_.replica;
    const at::NoGradGuard no_grad;
    move_buffers(number);
    const std::vector<optim::Range> ranges = parameter_ranges(params_);
    for (size_t i = 0; i < ranges.size(); ++i) {
      const size_t p = options_.announces_forwards ? i : ranges.size() - 1 - i;
      if (number == options_.throws_at && i == ranges.size() / 2) {
        throw std::runtime_error("the engine failed");
      }
      if (needs_) needs_(ranges[p].begin, ranges[p].end);
      add_gradient(p, number);
      if (callback_) callback_(ranges[p].begin, ranges[p].end);
    }
    return {.micro_batches = 1, .samples = 4, .units = 8, .loss_sum = 0.5, .num_losses = 1};
  }
  at::Tensor predict(const data::Batch&, nn::ForwardContext) override { return {}; }
  Evaluation score(const at::Tensor&, const data::Batch&) override { return {}; }
  void on_range_ready(RangeCallback callback) override { callback_ = std::move(callback); }
  void on_range_needed(NeedCallback callback) override { needs_ = std::move(callback); }
  nn::FlatParams& params() override { return params_; }

  void seek(int64_t num_drawn) { num_drawn_ = num_drawn; }
  bool announces() const { return callback_ != nullptr || needs_ != nullptr; }
  void save(io::StateWriter& writer) const override { writer.shared("num_drawn", num_drawn_); }
  void load(io::StateReader& reader) override { num_drawn_ = reader.shared_int("num_drawn"); }

 private:
  void move_buffers(int64_t number) {
    const bool is_finite = number != options_.not_finite_at;
    const double target = is_finite ? double(number + 1) : std::nan("");
    params_.buffers().mul_(0.9).add_(0.1 * target);
  }
  void add_gradient(size_t parameter, int64_t number) {
    const nn::FlatParams::Entry& entry = params_.entries()[parameter];
    at::Tensor noise = at::empty({entry.numel}, at::kFloat);
    fill_normal(noise, 0, 1,
                {.seed = parameter, .purpose = purpose("formula"), .stream = uint64_t(number)});
    if (number == options_.not_finite_at) noise[0] = std::numeric_limits<float>::quiet_NaN();
    const at::Tensor values = params_.values().narrow(0, entry.offset, entry.numel);
    params_.gradients()
        .narrow(0, entry.offset, entry.numel)
        .add_(values * options_.pull + noise * options_.noise);
  }

  nn::FlatParams& params_;
  FormulaOptions options_;
  RangeCallback callback_;
  NeedCallback needs_;
  int64_t num_drawn_ = 0;
};

// What a checkpoint holds, in memory. Threads that play ranks may write at the same time.
class MemoryCheckpoint {
 public:
  // rank: of the replica; shared entries must be equal on all.
  void save(int rank, const io::Stateful& stateful) {
    Writer writer(*this, rank);
    stateful.save(writer);
  }
  // has_local: whether the reading world has the shape of the writing one.
  void load(int rank, io::Stateful& stateful, bool has_local = true) const {
    Reader reader(*this, rank, has_local);
    stateful.load(reader);
  }
  int64_t shared_int(const std::string& name) const {
    return entry(tensors_, name).item<int64_t>();
  }
  // Whether both hold the same pieces of the same flat vectors.
  bool same_slices(const MemoryCheckpoint& other) const {
    return std::ranges::equal(slices_, other.slices_, [](const auto& a, const auto& b) {
      return a.first == b.first && std::ranges::equal(a.second, b.second, [](auto& x, auto& y) {
               return x.first == y.first && at::equal(x.second, y.second);
             });
    });
  }
  // A flat vector as the ranks together have saved it. Throws DataError if it has holes.
  at::Tensor whole(const std::string& name) const {
    const int64_t total = entry(totals_, name);
    at::Tensor values = at::empty({total}, at::kFloat);
    int64_t covered = 0;
    for (const auto& [begin, piece] : entry(slices_, name)) {
      if (begin > covered) break;
      values.narrow(0, begin, piece.numel()).copy_(piece);
      covered = std::max(covered, begin + piece.numel());
    }
    if (covered < total) throw DataError("entry \"{}\" ends at {} of {}", name, covered, total);
    return values;
  }

 private:
  template <typename Map>
  static const typename Map::mapped_type& entry(const Map& map, const std::string& name) {
    const auto found = map.find(name);
    if (found == map.end()) throw DataError("entry \"{}\" is missing", name);
    return found->second;
  }
  static std::string own(int rank, const std::string& name) {
    return std::to_string(rank) + ":" + name;
  }

  class Writer : public io::StateWriter {
   public:
    Writer(MemoryCheckpoint& checkpoint, int rank) : checkpoint_(checkpoint), rank_(rank) {}
    void shared(const std::string& name, const at::Tensor& value) override {
      std::lock_guard lock(checkpoint_.mutex_);
      const auto [found, is_new] = checkpoint_.tensors_.emplace(name, value.clone());
      if (!is_new) check(at::equal(found->second, value), "shared entries are equal on all ranks");
    }
    void shared(const std::string& name, int64_t value) override {
      shared(name, at::scalar_tensor(value, at::kLong));
    }
    void slice(const std::string& name, const at::Tensor& values, int64_t begin,
               int64_t total) override {
      std::lock_guard lock(checkpoint_.mutex_);
      checkpoint_.totals_[name] = total;
      checkpoint_.slices_[name].emplace(begin, values.clone());
    }
    void local(const std::string& name, const at::Tensor& value) override {
      std::lock_guard lock(checkpoint_.mutex_);
      checkpoint_.tensors_[own(rank_, name)] = value.clone();
    }
    void local(const std::string& name, int64_t value) override {
      local(name, at::scalar_tensor(value, at::kLong));
    }

   private:
    MemoryCheckpoint& checkpoint_;
    int rank_;
  };

  class Reader : public io::StateReader {
   public:
    Reader(const MemoryCheckpoint& checkpoint, int rank, bool has_local)
        : checkpoint_(checkpoint), rank_(rank), has_local_(has_local) {}
    bool has_shared(const std::string& name) const override {
      return checkpoint_.tensors_.contains(name);
    }
    at::Tensor shared(const std::string& name) override {
      return entry(checkpoint_.tensors_, name);
    }
    int64_t shared_int(const std::string& name) override { return shared(name).item<int64_t>(); }
    void slice(const std::string& name, at::Tensor into, int64_t begin, int64_t total) override {
      const at::Tensor values = checkpoint_.whole(name);
      if (values.numel() != total) {
        throw DataError("entry \"{}\" has {} elements, expected {}", name, values.numel(), total);
      }
      into.copy_(values.narrow(0, begin, into.numel()));
    }
    bool has_local() const override { return has_local_; }
    at::Tensor local(const std::string& name) override {
      return entry(checkpoint_.tensors_, own(rank_, name));
    }
    int64_t local_int(const std::string& name) override { return local(name).item<int64_t>(); }

   private:
    const MemoryCheckpoint& checkpoint_;
    int rank_;
    bool has_local_;
  };

  std::mutex mutex_;
  std::map<std::string, at::Tensor> tensors_;                         // guarded by mutex_
  std::map<std::string, int64_t> totals_;                             // guarded by mutex_
  std::map<std::string, std::multimap<int64_t, at::Tensor>> slices_;  // guarded by mutex_
};

}  // namespace outstep::method::testing
