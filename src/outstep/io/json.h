#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "outstep/base/errors.h"

// Reads JSON that may come from anywhere. Copies, comparisons and dumps of nlohmann's values call
// themselves level by level, so text that nests without end would take the stack.
//
//   const auto config = io::parse_json(io::read_text(path), path.string());

namespace outstep::io {

inline constexpr int kMaxJsonDepth = 32;  // tokenizers have 6, what Outstep writes has fewer

// Throws DataError ("ORIGIN: not JSON: …") for what is no JSON, or nests deeper than kMaxJsonDepth.
template <typename Json = nlohmann::ordered_json>
Json parse_json(std::string_view text, const std::string& origin) {
  const auto check_depth = [&](int depth, typename Json::parse_event_t, const Json&) {
    if (depth > kMaxJsonDepth) {
      throw DataError("{}: its JSON nests more than {} levels deep", origin, kMaxJsonDepth);
    }
    return true;
  };
  try {
    return Json::parse(text, check_depth);
  } catch (const nlohmann::json::exception& error) {
    std::string reason = error.what();  // "REASON; last read: '…'", which may be the whole file
    reason = reason.substr(0, reason.find("; last read"));
    throw DataError("{}: not JSON: {}", origin, reason.substr(0, 200));
  }
}

// Discarded (json.is_discarded()) where parse_json would throw.
template <typename Json = nlohmann::ordered_json>
Json try_parse_json(std::string_view text) {
  try {
    return parse_json<Json>(text, "");
  } catch (const DataError&) {
    return Json(Json::value_t::discarded);
  }
}

}  // namespace outstep::io
