// What the three parts share.

#pragma once

#include <dlib/array.h>
#include <dlib/array2d.h>

// Compiled for each set of vector instructions; the fastest that the processor has is taken.
#if defined(__x86_64__) && defined(__GNUC__)
#define FW_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FW_CLONES
#endif

namespace hog {

// dlib computes so many columns at once, and what is left over in another order.
constexpr long GROUP = 8;
// Of a pixel: packed RGB.
constexpr int CHANNELS = 3;

using planes = dlib::array<dlib::array2d<float>>;

}  // namespace hog
