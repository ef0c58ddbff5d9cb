#include "outstep/ensemble/wash.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/base/hash.h"
#include "outstep/base/log.h"
#include "outstep/comm/agreement.h"

namespace outstep::ensemble {
namespace {

constexpr comm::Tag kValues = 1;
constexpr int64_t kStepsEnd = int64_t{1} << 32;  // a plan's

Depth read_depth(io::Section& section) {
  const std::string name = section.text(
      "depth", "decreasing", {.choices = {"decreasing", "constant", "increasing", "custom"}});
  if (name == "constant") return Depth::constant;
  if (name == "increasing") return Depth::increasing;
  return name == "custom" ? Depth::custom : Depth::decreasing;
}

// Whether a key was given along with the choice of the method, and not by a base for a choice of
// its own ("base.toml:3:1").
bool is_given_here(io::Section& section, const std::string& key) {
  if (!section.has(key)) return false;
  const auto file_of = [&](const std::string& of) {
    const std::string origin = section.origin(of);
    return origin.substr(0, origin.find(":"));
  };
  return section.origin(key).starts_with("--") || !section.has("name") ||
         file_of(key) == file_of("name");
}

// Neither is unknown, and a reason says more.
void refuse_delayed_moments(io::Section& section) {
  if (!is_given_here(section, "delayed") || !section.flag("delayed", false)) return;
  throw ConfigError(
      "{}: ensemble \"wash_opt\" is never delayed: a second moment could become negative by a "
      "difference; leave ensemble.delayed out, or use \"wash\"",
      section.origin("delayed"));
}

void refuse_factors(io::Section& section, const std::string& depth) {
  if (!is_given_here(section, "depth_factors")) return;
  throw ConfigError(
      "{}: ensemble.depth_factors is for ensemble.depth = \"custom\", and here it is \"{}\"",
      section.origin("depth_factors"), depth);
}

// Of everything that a plan depends on but the step, and of what its positions mean.
uint64_t hash_layout(const Parts& parts, const WashOptions& options,
                     const std::vector<Layer>& layers, const std::vector<double>& factors) {
  std::string text = fmt::format("{} {} {} {} {} {} {} {} {:a}\n", parts.seed, parts.group.size(),
                                 options.is_cyclic, options.moves_moments, options.is_delayed,
                                 options.timing.interval, options.timing.start_step,
                                 options.timing.stop_step, options.fades ? -options.p : options.p);
  text += c10::toString(parts.params.values().scalar_type());
  for (const Layer& layer : layers) {
    text += fmt::format("\n{} {} {:a}:", layer.number, layer.num_before,
                        factors[static_cast<size_t>(layer.number)]);
    for (size_t i = 0; i < layer.pieces.size(); ++i) {
      text += fmt::format(" {} {} {}", layer.names[i], layer.pieces[i].begin, layer.pieces[i].end);
    }
  }
  for (const nn::FlatParams::Entry& entry : parts.params.entries()) {
    text += fmt::format("\n{} [{}]", entry.name, fmt::join(entry.shape, ", "));
  }
  return hash64(std::as_bytes(std::span(text)));
}

}  // namespace

WashOptions WashOptions::read(io::Section& section, bool moves_moments) {
  WashOptions options{.moves_moments = moves_moments};
  options.p = section.number("p", options.p, {.min = 0, .max = 1});
  options.depth = read_depth(section);
  if (options.depth == Depth::custom) {
    options.depth_factors = section.numbers("depth_factors", {}, {.min = 0, .max = 1});
  } else {
    refuse_factors(section, section.text("depth", "decreasing"));
  }
  options.fades =
      section.text("p_schedule", "with_lr", {.choices = {"constant", "with_lr"}}) == "with_lr";
  options.is_cyclic =
      section.text("permutation", "uniform", {.choices = {"uniform", "cyclic"}}) == "cyclic";
  options.check_every = section.integer("check_every", options.check_every, {.min = 1});
  options.timing = Timing::read(section, options.timing);
  if (moves_moments) {
    refuse_delayed_moments(section);
  } else {
    options.is_delayed = section.flag("delayed", false);
  }
  return options;
}

Wash::Wash(const Parts& parts, WashOptions options)
    : params_(parts.params),
      group_(parts.group),
      options_(std::move(options)),
      seed_(parts.seed),
      layers_(layers_of(parts.model, parts.params)),
      factors_(depth_factors(options_.depth, count_layers(parts.model), options_.depth_factors)),
      lanes_per_parameter_(1 + (options_.moves_moments ? parts.moments_per_parameter : 0)),
      layout_(hash_layout(parts, options_, layers_, factors_)) {
  check(!(options_.is_delayed && options_.moves_moments),
        "a difference may make a second moment negative: wash_opt is never delayed");
  if (options_.is_delayed) worker_ = std::make_unique<SerialWorker>("wash");
}

// What travels ends by itself, by its deadline or because whoever failed has aborted the group.
Wash::~Wash() = default;

const std::string& Wash::name() const {
  static const std::string kName = "wash", kWithMoments = "wash_opt";
  return options_.moves_moments ? kWithMoments : kName;
}

double Wash::base_probability(const method::MixContext& context) const {
  return options_.fades ? std::min(options_.p * context.lr_share, 1.0) : options_.p;
}

bool Wash::is_due(const method::MixContext& context) const {
  if (group_.size() == 1) return false;
  const bool shuffles = base_probability(context) > 0 && options_.timing.is_due(context.step);
  return shuffles || pending_;
}

Plan Wash::plan(const method::MixContext& context) const {
  std::vector<double> probabilities = factors_;
  for (double& p : probabilities) p *= base_probability(context);
  return make_plan(layers_, probabilities,
                   {.seed = seed_,
                    .step = context.step,
                    .num_members = group_.size(),
                    .is_cyclic = options_.is_cyclic});
}

// Members that plan differently would send what others do not await: it is found out first.
Plan Wash::agreed_plan(const method::MixContext& context) {
  if (num_shuffles_ == 0) {
    comm::require_agreement(group_, "parameters, seed or [ensemble]", layout_);
  }
  Plan plan = this->plan(context);
  if (num_shuffles_++ % options_.check_every == 0) {
    comm::require_agreement(
        group_, fmt::format("plan of the shuffle after step {}", context.step + 1), plan.hash());
  }
  return plan;
}

std::vector<Lane> Wash::lanes(std::span<optim::State* const> states) const {
  std::vector<Lane> lanes = {{.values = params_.values()}};
  if (!options_.moves_moments) return lanes;
  for (const optim::State* state : states) {
    for (const at::Tensor& vector : state->vectors) {
      lanes.push_back({.values = vector, .begin = state->range.begin});
    }
  }
  return lanes;
}

method::MixReport Wash::after_step(const method::MixContext& context,
                                   std::span<optim::State* const> states) {
  const trace::Span span(context.tracer, trace::Track::compute, "shuffle", {.step = context.step});
  const at::NoGradGuard no_grad;
  const std::vector<Lane> lanes = this->lanes(states);
  method::MixReport report;
  take_in(lanes, report);
  if (base_probability(context) <= 0 || !options_.timing.is_due(context.step)) return report;
  if (options_.is_delayed) {
    set_out(lanes, context, report);
  } else {
    shuffle_now(lanes, context, report);
  }
  return report;
}

void Wash::shuffle_now(std::span<const Lane> lanes, const method::MixContext& context,
                       method::MixReport& report) {
  const Shuffle shuffle(agreed_plan(context), group_.rank(), lanes);
  const at::Tensor packed = shuffle.pack(lanes);
  const Clock::time_point begin = Clock::now();
  const at::Tensor received =
      shuffle.exchange(group_, packed, {.tag = kValues, .what = "shuffle", .step = context.step});
  report.communication_seconds = report.idle_seconds = seconds_since(begin);
  shuffle.unpack(received, lanes);
  report.num_mixed = shuffle.num_moved();
  report.bytes_sent = static_cast<int64_t>(packed.nbytes());
}

void Wash::set_out(std::span<const Lane> lanes, const method::MixContext& context,
                   method::MixReport& report) {
  Shuffle shuffle(agreed_plan(context), group_.rank(), lanes);
  const at::Tensor packed = shuffle.pack(lanes);
  const at::Tensor before = shuffle.pack_incoming(lanes);
  report.num_mixed = shuffle.num_moved();
  report.bytes_sent = static_cast<int64_t>(packed.nbytes());
  pending_.emplace(Pending{
      .context = context, .shuffle = std::move(shuffle), .packed = packed, .difference = before});
  pending_->context.tracer = nullptr;  // may be another's by the time it is used
  travelling_ = worker_->post([this] { travel(); });
}

// On the worker's thread.
void Wash::travel() {
  const Clock::time_point begin = Clock::now();
  const at::NoGradGuard no_grad;
  const at::Tensor received = pending_->shuffle.exchange(
      group_, std::exchange(pending_->packed, {}),
      {.tag = kValues, .what = "shuffle", .step = pending_->context.step});
  pending_->difference = received - pending_->difference;
  communication_seconds_ = seconds_since(begin);
}

void Wash::take_in(std::span<const Lane> lanes, method::MixReport& report) {
  if (!pending_) return;
  const Clock::time_point begin = Clock::now();
  worker_->wait(travelling_);
  report.idle_seconds = seconds_since(begin);
  report.communication_seconds = std::exchange(communication_seconds_, 0);
  pending_->shuffle.add(pending_->difference, lanes);
  pending_.reset();
}

double Wash::planned_bytes_per_step() const {
  const double stays = 1.0 / group_.size();
  double moved = 0;
  for (const Layer& layer : layers_) {
    moved += std::min(options_.p * factors_[static_cast<size_t>(layer.number)], 1.0) *
             static_cast<double>(layer.size()) * (1 - stays);
  }
  const auto element_bytes = static_cast<double>(params_.values().element_size());
  return moved * lanes_per_parameter_ * element_bytes /
         static_cast<double>(options_.timing.interval);
}

void Wash::save(io::StateWriter& writer) const {
  writer.shared("wash.is_pending", pending_ ? 1 : 0);
  if (!pending_) return;
  worker_->wait(travelling_);
  writer.shared("wash.num_members", group_.size());
  writer.shared("wash.step", pending_->context.step);
  writer.shared("wash.lr_share", at::scalar_tensor(pending_->context.lr_share, at::kDouble));
  writer.shared("wash.plan", static_cast<int64_t>(plan(pending_->context).hash()));
  writer.shared("wash.difference", pending_->difference);
}

void Wash::load(io::StateReader& reader) {
  pending_.reset();
  // A run of another method, or one that was not delayed, has nothing on its way.
  if (!worker_ || !reader.has_shared("wash.is_pending")) return;
  if (reader.shared_int("wash.is_pending") == 0) return;
  // Members that go on are among those that were saved: fewer, or the same.
  if (reader.has_shared("wash.num_members") &&
      reader.shared_int("wash.num_members") != group_.size()) {
    if (group_.rank() == 0) {
      log::info("the shuffle on its way is dropped: it was among {} members, of which {} go on",
                reader.shared_int("wash.num_members"), group_.size());
    }
    return;
  }
  const at::Tensor lr_share = reader.shared("wash.lr_share");
  const int64_t step = reader.shared_int("wash.step");
  // A share beyond 1 would make a plan of more than this recipe ever shuffles.
  if (step < 0 || step >= kStepsEnd || lr_share.numel() != 1 || !lr_share.is_floating_point() ||
      !(lr_share.item<double>() >= 0 && lr_share.item<double>() <= 1)) {
    throw DataError(
        "the shuffle on its way has a step or a share of the learning rate that cannot be");
  }
  const method::MixContext context{.step = step, .lr_share = lr_share.item<double>()};
  const auto require = [](bool is_this_plan) {
    if (is_this_plan) return;
    throw DataError(
        "the shuffle on its way is of another plan than this recipe's; go on with the [ensemble] "
        "and seed that the run was saved with");
  };
  const Plan plan = this->plan(context);
  require(reader.shared_int("wash.plan") == static_cast<int64_t>(plan.hash()));
  Shuffle shuffle(plan, group_.rank(), lanes({}));
  const at::Tensor difference = reader.shared("wash.difference").to(params_.values().device());
  require(difference.dim() == 1 && difference.scalar_type() == params_.values().scalar_type() &&
          difference.numel() == shuffle.num_moved());
  pending_.emplace(Pending{.context = context,
                           .shuffle = std::move(shuffle),
                           .packed = {},
                           .difference = difference.clone()});
}

}  // namespace outstep::ensemble
