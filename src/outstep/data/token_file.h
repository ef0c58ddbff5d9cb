#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "outstep/data/token_row.h"

// Files of token ids, as others write them. All numbers are little-endian.
//
//   nanoGPT's  .bin   ids of 2 bytes, nothing else
//   llm.c's    .bin   256 int32: magic, version, number of tokens, zeros; then the ids:
//                     magic 20240520, version 1: 2 bytes each (GPT-2);  magic 20240801, version 7:
//                     4 bytes each (Llama 3)
//
// The two cannot be mistaken for each other as long as ids are GPT-2's: the magic would be a first
// id above 50,256.

namespace outstep::data {

enum class TokenFormat { plain_uint16, llmc_uint16, llmc_uint32 };
const char* token_format_name(TokenFormat format);

struct TokenFileInfo {
  TokenFormat format = TokenFormat::plain_uint16;
  int64_t num_tokens = 0;
  int64_t header_bytes = 0;
  int width = 2;  // bytes an id
};

// What the header and the size say. Throws DataError: empty, cut off, an odd size, an unknown
// version, llm.c's other kinds of file (models, evaluations), a count that does not fit the size.
TokenFileInfo inspect_token_file(const std::filesystem::path& path);

struct OpenTokenFileOptions {
  std::string name = {};  // begins errors about the ids; empty: the path
};
// Maps the file: opening it costs nothing, and ranks of one machine share the memory.
TokenRow open_token_file(const std::filesystem::path& path,
                         const OpenTokenFileOptions& options = {});

// Writes llm.c's form, of 2 bytes when the vocabulary allows, atomically.
void write_token_file(const std::filesystem::path& path, const TokenRow& tokens,
                      int64_t vocab_size);

}  // namespace outstep::data
