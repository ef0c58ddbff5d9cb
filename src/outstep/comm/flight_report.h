#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace outstep::comm {

// What the flight records of a run's ranks say together.
struct FlightReport {
  // For a person: each rank's error, the operations that not all ranks came to, and the last ones
  // of each rank.
  std::string text;
  // The same: {"ranks": [{"rank", "error", "num_operations"}], "missing_ranks": […], "findings":
  // ["…"]}.
  nlohmann::ordered_json json;
};

// Reads the records (flight-N.json, any number of ranks) and compares operation by operation.
// Throws DataError for files that are no flight records or do not belong together.
FlightReport report_flights(const std::vector<std::filesystem::path>& files);

// The flight records in a folder, in order of rank.
std::vector<std::filesystem::path> flight_records_in(const std::filesystem::path& folder);

}  // namespace outstep::comm
