#pragma once

#include <string>

#include "outstep/train/trainer.h"

// Progress as text: a bar that is redrawn on a terminal, a plain line elsewhere. Pure functions.

namespace outstep::apps {

// " 42%|████████▍           | 336/800 [01:04<01:29, 5.2 step/s, loss 1.94, 21.4k tok/s, overlap
// 98%]", cut to `columns` characters.
std::string progress_bar(const train::Progress& progress, double elapsed_seconds, int columns);

// "step 336/800  loss 1.9412  lr 9.2e-04  grad 0.53  5.2 step/s  21.4k tok/s  overlap 98%"
std::string progress_text(const train::Progress& progress);

// 987, 21.4k, 1.31M
std::string compact_number(double number);
// 01:04, 1:02:03, ??:?? for what is not finite
std::string clock_time(double seconds);
// "tok/s", "img/s", "samples/s"
std::string rate_unit(const std::string& unit);
// Of UTF-8 text: as many code points as fit in `columns`.
std::string cut_to_columns(const std::string& text, int columns);

}  // namespace outstep::apps
