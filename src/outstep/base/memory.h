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
// faster. What is kept but not live is not counted, and never grows beyond peak_bytes(). Scratch of
// oneDNN, MKL and Gloo is not seen: report rss_bytes() beside it. Thread safe.

namespace outstep::memory {

// Makes every later CPU tensor of the process counted. Calling it again does nothing.
void install();
bool is_installed();

int64_t live_bytes();
int64_t peak_bytes();  // highest live_bytes() since the start or reset_peak()
void reset_peak();

// Gives the blocks kept for reuse back to the system; returns how many bytes these were.
int64_t release_kept();

// Resident memory of the process, now and at its highest, as the kernel counts it. 0 where /proc is
// not there.
int64_t rss_bytes();
int64_t peak_rss_bytes();

}  // namespace outstep::memory
