// dlib's frontal face detector with its three costly parts written anew: scaling, features and filters. Arithmetic
// and order are dlib's (as it is compiled for x86-64), value by value, so boxes and scores are the same to the bit;
// only more values are computed at once, with the vector instructions that the processor has. Compile with
// -ffp-contract=off: a fused multiplication and addition rounds otherwise.

#pragma once

#include <algorithm>
#include <cstdint>

#include <dlib/image_processing/frontal_face_detector.h>

#include "hog/features.hpp"
#include "hog/filters.hpp"
#include "hog/scale.hpp"

namespace hog {

// What dlib's templates are given in place of their own.

class pyramid : public dlib::pyramid_down<6> {
   public:
    void operator()(const dlib::array2d<dlib::rgb_pixel>& finer, dlib::array2d<dlib::rgb_pixel>& coarser) const {
        coarser.set_size(static_cast<long>(5 * finer.nr() / 6 + 0.5), static_cast<long>(5 * finer.nc() / 6 + 0.5));
        resize(static_cast<const uint8_t*>(dlib::image_data(finer)), finer.nr(), finer.nc(), coarser);
    }
};

class features : public dlib::default_fhog_feature_extractor {
   public:
    void operator()(const dlib::array2d<dlib::rgb_pixel>& image, planes& hog, int cell_size, int filter_rows,
                    int filter_columns) const {
        if (cell_size == CELL_PX) {
            describe(image, hog, filter_rows, filter_columns);
        } else {
            dlib::default_fhog_feature_extractor::operator()(image, hog, cell_size, filter_rows, filter_columns);
        }
    }
};

using scanner = dlib::scan_fhog_pyramid<pyramid, features>;
using detector = dlib::object_detector<scanner>;

}  // namespace hog

namespace dlib {

// Found before dlib's own, which is a template.
inline rectangle apply_filters_to_fhog(const hog::scanner::fhog_filterbank& bank, const array<array2d<float>>& feats,
                                       array2d<float>& sums) {
    const auto fast = [](const auto& filters) { return std::all_of(filters.begin(), filters.end(), hog::is_fast); };
    // dlib's own condition for separable filters.
    const long side = std::min(bank.filters[0].nr(), bank.filters[0].nc());
    const bool separable = bank.num_separable_filters() <= bank.filters.size() * side / 3.0;
    if (separable && bank.num_separable_filters() > 0 && feats[0].size() > 0 && fast(bank.row_filters) &&
        fast(bank.col_filters)) {
        return hog::apply(bank, feats, sums);
    }
    return impl::apply_filters_to_fhog<hog::scanner::fhog_filterbank>(bank, feats, sums);
}

}  // namespace dlib
