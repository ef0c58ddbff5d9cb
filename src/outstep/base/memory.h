#pragma once

#include <cstdint>

// Exact live and peak bytes of CPU tensors, by an allocator of our own that also keeps freed blocks
// for reuse.
//
//   memory::install();                  // once, before the first tensor
//   memory::reset_peak();
//   … work …
//   int64_t peak = memory::peak_bytes();
//
// Blocks of 64 KiB and more count as the bytes asked for, smaller ones as the bytes malloc made of
// them.
//
// glibc gives large blocks back to the system and pages them in again; keeping them makes training
// faster. What is kept is not live and not counted, and costs no memory at the peak: live and kept
// bytes together never grow beyond peak_bytes() (give or take the rounding of block sizes, an
// eighth). Scratch of oneDNN, MKL and Gloo is not seen: report rss_bytes() beside it. Thread safe.

namespace outstep::memory {

// Makes every later CPU tensor of the process counted. Calling it again does nothing.
void install();

int64_t live_bytes();
int64_t peak_bytes();  // highest live_bytes() since the start or reset_peak()
void reset_peak();

int64_t kept_bytes();  // in freed blocks kept for reuse, by what was last asked for in them

// Resident memory of the process, now and at its highest, as the kernel counts it. 0 where /proc is
// not there.
int64_t rss_bytes();
int64_t peak_rss_bytes();

}  // namespace outstep::memory
