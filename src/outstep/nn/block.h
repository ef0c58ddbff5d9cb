#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "outstep/base/rng.h"
#include "outstep/base/torch.h"

// A model is a list of blocks (stem, blocks, head). A pipeline cuts the list, local learning puts a
// loss on each piece: a model written once serves every engine.

namespace outstep::nn {

// Fills a parameter at the start. The key is the parameter's own, derived from the run's seed and
// the parameter's name, so that initial values do not depend on which rank or stage holds it.
using Init = std::function<void(at::Tensor values, RngKey key)>;
namespace init {
Init zeros();
Init ones();
Init constant(double value);
Init normal(double deviation);
Init uniform(double bound);     // [-bound, bound)
Init kaiming_normal_fan_out();  // conv weights [out, in, kh, kw]; He et al. 2015, as torchvision's
                                // ResNet
Init kaiming_uniform_fan_in();  // torch's default for linear and conv: bound 1/sqrt(fan_in)
}  // namespace init

enum class Decay { yes, no };

// A learnable tensor. Undefined until FlatParams places it; then a view of the flat vector that
// requires grad and whose .grad() is a view of the flat gradient.
struct Parameter {
  std::string name;  // full, as in the exported file: "transformer.h.0.ln_1.weight"
  std::vector<int64_t> shape;
  Init init;
  Decay decay = Decay::yes;  // whether weight decay applies
  at::Tensor tensor;
};

// State that is not learned: batch norm's running statistics. Float32, placed by FlatParams too.
struct Buffer {
  std::string name;
  std::vector<int64_t> shape;
  double initial = 0;
  at::Tensor tensor;
};

class KeyValueCache;

// What passes from block to block: one stream, or the two of a reversible network (coupling.h).
// Written by whoever made it, by nobody after.
struct Streams {
  at::Tensor x = {};
  at::Tensor other = {};  // x̃; undefined where there is but one

  bool are_two() const { return other.defined(); }
};

// What one forward pass is told beside its input. A value: an engine makes one per micro-batch and
// block list.
struct ForwardContext {
  bool training = false;
  uint64_t seed = 0;        // of the run
  int64_t micro_batch = 0;  // Batch::index; with seed and operation it keys dropout
  // Whether a pass in training moves batch norm's running statistics. Where a pass is made twice,
  // because a block's input is rebuilt or its graph made anew, one of the two does.
  bool moves_statistics = true;
  // How far such a pass moves them towards the batch's: torch's momentum. 1 / (k + 1) for the k-th
  // of several batches, from 0, leaves the mean over these.
  double statistics_rate = 0.1;

  // Called by Model::forward before each block, with its number: its parameters may still be on
  // their way. Borrowed; null: they are all here.
  const std::function<void(size_t block)>* before_block = nullptr;

  // Of tokens seen earlier, when text is made token by token; null otherwise. Borrowed.
  KeyValueCache* cache = nullptr;

  // The key of a random operation, named by purpose("transformer.h.0.attn.resid_dropout"). It
  // depends on nothing else: a block that is recomputed, or runs on another stage, draws the same
  // numbers.
  RngKey draw(uint32_t operation) const {
    return {seed, operation, static_cast<uint64_t>(micro_batch)};
  }
};

class Block {
 public:
  virtual ~Block() = default;
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  virtual Streams forward(const Streams& input, ForwardContext& context) = 0;
  // Whether its input can be rebuilt from its output: it is a Coupling.
  virtual bool is_reversible() const { return false; }

  const std::vector<Parameter*>& parameters() const { return parameters_; }
  const std::vector<Buffer*>& buffers() const { return buffers_; }
  const std::string& name() const { return name_; }  // "transformer.h.3"

 protected:
  explicit Block(std::string name) : name_(std::move(name)) {}
  Parameter& add_parameter(const std::string& full_name, std::vector<int64_t> shape, Init init,
                           Decay decay = Decay::yes);
  Buffer& add_buffer(const std::string& full_name, std::vector<int64_t> shape, double initial);
  // Uses another block's parameter (a tied head). It is placed once and listed by both blocks.
  void share_parameter(Parameter& parameter) { parameters_.push_back(&parameter); }

 private:
  std::string name_;
  std::deque<Parameter> owned_parameters_;  // a deque: references stay valid
  std::deque<Buffer> owned_buffers_;
  std::vector<Parameter*> parameters_;
  std::vector<Buffer*> buffers_;
};

// A block of an ordinary network: one stream in, one out.
class PlainBlock : public Block {
 public:
  Streams forward(const Streams& input, ForwardContext& context) final {
    return {.x = transform(input.x, context)};
  }
  virtual at::Tensor transform(const at::Tensor& input, ForwardContext& context) = 0;

 protected:
  using Block::Block;
};

}  // namespace outstep::nn
