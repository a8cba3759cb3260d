// The detector's filters: sums over all planes of features, each filtered along its rows and then along its columns.

#pragma once

#include <algorithm>
#include <vector>

#include <dlib/geometry.h>
#include <dlib/image_transforms/assign_image.h>
#include <dlib/matrix.h>

#include "common.hpp"

namespace hog {

// Taps of every filter of the detector along each side.
constexpr long TAPS = 10;

__attribute__((always_inline)) inline float in_order(const float* p, long step, const float* taps) {
    float sum = p[0] * taps[0] + p[step] * taps[1];
    sum = (sum + p[2 * step] * taps[2]) + p[3 * step] * taps[3];
    sum = (sum + p[4 * step] * taps[4]) + p[5 * step] * taps[5];
    sum = (sum + p[6 * step] * taps[6]) + p[7 * step] * taps[7];
    return (sum + p[8 * step] * taps[8]) + p[9 * step] * taps[9];
}

// `rows` rows of weighted sums of TAPS values that lie `step` from each other, onto `out` or instead of it. Columns
// that are no whole group are summed up in order.
template <bool ADD>
__attribute__((always_inline)) inline void sum_rows(const float* __restrict in, long in_row, long step,
                                                    const float* __restrict taps, float* __restrict out, long out_row,
                                                    long rows, long width) {
    const long whole = width / GROUP * GROUP;
    for (long r = 0; r < rows; r++, in += in_row, out += out_row) {
        for (long c = 0; c < whole; c++) {
            const float* p = in + c;
            const float a = ((p[0] * taps[0] + p[3 * step] * taps[3]) + p[6 * step] * taps[6]) + p[9 * step] * taps[9];
            const float b = (p[step] * taps[1] + p[4 * step] * taps[4]) + p[7 * step] * taps[7];
            const float d = (p[2 * step] * taps[2] + p[5 * step] * taps[5]) + p[8 * step] * taps[8];
            out[c] = ADD ? (a + (b + d)) + out[c] : a + (b + d);
        }
        if (whole == width) continue;
        // A whole group that ends where the row does, of which the last columns count.
        const long first = std::max(width - GROUP, 0L);
        const long count = width - first;
        float sums[GROUP];
        if (count == GROUP) {
            for (long c = 0; c < GROUP; c++) sums[c] = in_order(in + first + c, step, taps);
        } else {
            for (long c = 0; c < count; c++) sums[c] = in_order(in + first + c, step, taps);
        }
        for (long c = whole; c < width; c++) out[c] = ADD ? out[c] + sums[c - first] : sums[c - first];
    }
}

FW_CLONES void filter_across(const float* in, long in_row, const float* taps, float* out, long out_row, long rows,
                             long width) {
    sum_rows<false>(in, in_row, 1, taps, out, out_row, rows, width);
}

FW_CLONES void filter_down(const float* in, long in_row, const float* taps, float* out, long out_row, long rows,
                           long width) {
    sum_rows<true>(in, in_row, in_row, taps, out, out_row, rows, width);
}

inline bool is_fast(const std::vector<dlib::matrix<float, 0, 1>>& filters) {
    return std::all_of(filters.begin(), filters.end(), [](const auto& filter) { return filter.size() == TAPS; });
}

// dlib::impl::apply_filters_to_fhog for separable filters of TAPS: sums over all planes, in the area that is returned.
template <typename filterbank>
dlib::rectangle apply(const filterbank& bank, const planes& feats, dlib::array2d<float>& sums) {
    const long nr = feats[0].nr(), nc = feats[0].nc(), first = TAPS / 2;
    const long last_row = nr - (TAPS - 1) / 2, last_column = nc - (TAPS - 1) / 2;
    sums.set_size(nr, nc);
    dlib::assign_all_pixels(sums, 0);
    const dlib::rectangle area(first, first, last_column - 1, last_row - 1);
    const long width = last_column - first;
    if (area.is_empty()) return area;
    std::vector<float> rows(nr * width);
    for (unsigned long i = 0; i < bank.row_filters.size(); i++) {
        for (unsigned long j = 0; j < bank.row_filters[i].size(); j++) {
            filter_across(&feats[i][0][0], nc, &bank.row_filters[i][j](0), rows.data(), width, nr, width);
            filter_down(rows.data(), width, &bank.col_filters[i][j](0), &sums[first][first], nc, last_row - first,
                        width);
        }
    }
    return area;
}

}  // namespace hog
