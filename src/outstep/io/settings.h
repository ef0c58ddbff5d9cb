#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// A recipe as values with their origin: TOML files, one parent each (`base = "…"`), overrides from
// the command line.
//
//   Settings settings = Settings::from_file("recipes/quickstart.toml", {"sync.name=ddp"});
//   Section sync = settings.section("sync");
//   SyncOptions options{.name = sync.text("name", "none", {.choices = {"none", "ddp", "zero1"}}),
//                       .bucket_bytes = sync.integer("bucket_bytes", 4 << 20, {.min = 1})};
//   settings.require_all_used();      // an unknown key is an error with line, column and nearest
//   spelling
//
// Every getter notes its key, its value and where that came from; resolved() prints them all as a
// recipe that reproduces the run. Errors are ConfigErrors that begin with the value's origin
// ("recipes/my.toml:14:1" or
// "--sync.name" or "the default"). Not thread safe.

namespace outstep::io {

struct IntegerBounds {
  int64_t min = std::numeric_limits<int64_t>::min();
  int64_t max = std::numeric_limits<int64_t>::max();
};
struct NumberBounds {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool excludes_min = false;
};
struct TextBounds {
  std::vector<std::string> choices = {};  // empty: any text
};

class Settings;

// One table of a recipe. Borrowed from its Settings.
class Section {
 public:
  const std::string& name() const { return name_; }
  // Whether the recipe or an override says anything for the key.
  bool has(const std::string& key) const;

  bool flag(const std::string& key, bool otherwise);
  int64_t integer(const std::string& key, int64_t otherwise, IntegerBounds bounds = {});
  double number(const std::string& key, double otherwise, NumberBounds bounds = {});
  std::string text(const std::string& key, const std::string& otherwise, TextBounds bounds = {});
  std::vector<int64_t> integers(const std::string& key, const std::vector<int64_t>& otherwise,
                                IntegerBounds bounds = {});
  std::vector<double> numbers(const std::string& key, const std::vector<double>& otherwise,
                              NumberBounds bounds = {});
  std::vector<std::string> texts(const std::string& key, const std::vector<std::string>& otherwise);

  // Whether the recipe gives the key a text, where it may also be something else.
  bool is_text(const std::string& key) const;
  // From here on the key's value is this one, as if a recipe had said so: what the run has found
  // out. origin tells how ("measured").
  void settle(const std::string& key, const std::vector<int64_t>& value, const std::string& origin);

  // "recipes/my.toml:14:1", "--sync.bucket_bytes" or "default": begins an error about the key's
  // value.
  std::string origin(const std::string& key) const;

 private:
  friend class Settings;
  Section(Settings* settings, std::string name) : settings_(settings), name_(std::move(name)) {}
  Settings* settings_;
  std::string name_;
};

class Settings {
 public:
  // Overrides are "section.key=value" with a TOML value; a bare word is taken as text. They win
  // over the file. Throws ConfigError: unreadable or ill-formed file (line, column), a base that is
  // missing or loops, a bad override.
  static Settings from_file(const std::filesystem::path& path,
                            const std::vector<std::string>& overrides = {});
  static Settings from_text(std::string_view toml, const std::string& origin = "text",
                            const std::vector<std::string>& overrides = {});
  ~Settings();
  Settings(Settings&&) noexcept;
  Settings& operator=(Settings&&) noexcept;

  Section section(const std::string& name);
  // Throws ConfigError for the first key, in file order, that no getter has asked for. Where the
  // command line or a recipe names another choice than its base ("sync.name=ddp"), keys that the
  // base has for its own choice are left out.
  void require_all_used() const;
  // The same for overrides alone: for what reads only a part of a recipe.
  void require_overrides_used() const;
  // All values asked for, section by section, each with a comment telling its origin. Reading it
  // gives the same values.
  std::string resolved() const;

 private:
  friend class Section;
  struct Data;
  explicit Settings(std::unique_ptr<Data> data);
  std::unique_ptr<Data> data_;
};

}  // namespace outstep::io
