#pragma once

#include <filesystem>
#include <memory>

#include "outstep/data/tokenizer.h"

namespace outstep::data {

// From tokenizer.json, or a folder with tokenizer.json, vocab.json and merges.txt, or encoder.json
// and vocab.bpe. Throws DataError: missing, foreign, damaged, or a tokenizer.json that asks for
// something other than GPT-2's pieces.
std::shared_ptr<const Tokenizer> open_bpe(const std::filesystem::path& path);

}  // namespace outstep::data
