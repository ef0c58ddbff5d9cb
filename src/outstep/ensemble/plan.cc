#include "outstep/ensemble/plan.h"

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "outstep/base/errors.h"
#include "outstep/base/hash.h"
#include "outstep/base/rng.h"

namespace outstep::ensemble {
namespace {

// 1 / (2 k + 1).
constexpr std::array<double, 11> kReciprocals = {
    1.0,      1.0 / 3,  1.0 / 5,  1.0 / 7,  1.0 / 9, 1.0 / 11,
    1.0 / 13, 1.0 / 15, 1.0 / 17, 1.0 / 19, 1.0 / 21};  // |s| < 0.172: the next term is below 2^-56

constexpr int kLayerBits = 16;  // of a stream; the step has the others

CounterRng rng_of(const PlanOptions& options, int layer) {
  check(layer < 1 << kLayerBits, "a model has fewer than 65,536 layers");
  return CounterRng(
      {.seed = options.seed,
       .purpose = purpose("ensemble.shuffle"),
       .stream = static_cast<uint64_t>(options.step) << kLayerBits | static_cast<uint64_t>(layer)});
}

// ln(1 - p), also where 1 - p would be rounded to 1.
double log_of_complement(double p) {
  // What is left out is p³ / 4 of it: 2.5e-13 at most, far less than any count can show.
  constexpr double kSmall = 1e-4;
  return p < kSmall ? -p * (1 + p * (0.5 + p / 3)) : portable_log(1 - p);
}

// How many elements are passed over before the next that is taken: geometric, by inversion. U lies
// in (0, 1], so that ln U is finite. scale: 1 / ln(1 - p).
double skip(CounterRng& rng, double scale) {
  const double uniform = static_cast<double>((rng.next_u64() >> 11) + 1) * 0x1p-53;
  return std::floor(portable_log(uniform) * scale);
}

// Draws of Fisher and Yates's shuffle that one random number serves: it is read as digits of mixed
// radix, the radixes' product being this.
struct Digits {
  size_t end = 0;  // the draw behind the last
  uint64_t product = 1;
};

// Of all draws for as many members; the same for every position.
std::vector<Digits> digits_of(int num_members) {
  std::vector<Digits> batches;
  const auto count = static_cast<uint64_t>(num_members);
  for (uint64_t covered = 1; covered < count;) {
    Digits batch;
    while (covered < count &&
           batch.product <= std::numeric_limits<uint64_t>::max() / (covered + 1)) {
      batch.product *= ++covered;
    }
    batch.end = covered;
    batches.push_back(batch);
  }
  return batches;
}

// Of 2^64: such that its digits to radixes of this product are uniform and independent, without
// bias (Brackett-Rozinsky and Lemire, arXiv 2408.06213).
uint64_t fraction_for(CounterRng& rng, uint64_t product) {
  while (true) {
    const uint64_t fraction = rng.next_u64();
    const uint64_t low = fraction * product;
    if (low >= product || low >= (0 - product) % product) return fraction;
  }
}

// From the inside out: a new last place takes what is at a random one, which takes the new number.
void draw_permutation(CounterRng& rng, std::span<const Digits> batches,
                      std::span<uint16_t> sources) {
  sources[0] = 0;
  size_t i = 1;
  for (const Digits& batch : batches) {
    uint64_t fraction = fraction_for(rng, batch.product);
    for (; i < batch.end; ++i) {
      const auto product = static_cast<unsigned __int128>(fraction) * (i + 1);
      const auto j = static_cast<size_t>(product >> 64);
      sources[i] = sources[j];
      sources[j] = static_cast<uint16_t>(i);
      fraction = static_cast<uint64_t>(product);
    }
  }
}

void draw_shift(CounterRng& rng, std::span<uint16_t> sources) {
  const uint64_t shift = rng.below(sources.size());
  for (size_t n = 0; n < sources.size(); ++n) {
    sources[n] = static_cast<uint16_t>((n + shift) % sources.size());
  }
}

void plan_layer(Plan& plan, const Layer& layer, double p, const PlanOptions& options,
                std::span<const Digits> batches) {
  CounterRng rng = rng_of(options, layer.number);
  const bool takes_all = p >= 1;
  const double scale = takes_all ? 0 : 1 / log_of_complement(p);
  const auto next_skip = [&] { return takes_all ? 0 : skip(rng, scale); };
  std::vector<uint16_t> sources(static_cast<size_t>(plan.num_members));
  const auto size = static_cast<double>(layer.num_before + layer.size());
  auto piece = layer.pieces.begin();
  int64_t before = layer.num_before;  // elements before this piece
  // In double: a skip may be longer than any layer.
  for (double next = next_skip(); next < size; next += 1 + next_skip()) {
    const auto index = static_cast<int64_t>(next);
    if (options.is_cyclic) {
      draw_shift(rng, sources);
    } else {
      draw_permutation(rng, batches, sources);
    }
    if (index < layer.num_before) continue;  // an earlier stage's
    while (index - before >= piece->size()) before += (piece++)->size();
    plan.positions.push_back(piece->begin + index - before);
    plan.sources.insert(plan.sources.end(), sources.begin(), sources.end());
  }
}

template <typename T>
uint64_t hash_of(const std::vector<T>& values, uint64_t seed) {
  return hash64(std::as_bytes(std::span(values)), seed);
}

}  // namespace

// With s = (m - 1) / (m + 1), ln m = 2 artanh s = 2 (s + s³/3 + s⁵/5 + …); m is near 1.
double portable_log(double x) {
  constexpr double kLn2 = 0.693147180559945309417;
  constexpr double kSqrtHalf = 0.707106781186547524401;
  constexpr uint64_t kExponentBits = 0x7FFULL << 52, kExponentOfHalf = 1022ULL << 52;
  // x = m 2^exponent, m in [1/2, 1), then in [√½, √2).
  const auto bits = std::bit_cast<uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1022;
  double m = std::bit_cast<double>((bits & ~kExponentBits) | kExponentOfHalf);
  if (m < kSqrtHalf) {
    m *= 2;
    --exponent;
  }
  const double s = (m - 1) / (m + 1);
  const double z = s * s;
  static_assert(kReciprocals.size() % 2 == 1);
  // Of even and of odd powers of z, each a chain of its own: half as long to wait for.
  const double square = z * z;
  double even = 0, odd = 0;
  for (size_t k = kReciprocals.size() - 1; k > 0; k -= 2) {
    even = even * square + kReciprocals[k];
    odd = odd * square + kReciprocals[k - 1];
  }
  const double sum = (even * square + kReciprocals[0]) + odd * z;
  return exponent * kLn2 + 2 * s * sum;
}

uint64_t Plan::hash() const {
  return hash_of(sources, hash_of(positions, static_cast<uint64_t>(num_members)));
}

Plan make_plan(std::span<const Layer> layers, std::span<const double> probabilities,
               const PlanOptions& options) {
  check(options.num_members >= 1 && options.num_members <= std::numeric_limits<uint16_t>::max(),
        "a population has at most 65,535 members");
  Plan plan{.num_members = options.num_members};
  const std::vector<Digits> batches = digits_of(options.num_members);
  for (const Layer& layer : layers) {
    const double p = probabilities[static_cast<size_t>(layer.number)];
    if (p > 0) plan_layer(plan, layer, p, options, batches);
  }
  return plan;
}

void shuffle_in_process(const Plan& plan, std::span<const at::Tensor> members) {
  check(std::ssize(members) == plan.num_members, "a plan is for as many members as it says");
  const at::Tensor positions =
      at::tensor(at::IntArrayRef(plan.positions), at::kLong).to(members.front().device());
  std::vector<at::Tensor> before;
  for (const at::Tensor& values : members) before.push_back(values.index_select(0, positions));
  for (int n = 0; n < plan.num_members; ++n) {
    at::Tensor sources = at::empty({plan.size()}, at::kLong);
    for (int64_t k = 0; k < plan.size(); ++k) sources[k] = plan.source(k, n);
    const at::Tensor taken =
        at::stack(before).gather(0, sources.to(positions.device()).unsqueeze(0));  // [1, positions]
    members[static_cast<size_t>(n)].index_copy_(0, positions, taken.squeeze(0));
  }
}

}  // namespace outstep::ensemble
