#include "outstep/comm/reduction.h"

#include <algorithm>
#include <array>
#include <deque>

#include "outstep/comm/sum.h"

namespace outstep::comm {
namespace {

bool overlap(const at::Tensor& a, const at::Tensor& b) {
  const auto* a_begin = static_cast<const std::byte*>(a.const_data_ptr());
  const auto* b_begin = static_cast<const std::byte*>(b.const_data_ptr());
  return a_begin < b_begin + b.nbytes() && b_begin < a_begin + a.nbytes();
}

std::deque<Incoming> post_receives(Reduction& r, const CallOptions& options) {
  // One peer's segments may land in the output itself, where they are added up in place.
  const at::Tensor& own = r.outgoing[static_cast<size_t>(r.group.rank())];
  bool output_is_free = r.wire == r.output.scalar_type() && !overlap(r.output, own);
  std::deque<Incoming> incoming;
  for (int distance = 1; distance < r.group.size(); ++distance) {
    incoming.emplace_back(r.group, peer_before(r.group, distance), r.output.numel(), r.wire, r.cut,
                          output_is_free ? r.output : at::Tensor(), options);
    output_is_free = false;
  }
  return incoming;
}

std::deque<Outgoing> post_sends(Reduction& r, const CallOptions& options) {
  std::deque<Outgoing> outgoing;
  for (int distance = 1; distance < r.group.size(); ++distance) {
    const int peer = peer_after(r.group, distance);
    outgoing.emplace_back(r.group, peer, r.outgoing[static_cast<size_t>(peer)], r.wire, r.cut,
                          options);
  }
  for (int64_t segment = 0; segment < r.cut.window; ++segment) {
    for (Outgoing& stream : outgoing) stream.post(segment);
  }
  return outgoing;
}

// The own term's segment as the others get it.
at::Tensor own_segment(const Reduction& r, int64_t segment, at::Tensor& scratch) {
  at::Tensor own = segment_of(r.outgoing[static_cast<size_t>(r.group.rank())], segment, r.cut);
  if (r.wire == own.scalar_type()) return own;
  if (!scratch.defined()) scratch = at::empty({std::min(r.cut.length, r.output.numel())}, r.wire);
  at::Tensor rounded = scratch.narrow(0, 0, own.numel());
  round_to_bf16(rounded, own);
  return rounded;
}

void sum_segment(Reduction& r, int64_t segment, std::deque<Incoming>& incoming,
                 at::Tensor& scratch) {
  const auto size = static_cast<size_t>(r.group.size());
  std::vector<at::Tensor> terms(size);
  for (int distance = 1; distance < r.group.size(); ++distance) {
    terms[static_cast<size_t>(peer_before(r.group, distance))] =
        incoming[static_cast<size_t>(distance - 1)].take(segment);
  }
  terms[static_cast<size_t>(r.group.rank())] = own_segment(r, segment, scratch);
  at::Tensor sum = segment_of(r.output, segment, r.cut);
  sum_in_order(sum, terms);
  if (r.is_rounded) {
    std::array<at::Tensor, 1> rounded = {terms[static_cast<size_t>(r.group.rank())]};
    round_to_bf16(rounded[0], sum);
    sum_in_order(sum, rounded);
  }
  for (Incoming& stream : incoming) stream.release(segment);
}

}  // namespace

void run_reduction(Reduction& r, const CallOptions& options) {
  std::deque<Incoming> incoming = post_receives(r, options);
  std::deque<Outgoing> outgoing = post_sends(r, options);
  const int64_t num_sums = r.cut.count(r.output.numel());
  int64_t num_segments = num_sums;
  for (const Outgoing& stream : outgoing) num_segments = std::max(num_segments, stream.count());

  at::Tensor scratch;
  for (int64_t segment = 0; segment < num_segments; ++segment) {
    // The output may be what is being sent: it is written when its old value is on its way.
    for (Outgoing& stream : outgoing) {
      if (segment < stream.count()) stream.wait(segment);
    }
    r.on_sent(segment);
    if (segment < num_sums) {
      sum_segment(r, segment, incoming, scratch);
      r.on_summed(segment);
    }
    for (Outgoing& stream : outgoing) stream.post(segment + r.cut.window);
  }
}

}  // namespace outstep::comm
