#include "outstep/comm/stream.h"

#include <algorithm>

#include "outstep/comm/sum.h"

namespace outstep::comm {

at::Tensor segment_of(const at::Tensor& vector, int64_t segment, const Segments& cut) {
  const int64_t begin = segment * cut.length;
  return vector.narrow(0, begin, std::min(cut.length, vector.numel() - begin));
}

Incoming::Incoming(Group& group, int peer, int64_t length, at::ScalarType wire, Segments cut,
                   at::Tensor landing, const CallOptions& options)
    : group_(group),
      peer_(peer),
      length_(length),
      cut_(cut),
      count_(cut.count(length)),
      options_(options),
      landing_(std::move(landing)),
      lands_in_place_(landing_.defined()) {
  const int64_t window = std::min(cut_.window, count_);
  if (!lands_in_place_) landing_ = at::empty({std::min(window * cut_.length, length_)}, wire);
  works_.resize(static_cast<size_t>(window));
  for (int64_t segment = 0; segment < window; ++segment) post(segment);
}

at::Tensor Incoming::place(int64_t segment) const {
  const int64_t slot = lands_in_place_ ? segment : segment % cut_.window;
  const int64_t size = std::min(cut_.length, length_ - segment * cut_.length);
  return landing_.narrow(0, slot * cut_.length, size);
}

void Incoming::post(int64_t segment) {
  works_[static_cast<size_t>(segment % cut_.window)] = group_.recv(place(segment), peer_, options_);
}

at::Tensor Incoming::take(int64_t segment) {
  works_[static_cast<size_t>(segment % cut_.window)].wait();
  return place(segment);
}

void Incoming::release(int64_t segment) {
  if (segment + cut_.window < count_) post(segment + cut_.window);
}

Outgoing::Outgoing(Group& group, int peer, at::Tensor vector, at::ScalarType wire, Segments cut,
                   const CallOptions& options)
    : group_(group),
      peer_(peer),
      vector_(std::move(vector)),
      cut_(cut),
      count_(cut.count(vector_.numel())),
      options_(options) {
  const int64_t window = std::min(cut_.window, count_);
  if (wire != vector_.scalar_type()) {
    slots_ = at::empty({std::min(window * cut_.length, vector_.numel())}, wire);
  }
  works_.resize(static_cast<size_t>(window));
}

void Outgoing::post(int64_t segment) {
  if (segment >= count_) return;
  at::Tensor values = segment_of(vector_, segment, cut_);
  const int64_t slot = segment % cut_.window;
  if (slots_.defined()) {
    at::Tensor packed = slots_.narrow(0, slot * cut_.length, values.numel());
    round_to_bf16(packed, values);
    values = packed;
  }
  works_[static_cast<size_t>(slot)] = group_.send(values, peer_, options_);
}

void Outgoing::wait(int64_t segment) { works_[static_cast<size_t>(segment % cut_.window)].wait(); }

}  // namespace outstep::comm
