#include "outstep/engine/pipeline/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "outstep/base/errors.h"
#include "outstep/engine/autocast.h"
#include "outstep/io/safetensors.h"
#include "outstep/method/layout.h"
#include "outstep/nn/coupling.h"

namespace outstep::engine {
namespace {

StageOptions stage_options(const StageParts& parts, const PipelineOptions& options) {
  const int rank = parts.stages.rank();
  const bool is_last = rank + 1 == parts.stages.size();
  return {.buffering = options.mode.buffering,
          .keeps_graph = is_last && options.mode.last_keeps_graph,
          .is_first = rank == 0,
          .is_last = is_last,
          .statistics_in = options.statistics_in,
          .autocasts = options.precision == Precision::bf16,
          .channels_last = options.channels_last.value_or(parts.model.prefers_channels_last()),
          .seed = options.seed};
}

// Parts of the flat vector by block, padding included.
std::vector<optim::Range> ranges_of_blocks(const nn::FlatParams& params) {
  const size_t first = params.blocks().begin;
  std::vector<optim::Range> ranges(params.blocks().end - first);
  const std::vector<optim::Range> of_parameters = method::parameter_ranges(params);
  for (size_t i = 0; i < of_parameters.size(); ++i) {
    optim::Range& range = ranges[static_cast<size_t>(params.entries()[i].block) - first];
    if (range.size() == 0) range = of_parameters[i];
    range.end = of_parameters[i].end;
  }
  return ranges;
}

// Of the angle between two flat gradients. 0 where one vanishes.
double cosine(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  const double norms = x.norm().item<double>() * y.norm().item<double>();
  return norms > 0 ? x.dot(y).item<double>() / norms : 0;
}

bool previous_rebuilds(const StageParts& parts, const PipelineOptions& options) {
  if (parts.stages.rank() == 0) return false;
  return options.mode.buffering.keep == Keep::nothing &&
         parts.model.blocks[parts.params.blocks().begin - 1]->is_reversible();
}

}  // namespace

PipelineOptions PipelineOptions::read(io::Section& section, const std::string& name,
                                      int64_t accumulation, int num_stages) {
  PipelineOptions options{.mode = pipeline_mode(name)};
  options.precision = read_precision(section);
  options.channels_last = read_channels_last(section);
  Mode& mode = options.mode;
  const bool flushes = mode.flushes();
  if (flushes && mode.buffering.keep == Keep::graph && section.flag("checkpoint", false)) {
    mode.buffering.keep = Keep::input;
    mode.last_keeps_graph = false;
  }
  if (mode.buffering.keep != Keep::graph) {
    const std::string usual = mode.last_keeps_graph ? "graph" : "rebuild";
    mode.last_keeps_graph =
        section.text("last_stage", usual, {.choices = {"graph", "rebuild"}}) == "graph";
    options.statistics_in =
        section.text("batch_norm", "backward", {.choices = {"backward", "forward"}}) == "forward"
            ? StatisticsIn::forward
            : StatisticsIn::backward;
  }
  options.measure_every =
      accumulation * section.integer("measure_every", 0, {.min = 0, .max = 1 << 30});
  options.flush_every = accumulation;
  if (!flushes) {
    const bool is_free = section.text("pace", "ticks", {.choices = {"ticks", "free"}}) == "free";
    const int64_t credits = section.integer("credits", 0, {.min = 0, .max = 1 << 20});
    if (credits > 0 && !is_free) {
      throw ConfigError("{}: engine.credits is for engine.pace = \"free\" alone",
                        section.origin("credits"));
    }
    // As many as ticks have in flight.
    if (is_free) options.credits = credits > 0 ? credits : 2 * num_stages - 1;
    const int64_t steps = section.integer("flush_every", 0, {.min = 0, .max = 1 << 30});
    options.flush_every = steps > 0 ? steps * accumulation : Program::kNever;
    options.record_ticks = section.integers("record_ticks", {}, {.min = 0});
    options.record_folder = section.text("record_folder", "");
    if (is_free && (steps > 0 || !options.record_ticks.empty())) {
      throw ConfigError(
          "{}: engine.pace = \"free\" has no ticks: flush_every and record_ticks need pace = "
          "\"ticks\"",
          section.origin("pace"));
    }
    if (!options.record_ticks.empty() && (options.record_folder.empty() || steps > 0)) {
      throw ConfigError(
          "{}: engine.record_ticks needs a record_folder to write to, and no flush_every",
          section.origin("record_ticks"));
    }
  }
  return options;
}

PipelineEngine::PipelineEngine(const StageParts& parts, PipelineOptions options)
    : parts_(parts),
      options_(std::move(options)),
      form_(form_for(parts.model, options_.precision, options_.channels_last,
                     parts.params.values().device())),
      schedule_{.order = options_.mode.order,
                .num_stages = parts.stages.size(),
                .flush_every = options_.flush_every,
                .credits = options_.credits},
      previous_wants_input_(previous_rebuilds(parts, options_)),
      program_(schedule_.program(parts.stages.rank())),
      stage_(parts.model, parts.params, stage_options(parts, options_)),
      block_ranges_(ranges_of_blocks(parts.params)) {
  const int rank = parts.stages.rank();
  Link::Options link{.device = form_.device, .bell = &bell_, .tracer = options_.tracer};
  if (rank + 1 < parts.stages.size()) next_.emplace(parts.stages, link);
  link.towards = Towards::previous;
  if (rank > 0) previous_.emplace(parts.stages, link);
}

PipelineEngine::~PipelineEngine() = default;

void PipelineEngine::on_range_ready(method::RangeCallback callback) {
  callback_ = std::move(callback);
}

// A step of a schedule that flushes reads the same parameters in all its passes; with ticks any
// pass may read any of them.
method::Contribution PipelineEngine::accumulate() {
  const at::AutoGradMode grad_mode(true);
  if (needs_) needs_(0, parts_.params.size());
  if (is_measured(program_.num_backward())) {
    measurement_.emplace(Measurement{.exact = exact_gradient(), .before = {}});
    measurement_->before = parts_.params.gradients().clone();
  }
  while (next_kind() == Action::Kind::forward) forward();
  return backward();
}

void PipelineEngine::conclude_measurement() {
  alignment_ = cosine(parts_.params.gradients() - measurement_->before, measurement_->exact);
  reconstruction_error_ = stage_.reconstruction_error();
  measurement_.reset();
}

Action::Kind PipelineEngine::next_kind() {
  return is_free() && !is_last() ? first_to_come() : program_.peek().kind;
}

// Back before forward: that is what others wait for, and what frees a credit.
Action::Kind PipelineEngine::first_to_come() {
  const bool may_begin = !is_first() || program_.num_in_flight() < options_.credits;
  const auto can_go_back = [&] { return program_.num_in_flight() > 0 && next_->is_ready(); };
  const auto can_go_forward = [&] { return may_begin && (is_first() || previous_->is_ready()); };
  if (!can_go_back() && !can_go_forward()) {
    const auto begin = Clock::now();
    const trace::Span span(options_.tracer, trace::Track::compute, "wait");
    // With nothing in flight only activations can come.
    const bool awaits_gradients = program_.num_in_flight() > 0;
    Link& awaited = awaits_gradients ? *next_ : *previous_;
    if (!bell_.wait_for(awaited.patience(), [&] { return can_go_back() || can_go_forward(); })) {
      awaited.give_up(awaits_gradients
                          ? text_of(Message::Kind::gradients, passing_.front().micro_batch)
                          : text_of(Message::Kind::activations, next_arriving_),
                      begin);
    }
    idle_seconds_ += seconds_since(begin);
  }
  return can_go_back() ? Action::Kind::backward : Action::Kind::forward;
}

// Of the micro-batch that goes back next, at the parameters of now, by backpropagation through all
// stages. All of them have gone back as often when they come here, so all have made the same
// updates; what is on its way between them is taken in first.
at::Tensor PipelineEngine::exact_gradient() {
  const trace::Span span(options_.tracer, trace::Track::compute, "exact gradient");
  pause();
  at::Tensor flat = parts_.params.gradients();
  const at::Tensor added = flat.clone();
  flat.zero_();
  Message message{.kind = Message::Kind::exact};
  if (is_first()) {
    const int64_t next =
        passing_.empty() ? parts_.stream.next_number() : passing_.front().micro_batch;
    message.micro_batch = next;
    message.streams.x = placed(parts_.stream.at(next), form_).inputs;
  } else {
    message = previous_->receive(Message::Kind::exact);
  }
  at::Tensor targets;
  if (is_last()) targets = parts_.stream.at(message.micro_batch).targets.to(form_.device);
  const Stage::Exact exact = stage_.forward_exactly(message.micro_batch, message.streams, targets);
  nn::Streams gradient;
  if (!is_last()) {
    next_->send({.kind = Message::Kind::exact,
                 .micro_batch = message.micro_batch,
                 .streams = nn::detached(exact.output)});
    gradient = next_->receive(Message::Kind::exact, message.micro_batch).gradient;
  }
  gradient = stage_.backward_exactly(exact, gradient);
  if (!is_first()) {
    previous_->send(
        {.kind = Message::Kind::exact, .micro_batch = message.micro_batch, .gradient = gradient});
  }
  at::Tensor result = flat.clone();
  flat.copy_(added);
  return result;
}

data::Batch PipelineEngine::draw() { return placed(parts_.stream.next(), form_); }

Message PipelineEngine::receive_or_draw() {
  if (!is_first()) {
    Message message = previous_->receive(Message::Kind::activations, next_arriving_);
    next_arriving_ = message.micro_batch + parts_.stream.options().num_replicas;
    return message;
  }
  const data::Batch batch = draw();
  Message drawn{.kind = Message::Kind::activations,
                .micro_batch = batch.index,
                .num_samples = batch.num_samples,
                .num_units = batch.num_units,
                .streams = {.x = batch.inputs}};
  if (is_last()) drawn.gradient.x = batch.targets;
  return drawn;
}

// The last stage draws the same row as the first one, some ticks later.
at::Tensor PipelineEngine::draw_targets(const Message& inputs) {
  data::Batch batch = parts_.stream.next();
  if (batch.index != inputs.micro_batch && is_stream_to_be_set_) {
    parts_.stream.restart_at(inputs.micro_batch);
    batch = parts_.stream.next();
  }
  is_stream_to_be_set_ = false;
  check(batch.index == inputs.micro_batch,
        "the last stage's targets are those of the inputs it is sent");
  require_same_size(inputs, batch);
  return batch.targets.to(form_.device);
}

// What one stage reads, another reads the rest of.
void PipelineEngine::require_same_size(const Message& message, const data::Batch& own) const {
  if (message.num_samples == own.num_samples) return;
  throw CommError(
      "stage {} sent {}, of {} examples, where stage {} reads {}: do all ranks read the same data?",
      parts_.stages.rank() - 1, text_of(message.kind, message.micro_batch), message.num_samples,
      parts_.stages.rank(), own.num_samples);
}

// A stage's ticks go with its forward passes, one a tick: before that of tick t + 1 the parameters
// are what tick t has left.
void PipelineEngine::record(int64_t tick) {
  if (std::ranges::count(options_.record_ticks, tick) == 0) return;
  auto tensors = parts_.params.named_tensors();
  if (is_last()) {
    tensors.emplace_back("losses", at::tensor(losses_to_record_, at::kDouble));
    losses_to_record_.clear();
  }
  const std::filesystem::path path =
      std::filesystem::path(options_.record_folder) /
      fmt::format("tick-{:06}-stage-{}.safetensors", tick, parts_.stages.rank());
  io::write_safetensors(path, tensors, {{"format", "pt"}});
}

void PipelineEngine::forward() {
  if (!options_.record_ticks.empty()) {
    record(program_.num_forward() + parts_.stages.rank() - 1);
  }
  if (is_measured(program_.num_forward())) stage_.watch_next();
  program_.advance(Action::Kind::forward);
  const Message message = receive_or_draw();
  Passing passing{.micro_batch = message.micro_batch,
                  .num_samples = message.num_samples,
                  .num_units = message.num_units};
  const trace::Span span(options_.tracer, trace::Track::compute, "forward",
                         {.step = message.micro_batch});
  if (is_last()) {
    const at::Tensor targets = is_first() ? message.gradient.x : draw_targets(message);
    passing.loss = stage_.forward_to_loss(message.micro_batch, message.streams, targets);
    if (!options_.record_ticks.empty()) losses_to_record_.push_back(passing.loss);
  } else {
    next_->send({.kind = Message::Kind::activations,
                 .micro_batch = message.micro_batch,
                 .num_samples = message.num_samples,
                 .num_units = message.num_units,
                 .streams = stage_.forward(message.micro_batch, message.streams)});
  }
  passing_.push_back(passing);
  peak_kept_bytes_ = std::max(peak_kept_bytes_, stage_.kept_bytes());
}

method::Contribution PipelineEngine::backward() {
  program_.advance(Action::Kind::backward);
  const Passing passing = passing_.front();
  passing_.pop_front();
  Returned returned;
  if (!is_last()) {
    Message message = next_->receive(Message::Kind::gradients, passing.micro_batch);
    returned = {.input = std::move(message.streams), .gradient = std::move(message.gradient)};
  }
  {
    const trace::Span span(options_.tracer, trace::Track::compute, "backward",
                           {.step = passing.micro_batch});
    is_announced_.assign(block_ranges_.size(), false);
    std::function<void(size_t block)> on_block_done = [this](size_t block) { announce(block); };
    if (measurement_) on_block_done = nullptr;  // whoever hears of a range may write it at once
    returned = stage_.backward(passing.micro_batch, std::move(returned), on_block_done);
  }
  if (!is_first()) {
    previous_->send({.kind = Message::Kind::gradients,
                     .micro_batch = passing.micro_batch,
                     .streams = previous_wants_input_ ? returned.input : nn::Streams{},
                     .gradient = returned.gradient});
  }
  parts_.params.check_gradients_in_place();
  if (measurement_) conclude_measurement();
  announce_rest();
  return {.micro_batches = 1,
          .samples = passing.num_samples,
          .units = passing.num_units,
          .loss_sum = passing.loss,
          .num_losses = is_last() ? 1 : 0,
          .staleness_sum = static_cast<double>(stage_.staleness()),
          .staleness_max = stage_.staleness()};
}

void PipelineEngine::announce(size_t block) {
  const size_t index = block - parts_.params.blocks().begin;
  if (!callback_ || is_announced_[index]) return;
  is_announced_[index] = true;
  const optim::Range& range = block_ranges_[index];
  if (range.size() > 0) callback_(range.begin, range.end);
}

void PipelineEngine::announce_rest() {
  for (size_t i = block_ranges_.size(); i-- > 0;) announce(parts_.params.blocks().begin + i);
}

at::Tensor PipelineEngine::predict(const data::Batch& batch, nn::ForwardContext context) {
  nn::Streams input;
  if (is_first()) {
    input = {.x = placed(batch, form_).inputs};
  } else {
    const Message message = previous_->receive(Message::Kind::evaluation, batch.index);
    require_same_size(message, batch);
    input = message.streams;
  }
  context.micro_batch = batch.index;
  const nn::Streams output = stage_.predict(input, context);
  if (is_last()) return output.x;
  next_->send({.kind = Message::Kind::evaluation,
               .micro_batch = batch.index,
               .num_samples = batch.num_samples,
               .streams = output});
  return {};
}

method::Evaluation PipelineEngine::score(const at::Tensor& logits, const data::Batch& batch) {
  const at::NoGradGuard no_grad;
  const Autocast autocast(options_.precision == Precision::bf16, form_.device);
  return method::score(parts_.model, logits, batch.targets.to(form_.device));
}

void PipelineEngine::pause() {
  for (std::optional<Link>* link : {&previous_, &next_}) {
    if (*link) (*link)->send_mark();
  }
  for (std::optional<Link>* link : {&previous_, &next_}) {
    if (*link) (*link)->receive_to_mark();
  }
}

method::EngineReport PipelineEngine::take_report() {
  method::EngineReport report{
      .is_stage = true,
      .kept_bytes = std::exchange(peak_kept_bytes_, 0),
      .reconstruction_error = std::exchange(reconstruction_error_, std::nullopt),
      .gradient_alignment = std::exchange(alignment_, std::nullopt)};
  for (std::optional<Link>* link : {&previous_, &next_}) {
    if (*link) report.idle_seconds += (*link)->take_idle_seconds();
  }
  report.idle_seconds += std::exchange(idle_seconds_, 0);
  const int64_t sent = parts_.stages.bytes_sent();
  report.bytes_sent = sent - std::exchange(bytes_reported_, sent);
  return report;
}

// Of mode, pace and the stage's blocks: what is in flight is of use to no other.
int64_t PipelineEngine::kind() const {
  const nn::BlockRange& blocks = parts_.params.blocks();
  return purpose(fmt::format("{}{} {} {}", options_.mode.name, is_free() ? " free" : "",
                             blocks.begin, blocks.end));
}

void PipelineEngine::save(io::StateWriter& writer) const {
  parts_.stream.save(writer);
  if (parts_.params.buffers().numel() > 0) writer.local("engine.buffers", parts_.params.buffers());
  writer.local("pipeline.kind", kind());
  writer.local("pipeline.num_forward", program_.num_forward());
  writer.local("pipeline.num_backward", program_.num_backward());
  at::Tensor passing = at::empty({std::ssize(passing_), 3}, at::kLong);
  for (size_t i = 0; i < passing_.size(); ++i) {
    int64_t* row = passing.mutable_data_ptr<int64_t>() + 3 * i;
    row[0] = passing_[i].micro_batch;
    row[1] = passing_[i].num_samples;
    row[2] = passing_[i].num_units;
  }
  writer.local("pipeline.passing", passing);
  stage_.save(writer);
  for (const std::optional<Link>* link : {&previous_, &next_}) {
    if (*link) (*link)->save(writer);
  }
}

void PipelineEngine::load(io::StateReader& reader) {
  parts_.stream.load(reader);
  passing_.clear();
  next_arriving_.reset();
  if (reader.has_local()) {
    const at::NoGradGuard no_grad;
    if (parts_.params.buffers().numel() > 0) {
      parts_.params.buffers().copy_(reader.local("engine.buffers"));
    }
    if (reader.local_int("pipeline.kind") != kind()) {
      throw DataError("the checkpoint was saved by another engine than \"{}\", or cut elsewhere",
                      options_.mode.name);
    }
    const int64_t num_forward = reader.local_int("pipeline.num_forward");
    const int64_t num_backward = reader.local_int("pipeline.num_backward");
    const bool is_ordered = 0 <= num_backward && num_backward <= num_forward;
    const int64_t in_flight = is_ordered ? num_forward - num_backward : -1;
    const int64_t most_in_flight = schedule_.most_in_flight(parts_.stages.rank());
    if (is_free() && in_flight > most_in_flight) {
      throw DataError(
          "the checkpoint has {} micro-batches in flight; engine.credits = {} allows fewer",
          in_flight, options_.credits);
    }
    const at::Tensor passing = reader.local("pipeline.passing").contiguous();
    if (!is_ordered || in_flight > most_in_flight || passing.dim() != 2 || passing.size(1) != 3 ||
        passing.scalar_type() != at::kLong || passing.size(0) != in_flight ||
        passing.lt(0).any().item<bool>()) {
      throw DataError("the checkpoint's micro-batches in flight do not fit together");
    }
    program_.seek(num_forward, num_backward);
    for (int64_t i = 0; i < passing.size(0); ++i) {
      const int64_t* row = passing.const_data_ptr<int64_t>() + 3 * i;
      passing_.push_back({.micro_batch = row[0], .num_samples = row[1], .num_units = row[2]});
    }
    if (!passing_.empty()) {
      next_arriving_ = passing_.back().micro_batch + parts_.stream.options().num_replicas;
    }
  } else {
    program_ = schedule_.program(parts_.stages.rank());
    is_stream_to_be_set_ = true;
  }
  const at::AutoGradMode grad_mode(true);
  stage_.load(reader);
  if (stage_.num_kept() != std::ssize(passing_)) {
    throw DataError("the checkpoint keeps {} micro-batches of a stage, of which {} are in flight",
                    stage_.num_kept(), passing_.size());
  }
  for (std::optional<Link>* link : {&previous_, &next_}) {
    if (*link) (*link)->load(reader);
  }
}

}  // namespace outstep::engine
