#include "outstep/apps/generate.h"

#include <algorithm>
#include <vector>

#include "outstep/apps/printable.h"
#include "outstep/base/clock.h"

namespace outstep::apps {
namespace {

struct EnoughText {};  // thrown through nn::sample, which knows no end but its number of tokens

std::vector<int64_t> encode_prompt(const data::Tokenizer& tokenizer, const std::string& prompt) {
  const std::vector<int32_t> ids = tokenizer.encode(prompt);
  if (ids.empty()) return {tokenizer.end_of_text().value_or('\n')};
  return {ids.begin(), ids.end()};
}

}  // namespace

std::string generate(const nn::Model& model, const data::Tokenizer& tokenizer,
                     const GenerateOptions& options,
                     const std::function<void(const std::string&)>& on_text) {
  const auto begin = Clock::now();
  std::string text;
  size_t shown = 0;
  const auto show_up_to = [&](size_t end) {
    if (on_text && end > shown) on_text(text.substr(shown, end - shown));
    shown = std::max(shown, end);
  };
  const auto on_token = [&](int64_t token) {
    const auto id = static_cast<int32_t>(token);
    if (tokenizer.end_of_text() == id) throw EnoughText();
    text += tokenizer.decode({&id, 1});
    show_up_to(whole_characters(text));
    if (options.max_seconds > 0 && seconds_since(begin) > options.max_seconds) throw EnoughText();
  };
  try {
    nn::sample(model, encode_prompt(tokenizer, options.prompt), options.sample, on_token);
  } catch (const EnoughText&) {
  }
  show_up_to(text.size());
  return text;
}

}  // namespace outstep::apps
