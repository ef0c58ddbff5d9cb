#pragma once

// LibTorch exports c10d::ProcessGroupGloo but ships none of the Gloo headers that its header
// includes. The files of this folder stand in for them: declarations alone, just enough to compile
// it, with nothing defined and nothing emitted. comm/gloo_group.cc is the only file that may see
// them.
