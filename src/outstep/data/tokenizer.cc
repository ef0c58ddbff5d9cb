#include "outstep/data/tokenizer.h"

#include "outstep/base/errors.h"

namespace outstep::data {

std::vector<int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids(text.size());
  for (size_t i = 0; i < text.size(); ++i) ids[i] = static_cast<uint8_t>(text[i]);
  return ids;
}

std::string ByteTokenizer::decode(std::span<const int32_t> ids) const {
  std::string text(ids.size(), '\0');
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] > 255) {
      throw DataError("token {} is {}, but bytes have ids 0 to 255", i, ids[i]);
    }
    text[i] = static_cast<char>(ids[i]);
  }
  return text;
}

}  // namespace outstep::data
