#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "outstep/engine/pipeline/mode.h"
#include "outstep/io/state.h"
#include "outstep/nn/flat_params.h"
#include "outstep/nn/model.h"
#include "outstep/nn/params_stash.h"

namespace outstep::engine {

// In which of the two passes over a micro-batch batch norm's running statistics move, where the
// second one evaluates the blocks again.
enum class StatisticsIn { forward, backward };

struct StageOptions {
  Buffering buffering = {};
  bool keeps_graph = false;  // whatever buffering says: of a last stage
  bool is_first = true;
  bool is_last = true;
  StatisticsIn statistics_in = StatisticsIn::backward;
  bool autocasts = false;      // blocks compute in bfloat16 where that is safe
  bool channels_last = false;  // how images lie in memory, which a checkpoint does not say
  uint64_t seed = 1;           // of the run: keys dropout
};

// What a stage hands to the one before it.
struct Returned {
  nn::Streams input = {};     // x̂, rebuilt or kept; what the stage before goes back from
  nn::Streams gradient = {};  // of the loss with respect to it; empty of a first stage
};

// A stage's two passes, and what it keeps of a micro-batch between them.
//
// It goes back block by block: a block's input is rebuilt or taken from what was kept, the block is
// differentiated there, and only then comes the block before; so one block's graph lives at a time.
// Where it keeps a graph, or the input of the whole stage, one graph of all blocks does.
//
// Borrows model and parameters. Adds to the flat gradient, and moves the running statistics once a
// micro-batch. Parameters may change between any two passes. One thread calls it.
class Stage : public io::Stateful {
 public:
  // Blocks params.blocks() of the model.
  Stage(nn::Model& model, nn::FlatParams& params, const StageOptions& options);
  ~Stage() override;

  // In order of the micro-batches. Returns what goes to the next stage.
  nn::Streams forward(int64_t micro_batch, const nn::Streams& input);
  // The last stage's, which ends with the loss; it must be differentiated before the next update.
  double forward_to_loss(int64_t micro_batch, const nn::Streams& input, const at::Tensor& targets);
  // Of the oldest micro-batch that is kept. returned: what the next stage handed back, given up
  // block by block; the last stage ignores it. on_block_done hears of each block whose gradients
  // are complete.
  Returned backward(int64_t micro_batch, Returned returned,
                    const std::function<void(size_t block)>& on_block_done = {});

  // Without keeping anything.
  nn::Streams predict(const nn::Streams& input, nn::ForwardContext context);

  // Backpropagation at the parameters of now, beside training, to compare with: a graph of the
  // whole stage from its input, and the way back through it. Adds to the flat gradient; nothing
  // else changes. targets: of a last stage.
  struct Exact {
    nn::Streams leaves = {};
    nn::Streams output = {};  // the loss as .x, of a last stage
  };
  Exact forward_exactly(int64_t micro_batch, const nn::Streams& input, const at::Tensor& targets);
  // Returns the gradient with respect to the input. gradient: of the output; unused by a last
  // stage.
  nn::Streams backward_exactly(const Exact& exact, const nn::Streams& gradient);

  // The next micro-batch to go forward keeps all its blocks' inputs, to compare with what is
  // rebuilt.
  void watch_next() { watches_next_ = true; }
  // Of the micro-batch that went back last, if it was watched: the largest ‖x̂ - x‖ / ‖x‖ of its
  // blocks' rebuilt inputs, both streams together.
  std::optional<double> reconstruction_error() const { return reconstruction_error_; }

  int64_t num_kept() const;  // micro-batches
  // Updates between the two passes of the micro-batch that went back last.
  int64_t staleness() const { return staleness_; }
  // What is kept, each tensor once: streams and copies of parameters, but not what graphs hold.
  int64_t kept_bytes() const;

  void save(io::StateWriter& writer) const override;
  void load(io::StateReader& reader) override;

 private:
  struct Kept;

  bool keeps_graph() const {
    return options_.keeps_graph || options_.buffering.keep == Keep::graph;
  }
  size_t first_block() const { return params_.blocks().begin; }
  size_t end_block() const { return params_.blocks().end; }
  nn::Block& block(size_t index) const { return *model_.blocks[index]; }
  nn::ForwardContext context(int64_t micro_batch, bool moves_statistics) const;
  void keep_stash(Kept& kept);
  // Runs blocks [begin, end) with a graph.
  nn::Streams run(size_t begin, size_t end, const nn::Streams& input, int64_t micro_batch,
                  bool moves_statistics);
  // With a graph.
  at::Tensor loss_of(const nn::Streams& logits, const at::Tensor& targets) const;
  // The same as run without a graph, keeping the inputs that going back will need.
  nn::Streams run_keeping(size_t end, const nn::Streams& input, Kept& kept);
  Returned back_through_graph(Kept& kept, const Returned& returned);
  Returned back_from_input(Kept& kept, Returned returned);
  Returned back_block_by_block(size_t end, Kept& kept, Returned at,
                               const std::function<void(size_t block)>& on_block_done);

  nn::Model& model_;
  nn::FlatParams& params_;
  const StageOptions options_;
  std::deque<Kept> kept_;                        // oldest first
  std::shared_ptr<nn::ParamsStash> last_stash_;  // of the newest version that was copied
  int64_t staleness_ = 0;
  bool watches_next_ = false;
  std::optional<double> reconstruction_error_;
};

}  // namespace outstep::engine
