#include "outstep/engine/pipeline/stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "outstep/base/errors.h"
#include "outstep/engine/autocast.h"
#include "outstep/nn/coupling.h"

namespace outstep::engine {

struct Stage::Kept {
  int64_t micro_batch = 0;
  int64_t version = 0;                   // of the parameters it went forward with
  std::vector<nn::Streams> inputs = {};  // of blocks that cannot rebuild theirs, or of the stage
  nn::Streams leaves = {};               // with a graph: its beginning …
  nn::Streams output = {};               // … and its end
  at::Tensor loss = {};                  // likewise, of the last stage
  std::shared_ptr<nn::ParamsStash> stash = nullptr;
  std::vector<nn::Streams> originals = {};  // of all blocks, if it is watched
};

namespace {

// ‖rebuilt - original‖ / ‖original‖, over both streams.
double relative_error(const nn::Streams& rebuilt, const nn::Streams& original) {
  const auto square = [](const at::Tensor& tensor) {
    return tensor.to(at::kDouble).square().sum().item<double>();
  };
  const double error = square(rebuilt.x - original.x) + square(rebuilt.other - original.other);
  return std::sqrt(error / (square(original.x) + square(original.other)));
}

}  // namespace

Stage::Stage(nn::Model& model, nn::FlatParams& params, const StageOptions& options)
    : model_(model), params_(params), options_(options) {
  check(first_block() < end_block(), "a stage has a block");
}

Stage::~Stage() = default;

nn::ForwardContext Stage::context(int64_t micro_batch, bool moves_statistics) const {
  return {.training = true,
          .seed = options_.seed,
          .micro_batch = micro_batch,
          .moves_statistics = moves_statistics};
}

// One copy for all micro-batches between two updates.
void Stage::keep_stash(Kept& kept) {
  if (!options_.buffering.stashes() || options_.keeps_graph) return;
  if (!last_stash_ || last_stash_->version() != params_.version()) {
    last_stash_ = std::make_shared<nn::ParamsStash>(params_);
  }
  kept.stash = last_stash_;
}

nn::Streams Stage::run(size_t begin, size_t end, const nn::Streams& input, int64_t micro_batch,
                       bool moves_statistics) {
  const at::AutoGradMode grad_mode(true);
  const Autocast autocast(options_.autocasts, params_.values().device());
  nn::ForwardContext context = this->context(micro_batch, moves_statistics);
  nn::Streams streams = input;
  for (size_t i = begin; i < end; ++i) streams = block(i).forward(streams, context);
  return streams;
}

at::Tensor Stage::loss_of(const nn::Streams& logits, const at::Tensor& targets) const {
  const at::AutoGradMode grad_mode(true);
  const Autocast autocast(options_.autocasts, params_.values().device());
  return model_.loss(logits.x, targets).loss;
}

nn::Streams Stage::run_keeping(size_t end, const nn::Streams& input, Kept& kept) {
  const at::NoGradGuard no_grad;
  const Autocast autocast(options_.autocasts, params_.values().device());
  nn::ForwardContext context =
      this->context(kept.micro_batch, options_.statistics_in == StatisticsIn::forward);
  const bool keeps_whole = options_.buffering.keep == Keep::input;
  const bool watches = std::exchange(watches_next_, false) && !keeps_whole;
  if (keeps_whole) kept.inputs.push_back(input);
  nn::Streams streams = input;
  for (size_t i = first_block(); i < end; ++i) {
    if (!keeps_whole && !block(i).is_reversible()) kept.inputs.push_back(streams);
    if (watches) kept.originals.push_back(streams);
    streams = block(i).forward(streams, context);
  }
  return streams;
}

nn::Streams Stage::forward(int64_t micro_batch, const nn::Streams& input) {
  Kept kept{.micro_batch = micro_batch, .version = params_.version()};
  keep_stash(kept);
  nn::Streams output;
  if (keeps_graph()) {
    const nn::UseStash use(params_, kept.stash.get());
    kept.leaves = options_.is_first ? input : nn::as_leaves(input);
    kept.output = run(first_block(), end_block(), kept.leaves, micro_batch, true);
    output = nn::detached(kept.output);
  } else {
    output = run_keeping(end_block(), input, kept);
  }
  kept_.push_back(std::move(kept));
  return output;
}

double Stage::forward_to_loss(int64_t micro_batch, const nn::Streams& input,
                              const at::Tensor& targets) {
  Kept kept{.micro_batch = micro_batch, .version = params_.version()};
  const size_t head = end_block() - 1;
  // Without a graph of the whole stage the head alone has one.
  const size_t begin = keeps_graph() ? first_block() : head;
  const nn::Streams before = keeps_graph() ? input : run_keeping(head, input, kept);
  kept.leaves = options_.is_first && begin == first_block() ? before : nn::as_leaves(before);
  kept.loss = loss_of(run(begin, end_block(), kept.leaves, micro_batch, true), targets);
  const double loss = kept.loss.item<double>();
  kept_.push_back(std::move(kept));
  return loss;
}

Returned Stage::backward(int64_t micro_batch, Returned returned,
                         const std::function<void(size_t block)>& on_block_done) {
  check(!kept_.empty() && kept_.front().micro_batch == micro_batch,
        "micro-batches go back in the order in which they went forward");
  Kept kept = std::move(kept_.front());
  kept_.pop_front();
  staleness_ = params_.version() - kept.version;
  reconstruction_error_.reset();
  const at::AutoGradMode grad_mode(true);
  Returned result;
  if (options_.is_last || keeps_graph()) {
    result = back_through_graph(kept, returned);
    if (options_.is_last && !keeps_graph()) {
      const size_t head = end_block() - 1;
      if (on_block_done) on_block_done(head);
      if (head == first_block()) return result;
      return options_.buffering.keep == Keep::input
                 ? back_from_input(kept, std::move(result))
                 : back_block_by_block(head, kept, std::move(result), on_block_done);
    }
    if (kept.stash) kept.stash->check_gradients_in_place();
    return result;
  }
  result = options_.buffering.keep == Keep::input
               ? back_from_input(kept, std::move(returned))
               : back_block_by_block(end_block(), kept, std::move(returned), on_block_done);
  if (kept.stash) kept.stash->check_gradients_in_place();
  return result;
}

Returned Stage::back_through_graph(Kept& kept, const Returned& returned) {
  if (kept.loss.defined()) {
    torch::autograd::backward({kept.loss}, {});
  } else {
    nn::backward(kept.output, returned.gradient);
  }
  return {.input = nn::detached(kept.leaves), .gradient = nn::gradients_of(kept.leaves)};
}

Returned Stage::back_from_input(Kept& kept, Returned returned) {
  returned.input = {};
  const bool at_stash = options_.buffering.differentiate == ParamsOf::forward;
  const nn::UseStash use(params_, at_stash ? kept.stash.get() : nullptr);
  const size_t end = options_.is_last ? end_block() - 1 : end_block();
  const nn::Streams& input = kept.inputs.front();
  const nn::Streams leaves = options_.is_first ? input : nn::as_leaves(input);
  nn::backward(run(first_block(), end, leaves, kept.micro_batch,
                   options_.statistics_in == StatisticsIn::backward),
               returned.gradient);
  return {.input = input, .gradient = options_.is_first ? nn::Streams{} : nn::gradients_of(leaves)};
}

Returned Stage::back_block_by_block(size_t end, Kept& kept, Returned at,
                                    const std::function<void(size_t block)>& on_block_done) {
  const Buffering& buffering = options_.buffering;
  const auto stash_of = [&](ParamsOf params) {
    return params == ParamsOf::forward ? kept.stash.get() : nullptr;
  };
  const Autocast autocast(options_.autocasts, params_.values().device());
  for (size_t i = end; i-- > first_block();) {
    nn::ForwardContext context =
        this->context(kept.micro_batch, options_.statistics_in == StatisticsIn::backward);
    if (auto* coupling = dynamic_cast<nn::Coupling*>(&block(i))) {
      // Without a copy both are those of now.
      if (buffering.rebuild == buffering.differentiate || !kept.stash) {
        const nn::UseStash use(params_, stash_of(buffering.differentiate));
        nn::Backward back =
            nn::rebuild_and_differentiate(*coupling, at.input, at.gradient, context);
        at = {.input = std::move(back.input), .gradient = std::move(back.gradient)};
      } else {
        nn::ForwardContext quiet = this->context(kept.micro_batch, false);
        nn::Streams input;
        {
          const nn::UseStash use(params_, stash_of(buffering.rebuild));
          input = coupling->inverse(at.input, quiet);
        }
        const nn::UseStash use(params_, stash_of(buffering.differentiate));
        nn::Streams gradient = nn::differentiate_coupling(*coupling, input.x, at.gradient, context);
        at = {.input = std::move(input), .gradient = std::move(gradient)};
      }
      if (!kept.originals.empty()) {
        const double error = relative_error(at.input, kept.originals[i - first_block()]);
        reconstruction_error_ = std::max(reconstruction_error_.value_or(0), error);
      }
    } else {
      const nn::UseStash use(params_, stash_of(buffering.differentiate));
      nn::Streams input = std::move(kept.inputs.back());
      kept.inputs.pop_back();
      nn::Streams gradient =
          nn::differentiate(block(i), input, at.gradient, context,
                            {.wants_gradient = !(options_.is_first && i == first_block())});
      at = {.input = std::move(input), .gradient = std::move(gradient)};
    }
    if (on_block_done) on_block_done(i);
  }
  return at;
}

nn::Streams Stage::predict(const nn::Streams& input, nn::ForwardContext context) {
  const at::NoGradGuard no_grad;
  const Autocast autocast(options_.autocasts, params_.values().device());
  context.seed = options_.seed;
  nn::Streams streams = input;
  for (size_t i = first_block(); i < end_block(); ++i) streams = block(i).forward(streams, context);
  return streams;
}

Stage::Exact Stage::forward_exactly(int64_t micro_batch, const nn::Streams& input,
                                    const at::Tensor& targets) {
  Exact exact{.leaves = options_.is_first ? input : nn::as_leaves(input)};
  exact.output = run(first_block(), end_block(), exact.leaves, micro_batch, false);
  if (options_.is_last) exact.output = {.x = loss_of(exact.output, targets)};
  return exact;
}

nn::Streams Stage::backward_exactly(const Exact& exact, const nn::Streams& gradient) {
  const at::AutoGradMode grad_mode(true);
  if (options_.is_last) {
    torch::autograd::backward({exact.output.x}, {});
  } else {
    nn::backward(exact.output, gradient);
  }
  return options_.is_first ? nn::Streams{} : nn::gradients_of(exact.leaves);
}

int64_t Stage::num_kept() const { return static_cast<int64_t>(kept_.size()); }

int64_t Stage::kept_bytes() const {
  std::set<const void*> counted;
  int64_t total = 0;
  const auto add = [&](const at::Tensor& tensor) {
    if (!tensor.defined() || !counted.insert(tensor.const_data_ptr()).second) return;
    total += static_cast<int64_t>(tensor.nbytes());
  };
  for (const Kept& kept : kept_) {
    for (const std::vector<nn::Streams>* inputs : {&kept.inputs, &kept.originals}) {
      for (const nn::Streams& input : *inputs) {
        add(input.x);
        add(input.other);
      }
    }
    add(kept.leaves.x);
    add(kept.leaves.other);
    if (kept.stash) add(kept.stash->values());
  }
  return total;
}

// A graph cannot be saved: its beginning is, and what it was made with, to make it again.
void Stage::save(io::StateWriter& writer) const {
  check(!options_.is_last || kept_.empty(), "a last stage keeps nothing between two steps");
  writer.local("stage.num_kept", num_kept());
  std::vector<int64_t> stash_versions;
  for (size_t k = 0; k < kept_.size(); ++k) {
    const Kept& kept = kept_[k];
    const std::string name = fmt::format("stage.kept.{}", k);
    writer.local(name + ".micro_batch", kept.micro_batch);
    writer.local(name + ".updates_since", params_.version() - kept.version);
    const std::vector<nn::Streams> inputs =
        keeps_graph() ? std::vector<nn::Streams>{kept.leaves} : kept.inputs;
    writer.local(name + ".num_inputs", static_cast<int64_t>(inputs.size()));
    for (size_t i = 0; i < inputs.size(); ++i) {
      writer.local(fmt::format("{}.{}.x", name, i), inputs[i].x.detach());
      writer.local(fmt::format("{}.{}.streams", name, i), inputs[i].are_two() ? 2 : 1);
      if (inputs[i].are_two()) {
        writer.local(fmt::format("{}.{}.other", name, i), inputs[i].other.detach());
      }
    }
    if (!kept.stash) continue;
    const bool is_new = stash_versions.empty() || stash_versions.back() != kept.version;
    writer.local(name + ".has_stash", is_new ? 1 : 0);  // 0: it is that of the one before
    if (is_new) writer.local(name + ".stash", kept.stash->values());
    stash_versions.push_back(kept.version);
  }
}

void Stage::load(io::StateReader& reader) {
  kept_.clear();
  last_stash_ = nullptr;
  if (!reader.has_local()) return;
  const int64_t num_kept = reader.local_int("stage.num_kept");
  const auto on_device = [&](const at::Tensor& tensor) {
    return tensor.to(params_.values().device());
  };
  for (int64_t k = 0; k < num_kept; ++k) {
    const std::string name = fmt::format("stage.kept.{}", k);
    Kept kept{.micro_batch = reader.local_int(name + ".micro_batch")};
    kept.version = params_.version() - reader.local_int(name + ".updates_since");
    const int64_t num_inputs = reader.local_int(name + ".num_inputs");
    if (keeps_graph() && num_inputs != 1) {
      throw DataError("entry \"{}.num_inputs\" of the checkpoint is {}, it must be 1", name,
                      num_inputs);
    }
    for (int64_t i = 0; i < num_inputs; ++i) {
      nn::Streams input{.x = on_device(reader.local(fmt::format("{}.{}.x", name, i)))};
      if (reader.local_int(fmt::format("{}.{}.streams", name, i)) == 2) {
        input.other = on_device(reader.local(fmt::format("{}.{}.other", name, i)));
      }
      if (options_.channels_last && input.x.dim() == 4) {
        input.x = input.x.contiguous(at::MemoryFormat::ChannelsLast);
        if (input.are_two()) input.other = input.other.contiguous(at::MemoryFormat::ChannelsLast);
      }
      kept.inputs.push_back(std::move(input));
    }
    if (options_.buffering.stashes() && !options_.keeps_graph) {
      if (reader.local_int(name + ".has_stash") != 0) {
        last_stash_ = std::make_shared<nn::ParamsStash>(
            params_, on_device(reader.local(name + ".stash")).clone());
      }
      kept.stash = last_stash_;
    }
    if (keeps_graph()) {
      const nn::UseStash use(params_, kept.stash.get());
      kept.leaves = options_.is_first ? kept.inputs.front() : nn::as_leaves(kept.inputs.front());
      kept.output = run(first_block(), end_block(), kept.leaves, kept.micro_batch, false);
      kept.inputs.clear();
    }
    kept_.push_back(std::move(kept));
  }
  last_stash_ = nullptr;  // the next forward pass copies the parameters anew
}

}  // namespace outstep::engine
