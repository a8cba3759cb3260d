// Pictures of another size: dlib's bilinear interpolation of packed RGB.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include <dlib/geometry.h>
#include <dlib/pixel.h>

#include "common.hpp"

namespace hog {

// One row between two others: `tl` and `tr` are the values of the upper row left and right of each place, `bl` and `br`
// those of the lower one.
FW_CLONES void blend(const uint8_t* __restrict tl, const uint8_t* __restrict tr, const uint8_t* __restrict bl,
                     const uint8_t* __restrict br, const float* __restrict right, const float* __restrict left,
                     float lower, float upper, uint8_t* __restrict out, long count) {
    for (long i = 0; i < count; i++) {
        const float a = (upper * left[i]) * static_cast<float>(tl[i]);
        const float b = (upper * right[i]) * static_cast<float>(tr[i]);
        const float c = (lower * left[i]) * static_cast<float>(bl[i]);
        const float d = (lower * right[i]) * static_cast<float>(br[i]);
        out[i] = static_cast<uint8_t>(static_cast<int>(((a + b) + c) + d));
    }
}

// Where the columns of a scaled picture lie in the original one.
struct columns {
    std::vector<long> from;
    // Of each byte: how far it is from its left and its right column.
    std::vector<float> right, left;
};

inline columns place_columns(long from_nc, double scale) {
    columns places;
    const float step = static_cast<float>(4 * scale);
    float x[4];
    for (int i = 0; i < 4; i++) x[i] = static_cast<float>(-4 * scale + i * scale);
    for (;;) {
        for (float& place : x) place += step;
        if (static_cast<int>(x[3]) + 1 >= from_nc) return places;
        for (const float place : x) {
            const int column = static_cast<int>(place);
            const float fraction = place - static_cast<float>(column);
            places.from.push_back(column);
            places.right.insert(places.right.end(), CHANNELS, fraction);
            places.left.insert(places.left.end(), CHANNELS, 1 - fraction);
        }
    }
}

// A row of the original picture at all places: the pixels left and right of each.
struct gathered {
    long row = -1;
    std::vector<uint8_t> left, right;

    void take(long wanted, const uint8_t* pixels, const columns& places) {
        if (row == wanted) return;
        row = wanted;
        const size_t bytes = CHANNELS * places.from.size();
        left.resize(bytes);
        right.resize(bytes);
        for (size_t c = 0; c < places.from.size(); c++) {
            const uint8_t* from = pixels + CHANNELS * places.from[c];
            std::memcpy(&left[CHANNELS * c], from, CHANNELS);
            std::memcpy(&right[CHANNELS * c], from + CHANNELS, CHANNELS);
        }
    }
};

// The columns at the right edge, which dlib computes one by one in doubles.
inline void blend_edge(const uint8_t* top, const uint8_t* bottom, double tb, double x, double scale, long from_nc,
                       uint8_t* out, long count) {
    for (long i = 0; i < count; i++) {
        x += scale;
        const long left = static_cast<long>(std::floor(x));
        const long right = std::min(left + 1, from_nc - 1);
        const double lr = x - static_cast<double>(left);
        for (int k = 0; k < CHANNELS; k++) {
            const double upper = (1 - lr) * top[CHANNELS * left + k] + lr * top[CHANNELS * right + k];
            const double lower = (1 - lr) * bottom[CHANNELS * left + k] + lr * bottom[CHANNELS * right + k];
            *out++ = static_cast<uint8_t>((1 - tb) * upper + tb * lower);
        }
    }
}

// dlib::resize_image for packed RGB of `from_nr` rows and `from_nc` columns: `out` has its size already.
inline void resize(const uint8_t* pixels, long from_nr, long from_nc, dlib::array2d<dlib::rgb_pixel>& out) {
    const long nr = out.nr(), nc = out.nc();
    if (from_nr * from_nc == 0 || nr * nc == 0) return;
    const auto row = [&](long r) { return pixels + r * from_nc * CHANNELS; };
    const double x_scale = static_cast<double>(from_nc - 1) / static_cast<double>(std::max(nc - 1, 1L));
    const double y_scale = static_cast<double>(from_nr - 1) / static_cast<double>(std::max(nr - 1, 1L));
    const columns places = place_columns(from_nc, x_scale);
    const long done = static_cast<long>(places.from.size());
    gathered upper, lower;
    double y = -y_scale;
    for (long r = 0; r < nr; r++) {
        y += y_scale;
        const long top = static_cast<long>(std::floor(y)), bottom = std::min(top + 1, from_nr - 1);
        const double tb = y - static_cast<double>(top);
        if (lower.row == top) std::swap(upper, lower);
        upper.take(top, row(top), places);
        lower.take(bottom, row(bottom), places);
        uint8_t* to = reinterpret_cast<uint8_t*>(&out[r][0]);
        blend(upper.left.data(), upper.right.data(), lower.left.data(), lower.right.data(), places.right.data(),
              places.left.data(), static_cast<float>(tb), static_cast<float>(1 - tb), to, CHANNELS * done);
        const double x = -x_scale + static_cast<double>(done) * x_scale;
        blend_edge(row(top), row(bottom), tb, x, x_scale, from_nc, to + CHANNELS * done, nc - done);
    }
}

// dlib::pyramid_up.
template <typename pyramid_type>
void enlarge(const uint8_t* pixels, long nr, long nc, dlib::array2d<dlib::rgb_pixel>& out,
             const pyramid_type& pyramid) {
    if (nr * nc == 0) return;
    const dlib::rectangle size = pyramid.rect_up(dlib::rectangle(nc, nr));
    if (size.is_empty()) return;
    out.set_size(size.bottom() + 1, size.right() + 1);
    resize(pixels, nr, nc, out);
}

}  // namespace hog
