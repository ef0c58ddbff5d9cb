#include "outstep/optim/elementwise.h"

#include <algorithm>
#include <utility>

#include "outstep/base/errors.h"
#include "outstep/base/parallel.h"

namespace outstep::optim {
namespace {

constexpr int64_t kElementsPerTask = 32 * 1024;  // of the flat range: worth a thread

bool is_vector(const at::Tensor& tensor, int64_t size, at::ScalarType type) {
  return tensor.defined() && tensor.scalar_type() == type && tensor.is_contiguous() &&
         tensor.numel() == size;
}

void copy_if_apart(const float* from, float* to, int64_t size) {
  if (from != to) std::copy(from, from + size, to);
}

}  // namespace

ElementwiseOptimizer::ElementwiseOptimizer(std::string name, std::vector<std::string> vector_names,
                                           std::vector<Segment> segments, Kernels kernels)
    : name_(std::move(name)),
      vector_names_(std::move(vector_names)),
      segments_(std::move(segments)),
      kernels_(kernels) {
  check(vector_names_.size() <= kMaxVectors, "kMaxVectors is enough");
  int64_t end = 0;
  for (const Segment& segment : segments_) {
    check(segment.range.begin >= end && segment.range.size() >= 0,
          "segments are sorted and do not overlap");
    end = segment.range.end;
  }
}

State ElementwiseOptimizer::make_state(Range range, at::TensorOptions options) const {
  State state{.range = range, .names = vector_names_};
  for (size_t i = 0; i < vector_names_.size(); ++i) {
    state.vectors.push_back(at::zeros({range.size()}, options));
  }
  return state;
}

int64_t ElementwiseOptimizer::state_bytes_per_parameter() const {
  return static_cast<int64_t>(vector_names_.size() * sizeof(float));
}

void ElementwiseOptimizer::check_update(const Update& update) const {
  check(update.state_in != nullptr, "an update has a state");
  const int64_t size = update.state_in->range.size();
  const at::ScalarType type = update.params_in.scalar_type();
  check(type == at::kFloat || type == at::kDouble, "parameters are float32 or float64");
  check(is_vector(update.gradient, size, type) && is_vector(update.params_in, size, type) &&
            is_vector(update.params_out, size, type),
        "gradient and parameters are contiguous vectors of the state's range");
  for (const State* state : {update.state_in, static_cast<const State*>(update.state_out)}) {
    if (state == nullptr) continue;
    check(state->vectors.size() == vector_names_.size(), "the state is this optimizer's");
    for (const at::Tensor& vector : state->vectors) {
      check(is_vector(vector, size, type), "state vectors are of the state's range and type");
    }
  }
}

void ElementwiseOptimizer::update(const Update& update) const {
  check_update(update);
  const int64_t step = update.state_in->step + 1;
  const Rule rule = this->rule(update.gradient_scale, update.lr, step);
  const bool has_kernel = update.params_in.is_cpu() && update.params_in.scalar_type() == at::kFloat;
  if (has_kernel && kernels_ != Kernels::operators) {
    update_on_cpu(update, rule);
  } else {
    update_by_operators(update, rule);
  }
  if (update.state_out != nullptr) {
    update.state_out->range = update.state_in->range;
    update.state_out->step = step;
  }
}

template <typename Visit>
void ElementwiseOptimizer::for_each_piece(Range range, const Visit& visit) const {
  auto segment = std::partition_point(
      segments_.begin(), segments_.end(),
      [&](const Segment& candidate) { return candidate.range.end <= range.begin; });
  int64_t position = range.begin;
  while (position < range.end) {
    const bool in_padding = segment == segments_.end() || position < segment->range.begin;
    const int64_t limit = segment == segments_.end() ? range.end
                          : in_padding               ? segment->range.begin
                                                     : segment->range.end;
    const int64_t end = std::min(limit, range.end);
    visit(position, end, in_padding ? nullptr : &*segment);
    position = end;
    if (!in_padding && position == segment->range.end) ++segment;
  }
}

void ElementwiseOptimizer::update_on_cpu(const Update& update, const Rule& rule) const {
  const Range range = update.state_in->range;
  const size_t num_vectors = vector_names_.size();
  Piece whole{.size = range.size(),
              .gradient = update.gradient.const_data_ptr<float>(),
              .params_in = update.params_in.const_data_ptr<float>(),
              .params_out = update.params_out.mutable_data_ptr<float>(),
              .keeps_state = update.state_out != nullptr};
  for (size_t i = 0; i < num_vectors; ++i) {
    whole.state_in[i] = update.state_in->vectors[i].const_data_ptr<float>();
    if (whole.keeps_state) {
      whole.state_out[i] = update.state_out->vectors[i].mutable_data_ptr<float>();
    }
  }
  parallel_for(range.size(), kElementsPerTask, [&](int64_t task_begin, int64_t task_end) {
    const Range task{range.begin + task_begin, range.begin + task_end};
    for_each_piece(task, [&](int64_t begin, int64_t end, const Segment* segment) {
      const int64_t offset = begin - range.begin;
      Piece piece = whole;
      piece.size = end - begin;
      piece.gradient += offset;
      piece.params_in += offset;
      piece.params_out += offset;
      for (size_t i = 0; i < num_vectors; ++i) {
        piece.state_in[i] += offset;
        if (piece.keeps_state) piece.state_out[i] += offset;
      }
      if (segment != nullptr) {
        piece.decays = segment->decays;
        rule.on_cpu(piece);
        return;
      }
      copy_if_apart(piece.params_in, piece.params_out, piece.size);
      for (size_t i = 0; i < num_vectors && piece.keeps_state; ++i) {
        copy_if_apart(piece.state_in[i], piece.state_out[i], piece.size);
      }
    });
  });
}

void ElementwiseOptimizer::update_by_operators(const Update& update, const Rule& rule) const {
  at::NoGradGuard no_grad;
  const Range range = update.state_in->range;
  for_each_piece(range, [&](int64_t begin, int64_t end, const Segment* segment) {
    const auto cut = [&](const at::Tensor& vector) {
      return vector.narrow(0, begin - range.begin, end - begin);
    };
    TensorPiece piece{.gradient = cut(update.gradient),
                      .params_in = cut(update.params_in),
                      .params_out = cut(update.params_out),
                      .decays = segment != nullptr && segment->decays};
    for (const at::Tensor& vector : update.state_in->vectors) piece.state_in.push_back(cut(vector));
    if (update.state_out != nullptr) {
      for (const at::Tensor& vector : update.state_out->vectors) {
        piece.state_out.push_back(cut(vector));
      }
    }
    if (segment != nullptr) {
      rule.by_operators(piece);
      return;
    }
    piece.params_out.copy_(piece.params_in);
    for (size_t i = 0; i < piece.state_out.size(); ++i) piece.state_out[i].copy_(piece.state_in[i]);
  });
}

}  // namespace outstep::optim
