#include "outstep/optim/optimizer.h"

#include "outstep/base/errors.h"

namespace outstep::optim {

State State::part(Range part) const {
  check(part.begin >= range.begin && part.begin <= part.end && part.end <= range.end,
        "a part of an optimizer's state lies within its range");
  State result{.range = part, .step = step, .names = names};
  for (const at::Tensor& vector : vectors) {
    result.vectors.push_back(vector.narrow(0, part.begin - range.begin, part.size()));
  }
  return result;
}

int64_t State::num_bytes() const {
  int64_t total = 0;
  for (const at::Tensor& vector : vectors) total += static_cast<int64_t>(vector.nbytes());
  return total;
}

void State::save(io::StateWriter& writer, int64_t total) const {
  const State* self = this;
  save_parts({&self, 1}, writer, total);
}

void State::save_parts(std::span<const State* const> parts, io::StateWriter& writer,
                       int64_t total) {
  writer.shared("optimizer.step", parts.front()->step);
  for (const State* part : parts) {
    for (size_t i = 0; i < part->vectors.size(); ++i) {
      writer.slice("optimizer." + part->names[i], part->vectors[i], part->range.begin, total);
    }
  }
}

void State::load(io::StateReader& reader, int64_t total) {
  const int64_t saved_step = reader.shared_int("optimizer.step");
  if (saved_step < 0) {
    throw DataError("checkpoint entry \"optimizer.step\" is {}, expected 0 or more", saved_step);
  }
  for (size_t i = 0; i < vectors.size(); ++i) {
    reader.slice("optimizer." + names[i], vectors[i], range.begin, total);
  }
  step = saved_step;
}

}  // namespace outstep::optim
