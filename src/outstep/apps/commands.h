#pragma once

#include "outstep/apps/invocation.h"

// The subcommands, one file each. Every function describes its flags to the invocation and hands
// over what to run.

namespace outstep::apps {

void add_train(Invocation& invocation);
void add_resume(Invocation& invocation);
void add_eval(Invocation& invocation);
void add_soup(Invocation& invocation);
void add_sample(Invocation& invocation);
void add_export(Invocation& invocation);
void add_plan(Invocation& invocation);
void add_launch(Invocation& invocation);
void add_data(Invocation& invocation);
void add_inspect(Invocation& invocation);
void add_bench(Invocation& invocation);

}  // namespace outstep::apps
