#include "outstep/engine/backprop.h"

#include <memory>
#include <utility>

#include "outstep/engine/autocast.h"

namespace outstep::engine {

BackpropOptions BackpropOptions::read(io::Section& section) {
  BackpropOptions options{.precision = read_precision(section)};
  options.channels_last = read_channels_last(section);
  return options;
}

// Called by autograd when a parameter's gradient is complete.
class BackpropEngine::ReadyHook : public torch::autograd::PostAccumulateGradHook {
 public:
  ReadyHook(BackpropEngine& engine, size_t parameter) : engine_(engine), parameter_(parameter) {}
  void operator()(const at::Tensor& /*tensor*/) override { engine_.announce(parameter_); }

 private:
  BackpropEngine& engine_;
  size_t parameter_;
};

BackpropEngine::BackpropEngine(nn::Model& model, nn::FlatParams& params, data::Stream& stream,
                               BackpropOptions options)
    : model_(model),
      params_(params),
      stream_(stream),
      options_(options),
      form_(form_for(model, options.precision, options.channels_last, params.values().device())),
      ranges_(method::parameter_ranges(params)) {}

BackpropEngine::~BackpropEngine() {
  if (!has_hooks_) return;
  for (nn::Parameter* parameter : params_.parameters()) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameter->tensor, nullptr);
  }
}

void BackpropEngine::on_range_ready(method::RangeCallback callback) {
  if (callback && !has_hooks_) install_hooks();
  callback_ = std::move(callback);
}

void BackpropEngine::install_hooks() {
  const std::vector<nn::Parameter*>& parameters = params_.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameters[i]->tensor,
                                                   std::make_unique<ReadyHook>(*this, i));
  }
  has_hooks_ = true;
}

// Autograd must not see an exception of ours: it is kept until backward has returned.
void BackpropEngine::announce(size_t parameter) noexcept {
  if (!callback_ || is_announced_[parameter] || callback_error_) return;
  is_announced_[parameter] = true;
  try {
    callback_(ranges_[parameter].begin, ranges_[parameter].end);
  } catch (...) {
    callback_error_ = std::current_exception();
  }
}

at::Tensor BackpropEngine::forward(const data::Batch& batch) {
  nn::ForwardContext context{.training = true, .seed = options_.seed, .micro_batch = batch.index};
  const std::function<void(size_t)> announce_block = [this](size_t block) {
    for (const nn::Parameter* parameter : model_.blocks[block]->parameters()) {
      const int64_t begin = parameter->tensor.storage_offset();  // in the flat vector
      needs_(begin, begin + parameter->tensor.numel());
    }
  };
  if (needs_) context.before_block = &announce_block;
  return model_.forward(batch.inputs, context);
}

method::Contribution BackpropEngine::accumulate() {
  const at::AutoGradMode grad_mode(true);
  const data::Batch batch = placed(stream_.next(), form_);
  at::Tensor loss;
  {
    const trace::Span span(options_.tracer, trace::Track::compute, "forward");
    const Autocast autocast(options_.precision == Precision::bf16, batch.inputs.device());
    loss = model_.loss(forward(batch), batch.targets).loss;
  }
  {
    const trace::Span span(options_.tracer, trace::Track::compute, "backward");
    backward(loss);
  }
  return {.micro_batches = 1,
          .samples = batch.num_samples,
          .units = batch.num_units,
          .loss_sum = loss.item<double>(),
          .num_losses = 1};
}

void BackpropEngine::backward(const at::Tensor& loss) {
  if (callback_) is_announced_.assign(params_.parameters().size(), false);
  callback_error_ = nullptr;
  torch::autograd::backward({loss}, {});
  params_.check_gradients_in_place();
  // What the loss does not depend on is final too.
  for (size_t i = is_announced_.size(); callback_ && i-- > 0;) announce(i);
  if (callback_error_) std::rethrow_exception(std::exchange(callback_error_, nullptr));
}

at::Tensor BackpropEngine::predict(const data::Batch& batch, nn::ForwardContext context) {
  const at::NoGradGuard no_grad;
  const data::Batch here = placed(batch, form_);
  const Autocast autocast(options_.precision == Precision::bf16, here.inputs.device());
  context.seed = options_.seed;
  context.micro_batch = here.index;
  return model_.forward(here.inputs, context);
}

method::Evaluation BackpropEngine::score(const at::Tensor& logits, const data::Batch& batch) {
  const at::NoGradGuard no_grad;
  const Autocast autocast(options_.precision == Precision::bf16, form_.device);
  return method::score(model_, logits, batch.targets.to(form_.device));
}

void BackpropEngine::save(io::StateWriter& writer) const {
  stream_.save(writer);
  if (params_.buffers().numel() > 0) writer.local("engine.buffers", params_.buffers());
}

void BackpropEngine::load(io::StateReader& reader) {
  stream_.load(reader);
  if (params_.buffers().numel() == 0 || !reader.has_local()) return;
  const at::NoGradGuard no_grad;
  params_.buffers().copy_(reader.local("engine.buffers"));
}

}  // namespace outstep::engine
