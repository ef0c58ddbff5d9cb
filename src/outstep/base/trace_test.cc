#include "outstep/base/trace.h"

#include <gtest/gtest.h>

namespace outstep::trace {
namespace {

TEST(Tracer, KeepsSpansUpToItsLimit) {
  Tracer tracer(2);
  for (int i = 0; i < 3; ++i)
    Span span(&tracer, Track::communication, "all_reduce", {.step = i, .bytes = 8});
  const auto events = tracer.events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(tracer.num_dropped(), 1);
  EXPECT_STREQ(events[1].name, "all_reduce");
  EXPECT_EQ(events[1].args.step, 1);
  EXPECT_EQ(events[1].args.bytes, 8);
  EXPECT_GE(events[1].begin_seconds, 0);
  EXPECT_GE(events[1].end_seconds, events[1].begin_seconds);
}

TEST(Tracer, ASpanWithoutATracerDoesNothing) { Span span(nullptr, Track::compute, "forward"); }

}  // namespace
}  // namespace outstep::trace
