#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "outstep/data/tokenizer.h"
#include "outstep/nn/sample.h"

namespace outstep::apps {

struct GenerateOptions {
  std::string prompt;
  nn::SampleOptions sample;
  double max_seconds = 0;  // stop early; 0: no limit
};

// Continues a prompt as text; an empty one begins a new document. Pieces go to on_text as soon as
// they are whole characters; joined they are what is returned, without the prompt. Stops at the
// tokenizer's end of text.
std::string generate(const nn::Model& model, const data::Tokenizer& tokenizer,
                     const GenerateOptions& options,
                     const std::function<void(const std::string&)>& on_text = nullptr);

}  // namespace outstep::apps
