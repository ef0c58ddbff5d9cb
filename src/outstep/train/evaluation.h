#pragma once

#include <span>
#include <vector>

#include "outstep/train/assembly.h"

// Validation, shared among ranks: each works out some of the batches, all get the sum, in the order
// of the batches; so the bits are the same for any number of ranks. No units if there is no
// validation set. Every rank of the world calls these, paused (Synchronizer::pause).

namespace outstep::train {

// Of this rank's member, shared among its replicas.
method::Evaluation evaluate(const Recipe& recipe, Assembly& assembly);
// Of the mean of all members' logits.
method::Evaluation evaluate_ensemble(const Recipe& recipe, Assembly& assembly);
// Of a model that all members hold, shared among all replicas of them.
method::Evaluation evaluate_shared(const Recipe& recipe, Assembly& assembly);

// What every member's is, by member, on every rank.
std::vector<method::Evaluation> gather_evaluations(const method::Evaluation& own,
                                                   Assembly& assembly);

// Payload that this rank has sent over the groups by which all of this goes, and while it does
// nothing else.
int64_t evaluation_bytes_sent(const Assembly& assembly);

// Over members.
double mean_loss(std::span<const method::Evaluation> members);
double mean_accuracy(std::span<const method::Evaluation> members);

}  // namespace outstep::train
