#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "outstep/apps/stored_model.h"
#include "outstep/train/assembly.h"

namespace outstep::apps {

// What for; each takes overrides of its own.
enum class Use {
  eval,  // [data], [evaluation] and [engine]
  soup,  // [data], [engine] and ensemble.batch_norm_batches: to recompute running statistics
};
// Throws ConfigError for an override that says anything else.
void require_relevant(const std::vector<std::string>& overrides, Use use);

// A stored model in the place of a rank's, with data beside it: to be evaluated, by one process and
// all of it. Throws ConfigError as require_relevant does and for data that the model cannot take;
// DataError.
class EvaluatedModel {
 public:
  EvaluatedModel(const std::filesystem::path& named, const std::vector<std::string>& overrides,
                 Use use = Use::eval);

  const std::filesystem::path& folder() const { return folder_; }
  train::Recipe& recipe() { return recipe_; }
  train::Assembly& assembly() { return *assembly_; }  // groups, data, model, stream, engine

 private:
  EvaluatedModel(StoredModel stored, const std::vector<std::string>& overrides, Use use);

  std::filesystem::path folder_;
  train::Recipe recipe_;
  std::vector<std::unique_ptr<comm::Fabric>> fabrics_;
  std::unique_ptr<train::Assembly> assembly_;
};

}  // namespace outstep::apps
