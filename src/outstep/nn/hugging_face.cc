#include "outstep/nn/hugging_face.h"

#include <nlohmann/json.hpp>
#include <string_view>

#include "outstep/base/errors.h"
#include "outstep/io/json.h"
#include "outstep/nn/gpt2.h"
#include "outstep/nn/models.h"

namespace outstep::nn {
namespace {

using Tensors = std::map<std::string, at::Tensor>;

std::filesystem::path weights_in(const std::filesystem::path& folder) {
  const auto path = folder / "model.safetensors";
  if (!std::filesystem::is_directory(folder) || std::filesystem::exists(path)) return path;
  if (std::filesystem::exists(folder / "model.safetensors.index.json")) {
    throw DataError(
        "{}: the model is split over several files; save it as one with save_pretrained(folder, "
        "max_shard_size=\"100GB\")",
        folder.string());
  }
  if (std::filesystem::exists(folder / "pytorch_model.bin")) {
    throw DataError(
        "{}: pytorch_model.bin is a pickle, which is not read; save the model with transformers' "
        "save_pretrained, which writes model.safetensors",
        folder.string());
  }
  throw DataError("{}: there is no model.safetensors in it", folder.string());
}

// Masks that older versions of transformers saved as if they were learned: "h.0.attn.bias",
// "transformer.h.0.attn.masked_bias". By hand: std::regex calls itself for each character.
bool is_attention_mask(std::string_view name) {
  const auto skip = [&](std::string_view start) {
    const bool is_there = name.starts_with(start);
    if (is_there) name.remove_prefix(start.size());
    return is_there;
  };
  skip("transformer.");
  if (!skip("h.")) return false;
  const size_t digits = name.find_first_not_of("0123456789");
  if (digits == 0 || digits == name.npos) return false;
  name.remove_prefix(digits);
  return name == ".attn.bias" || name == ".attn.masked_bias";
}

Tensors as_gpt2(Tensors tensors, bool is_tied, const std::string& origin) {
  Tensors renamed;
  for (auto& [name, tensor] : tensors) {
    if (is_attention_mask(name)) continue;
    const bool has_prefix = name.starts_with("transformer.") || name.starts_with("lm_head.");
    renamed.emplace(has_prefix ? name : "transformer." + name, tensor);
  }
  const auto head = renamed.find("lm_head.weight");
  const auto table = renamed.find("transformer.wte.weight");
  if (is_tied && head != renamed.end() && table != renamed.end()) {
    if (!head->second.equal(table->second)) {
      throw DataError(
          "{}: lm_head.weight differs from transformer.wte.weight, but this model ties them "
          "(tie_word_embeddings)",
          origin);
    }
    renamed.erase(head);
  }
  return renamed;
}

// torch's batch norm counts its batches, which nothing here needs.
Tensors without_counters(Tensors tensors) {
  std::erase_if(tensors,
                [](const auto& entry) { return entry.first.ends_with(".num_batches_tracked"); });
  return tensors;
}

}  // namespace

void write_folder(const std::filesystem::path& folder, const Model& model,
                  const FlatParams& params) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw DataError("{}: cannot make this folder: {}", folder.string(), error.message());
  // The large one first: where it does not fit, nothing is left that would be in the way of another
  // try.
  const auto weights = folder / "model.safetensors";
  io::write_safetensors(weights, params.named_tensors(), {{"format", "pt"}});
  try {
    io::write_text_atomically(folder / "config.json", model.config().dump(2) + "\n");
  } catch (...) {
    std::filesystem::remove(weights, error);
    throw;
  }
}

std::unique_ptr<Model> read_model(const std::filesystem::path& folder) {
  const auto path = folder / "config.json";
  return make_model(io::parse_json(io::read_text(path), path.string()), path.string());
}

void load_folder(const std::filesystem::path& path, const Model& model, FlatParams& params) {
  const bool is_folder = std::filesystem::is_directory(path);
  const io::Safetensors file(is_folder ? weights_in(path) : path);
  const std::string origin = file.path().string();
  Tensors tensors;
  for (const auto& [name, info] : file.tensors()) tensors.emplace(name, file.tensor(name));
  if (const auto* gpt2 = dynamic_cast<const Gpt2*>(&model)) {
    tensors = as_gpt2(std::move(tensors), gpt2->options().tie_word_embeddings, origin);
  } else {
    tensors = without_counters(std::move(tensors));
  }
  params.load(tensors, origin);
}

}  // namespace outstep::nn
