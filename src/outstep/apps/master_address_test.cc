#include "outstep/apps/master_address.h"

#include <gtest/gtest.h>

#include "outstep/base/errors.h"

namespace outstep::apps {
namespace {

TEST(MasterAddress, HostAndPort) {
  EXPECT_EQ(parse_master_address("10.0.0.1:29500").host, "10.0.0.1");
  EXPECT_EQ(parse_master_address("10.0.0.1:29500").port, 29500);
  EXPECT_EQ(parse_master_address("[fe80::1]:80").host, "fe80::1");
}

TEST(MasterAddress, RefusesAllElse) {
  for (const char* text : {"", "host", "host:", ":80", "host:0", "host:65536", "host:8o"}) {
    EXPECT_THROW(parse_master_address(text), ConfigError) << text;
  }
}

}  // namespace
}  // namespace outstep::apps
