// Histograms of oriented gradients: dlib's features of 8 x 8 pixels, after dlib/image_transforms/fhog.h (Boost Software
// License 1.0), which follows features.cc of voc-release by Felzenszwalb, Ramanan and Girshick (MIT licence; the notice
// is in dlib's file).

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <dlib/image_transforms/fhog.h>
#include <dlib/pixel.h>

#include "common.hpp"

namespace hog {

constexpr int CELL_PX = 8;
constexpr int ORIENTATIONS = 18;
// Rows of pixels that a gradient needs.
constexpr int WINDOW = 3;

// Nine directions of half a circle; the other nine are their opposites.
constexpr float DIRECTIONS[9][2] = {{1.0000f, 0.0000f},  {0.9397f, 0.3420f},  {0.7660f, 0.6428f},
                                    {0.500f, 0.8660f},   {0.1736f, 0.9848f},  {-0.1736f, 0.9848f},
                                    {-0.5000f, 0.8660f}, {-0.7660f, 0.6428f}, {-0.9397f, 0.3420f}};

// A row of pixels as three rows of numbers.
FW_CLONES void separate(const uint8_t* __restrict pixels, float* __restrict red, float* __restrict green,
                        float* __restrict blue, long count) {
    for (long i = 0; i < count; i++) {
        red[i] = pixels[CHANNELS * i];
        green[i] = pixels[CHANNELS * i + 1];
        blue[i] = pixels[CHANNELS * i + 2];
    }
}

// What each pixel of a row adds to its four cells, and in which orientation.
struct votes {
    std::vector<int32_t> orientation;
    std::vector<float> v11, v01, v10, v00;

    explicit votes(size_t count) : orientation(count), v11(count), v01(count), v10(count), v00(count) {}
};

// The strongest gradient of the three channels of each pixel.
FW_CLONES void gradients(const float* const* above, const float* const* row, const float* const* below,
                         float* __restrict gx, float* __restrict gy, float* __restrict length, long count) {
    const float *ra = above[0], *r = row[0], *rb = below[0], *ga = above[1], *g = row[1], *gb = below[1],
                *ba = above[2], *b = row[2], *bb = below[2];
    for (long i = 0; i < count; i++) {
        const float rx = r[i + 1] - r[i - 1], ry = rb[i] - ra[i], r2 = rx * rx + ry * ry;
        const float greenx = g[i + 1] - g[i - 1], greeny = gb[i] - ga[i], g2 = greenx * greenx + greeny * greeny;
        const float bx = b[i + 1] - b[i - 1], by = bb[i] - ba[i], b2 = bx * bx + by * by;
        const float x = r2 > g2 ? rx : greenx, y = r2 > g2 ? ry : greeny, l2 = r2 > g2 ? r2 : g2;
        gx[i] = l2 > b2 ? x : bx;
        gy[i] = l2 > b2 ? y : by;
        length[i] = l2 > b2 ? l2 : b2;
    }
}

FW_CLONES void vote(const float* __restrict gx, const float* __restrict gy, const float* __restrict length,
                    const float* __restrict vx0, float vy0, float vy1, int32_t* __restrict orientation,
                    float* __restrict v11, float* __restrict v01, float* __restrict v10, float* __restrict v00,
                    long count) {
    for (long i = 0; i < count; i++) {
        const float x = gx[i], y = gy[i];
        float best = 0;
        int32_t best_o = 0;
#pragma GCC unroll 9
        for (int o = 0; o < 9; o++) {
            const float dot = x * DIRECTIONS[o][0] + y * DIRECTIONS[o][1];
            best_o = dot > best ? o : best_o;
            best = dot > best ? dot : best;
            best_o = -dot > best ? o + 9 : best_o;
            best = -dot > best ? -dot : best;
        }
        orientation[i] = best_o;
        const float v = std::sqrt(length[i]);
        const float right = vx0[i] * v, left = (1.0f - vx0[i]) * v;
        v11[i] = vy1 * left;
        v01[i] = vy0 * left;
        v10[i] = vy1 * right;
        v00[i] = vy0 * right;
    }
}

// Histograms of orientations of all cells, with one cell around them that is not used.
struct histograms {
    long rows, columns;
    std::vector<float> values;

    histograms(long cell_rows, long cell_columns)
        : rows(cell_rows), columns(cell_columns), values((rows + 2) * (columns + 2) * ORIENTATIONS) {}
    float* at(long row, long column) { return &values[(row * (columns + 2) + column) * ORIENTATIONS]; }
    const float* at(long row, long column) const { return &values[(row * (columns + 2) + column) * ORIENTATIONS]; }
};

// Pixels at the right edge, which dlib takes one by one: of two equal gradients it keeps the first channel's here,
// and it multiplies in another order.
inline void vote_edge(const float* const* above, const float* const* row, const float* const* below, long x, float vy0,
                      float vy1, float* upper, float* lower) {
    float gx = 0, gy = 0, length = -1;
    for (int k = 0; k < CHANNELS; k++) {
        const float kx = row[k][x + 1] - row[k][x - 1], ky = below[k][x] - above[k][x], l2 = kx * kx + ky * ky;
        if (l2 > length) {
            gx = kx;
            gy = ky;
            length = l2;
        }
    }
    float best = 0;
    int best_o = 0;
    for (int o = 0; o < 9; o++) {
        const float dot = DIRECTIONS[o][0] * gx + DIRECTIONS[o][1] * gy;
        if (dot > best) {
            best = dot;
            best_o = o;
        } else if (-dot > best) {
            best = -dot;
            best_o = o + 9;
        }
    }
    const float v = std::sqrt(length);
    const float xp = static_cast<float>((static_cast<double>(x) + 0.5) / static_cast<double>(CELL_PX) - 0.5);
    const int ixp = static_cast<int>(std::floor(xp));
    const float vx0 = xp - static_cast<float>(ixp), vx1 = static_cast<float>(1.0 - vx0);
    const long cell = (ixp + 1) * ORIENTATIONS + best_o;
    upper[cell] += vy1 * vx1 * v;
    lower[cell] += vy0 * vx1 * v;
    upper[cell + ORIENTATIONS] += vy1 * vx0 * v;
    lower[cell + ORIENTATIONS] += vy0 * vx0 * v;
}

// Every pixel votes for the four cells around it.
inline void fill(const dlib::array2d<dlib::rgb_pixel>& image, histograms& cells) {
    const long nc = image.nc();
    const long visible_nr = std::min(cells.rows * CELL_PX, image.nr()) - 1;
    const long visible_nc = std::min(cells.columns * CELL_PX, nc) - 1;
    // From the second pixel on, in groups.
    const long count = visible_nc > GROUP ? (visible_nc - 1) / GROUP * GROUP : 0;
    std::vector<float> vx0(count), gx(count), gy(count), length(count), planes(WINDOW * CHANNELS * nc);
    std::vector<int32_t> cell(count);
    votes row_votes(count);
    for (long i = 0; i < count; i++) {
        const float xp = (static_cast<float>(i + 1) + 0.5f) / static_cast<float>(CELL_PX) + 0.5f;
        cell[i] = static_cast<int>(xp);
        vx0[i] = xp - static_cast<float>(cell[i]);
        cell[i] *= ORIENTATIONS;
    }
    const auto plane = [&](long y, int k) { return &planes[(y % WINDOW * CHANNELS + k) * nc]; };
    const auto load = [&](long y) {
        separate(reinterpret_cast<const uint8_t*>(&image[y][0]), plane(y, 0), plane(y, 1), plane(y, 2), nc);
    };
    for (long y = 0; y < 2 && y < image.nr(); y++) load(y);
    for (long y = 1; y < visible_nr; y++) {
        load(y + 1);
        const float yp = static_cast<float>((static_cast<float>(y) + 0.5) / static_cast<float>(CELL_PX) - 0.5);
        const int iyp = static_cast<int>(std::floor(yp));
        const float vy0 = yp - static_cast<float>(iyp), vy1 = static_cast<float>(1.0 - vy0);
        float *upper = cells.at(iyp + 1, 0), *lower = cells.at(iyp + 2, 0);
        const float* rows[WINDOW][CHANNELS];
        for (int w = 0; w < WINDOW; w++) {
            for (int k = 0; k < CHANNELS; k++) rows[w][k] = plane(y - 1 + w, k) + 1;
        }
        gradients(rows[0], rows[1], rows[2], gx.data(), gy.data(), length.data(), count);
        vote(gx.data(), gy.data(), length.data(), vx0.data(), vy0, vy1, row_votes.orientation.data(),
             row_votes.v11.data(), row_votes.v01.data(), row_votes.v10.data(), row_votes.v00.data(), count);
        for (long i = 0; i < count; i++) {
            const long at = cell[i] + row_votes.orientation[i];
            upper[at] += row_votes.v11[i];
            lower[at] += row_votes.v01[i];
            upper[at + ORIENTATIONS] += row_votes.v10[i];
            lower[at + ORIENTATIONS] += row_votes.v00[i];
        }
        for (long x = count + 1; x < visible_nc; x++) {
            const float* edge[WINDOW][CHANNELS];
            for (int w = 0; w < WINDOW; w++) {
                for (int k = 0; k < CHANNELS; k++) edge[w][k] = plane(y - 1 + w, k);
            }
            vote_edge(edge[0], edge[1], edge[2], x, vy0, vy1, upper, lower);
        }
    }
}

// Energies of all cells, by row.
inline std::vector<float> energies(const histograms& cells) {
    std::vector<float> all(cells.rows * cells.columns);
    for (long r = 0; r < cells.rows; r++) {
        for (long c = 0; c < cells.columns; c++) {
            const float* h = cells.at(r + 1, c + 1);
            float energy = 0;
            for (int o = 0; o < 9; o++) energy += (h[o] + h[o + 9]) * (h[o] + h[o + 9]);
            all[r * cells.columns + c] = energy;
        }
    }
    return all;
}

// The bounds and factors of the four blocks that a cell belongs to; `upper` to `lower` are three rows of energies.
FW_CLONES void normalise(const float* __restrict upper, const float* __restrict middle, const float* __restrict lower,
                         float* __restrict bounds, float* __restrict factors, long count) {
    const float eps = 0.0001f, fifth = static_cast<float>(0.2), tenth = static_cast<float>(0.1);
    for (long x = 0; x < count; x++) {
        const float sums[4] = {middle[x + 1] + middle[x + 2] + lower[x + 1] + lower[x + 2] + eps,
                               upper[x + 1] + upper[x + 2] + middle[x + 1] + middle[x + 2] + eps,
                               middle[x] + middle[x + 1] + lower[x] + lower[x + 1] + eps,
                               upper[x] + upper[x + 1] + middle[x] + middle[x + 1] + eps};
        for (int k = 0; k < 4; k++) {
            bounds[k * count + x] = fifth * std::sqrt(sums[k]);
            factors[k * count + x] = tenth / bounds[k * count + x];
        }
    }
}

// One plane of features for a row of cells; `parts` gets what each block contributes.
FW_CLONES void feature(const float* __restrict energy, const float* __restrict bounds, const float* __restrict factors,
                       float* __restrict parts, float* __restrict out, long count) {
    for (long x = 0; x < count; x++) {
        float part[4];
        for (int k = 0; k < 4; k++) {
            const float bound = bounds[k * count + x];
            part[k] = (energy[x] < bound ? energy[x] : bound) * factors[k * count + x];
            parts[k * count + x] = part[k];
        }
        out[x] = (part[0] + part[2]) + (part[1] + part[3]);
    }
}

// ((a + b) + c) onto a total.
FW_CLONES void add_three(const float* __restrict a, const float* __restrict b, const float* __restrict c,
                         float* __restrict total, long count) {
    for (long i = 0; i < count; i++) total[i] += (a[i] + b[i]) + c[i];
}

FW_CLONES void times(const float* __restrict values, float factor, float* __restrict out, long count) {
    for (long i = 0; i < count; i++) out[i] = values[i] * factor;
}

FW_CLONES void plus(const float* __restrict a, const float* __restrict b, float* __restrict out, long count) {
    for (long i = 0; i < count; i++) out[i] = a[i] + b[i];
}

// 18 features with direction, 9 without, and 4 of texture for each cell of a row but the first and the last.
inline void describe_row(const histograms& cells, const std::vector<float>& energy, long y, planes& hog, long to_row,
                         long to_column) {
    const long count = cells.columns - 2;
    std::vector<float> turned(ORIENTATIONS * count), both(count), bounds(4 * count), factors(4 * count),
        total(4 * count), parts(3 * 4 * count);
    for (long x = 0; x < count; x++) {
        const float* cell = cells.at(y + 2, x + 2);
        for (int o = 0; o < ORIENTATIONS; o++) turned[o * count + x] = cell[o];
    }
    const float* upper = &energy[y * cells.columns];
    normalise(upper, upper + cells.columns, upper + 2 * cells.columns, bounds.data(), factors.data(), count);
    const auto plane = [&](int number) { return &hog[number][to_row][to_column]; };
    const auto part = [&](int number) { return &parts[(number % 3) * 4 * count]; };
    for (int o = 0; o < ORIENTATIONS; o++) {
        feature(&turned[o * count], bounds.data(), factors.data(), part(o), plane(o), count);
        if (o % 3 == 2) add_three(part(0), part(1), part(2), total.data(), 4 * count);
    }
    for (int o = 0; o < ORIENTATIONS / 2; o++) {
        plus(&turned[o * count], &turned[(o + 9) * count], both.data(), count);
        feature(both.data(), bounds.data(), factors.data(), part(0), plane(ORIENTATIONS + o), count);
    }
    for (int k = 0; k < 4; k++) times(&total[k * count], static_cast<float>(2 * 0.2357), plane(27 + k), count);
}

// dlib::extract_fhog_features for cells of CELL_PX.
inline void describe(const dlib::array2d<dlib::rgb_pixel>& image, planes& hog, int filter_rows, int filter_columns) {
    const int rows = static_cast<int>(static_cast<float>(image.nr()) / static_cast<float>(CELL_PX) + 0.5);
    const int columns = static_cast<int>(static_cast<float>(image.nc()) / static_cast<float>(CELL_PX) + 0.5);
    if (rows <= 2 || columns <= 2) {
        hog.clear();
        hog.resize(31);
        return;
    }
    histograms cells(rows, columns);
    fill(image, cells);
    const std::vector<float> energy = energies(cells);
    dlib::impl_fhog::init_hog(hog, rows - 2, columns - 2, filter_rows, filter_columns);
    for (long y = 0; y < rows - 2; y++) {
        describe_row(cells, energy, y, hog, y + (filter_rows - 1) / 2, (filter_columns - 1) / 2);
    }
}

}  // namespace hog
