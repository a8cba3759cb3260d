// What the dlib crate lacks: the HOG detector's scores, and aligned chips. Nothing here throws across the boundary:
// every function returns 0, or -1 after writing a message into `error` (a buffer of ERROR_BYTES, always terminated).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <dlib/image_processing/frontal_face_detector.h>
#include <dlib/image_processing.h>
#include <dlib/image_transforms.h>
#include <dlib/revision.h>

#include "hog.hpp"

extern "C" char* openblas_get_corename(void);
extern "C" int openblas_get_num_threads(void);
extern "C" void dgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k, const double* alpha, const double* a,
                       const int* lda, const double* b, const int* ldb, const double* beta, double* c, const int* ldc);

namespace {

constexpr size_t ERROR_BYTES = 256;
constexpr unsigned long CHIP_SIDE_PX = 150;
constexpr double CHIP_PADDING = 0.25;
constexpr double VISIBLE_MARGIN_PX = 3;
// A second look shows the detector a face in so many sizes, evenly between two levels of its own pyramid, which are 5/6 of each other.
constexpr int LOOK_SIZES = 4;
// The smallest of them: a side of the detector's window, px.
constexpr double LOOK_SIDE_PX = 80;
// What is shown of its surroundings on each side, in sides of the face.
constexpr double LOOK_MARGIN = 0.3;
// What it finds is the face if its middle is at most so far away, in sides of it, and its side so many times as long.
constexpr double LOOK_OFF_MAX = 0.3, LOOK_SIDE_MIN = 0.7, LOOK_SIDE_MAX = 1.4;
// The score of what it does not find.
constexpr double LOOK_SCORE_MIN = -1;
// Layers of the detector's pyramid: dlib's own bound, more than any picture has.
constexpr uint32_t LAYERS_MAX = 1000;

struct detection {
    int32_t left, top, right, bottom;
    double score;
};

// One of two: both find the same faces with the same scores.
struct face_detector {
    std::unique_ptr<hog::detector> built_in;
    std::unique_ptr<dlib::frontal_face_detector> dlibs;

    void operator()(const dlib::array2d<dlib::rgb_pixel>& image, std::vector<dlib::rect_detection>& found,
                    double threshold, uint32_t layers_max = LAYERS_MAX) const {
        if (built_in) {
            search(*built_in, image, found, threshold, layers_max);
        } else {
            search(*dlibs, image, found, threshold, layers_max);
        }
    }

   private:
    template <typename detector>
    static void search(detector& any, const dlib::array2d<dlib::rgb_pixel>& image, std::vector<dlib::rect_detection>& found,
                       double threshold, uint32_t layers_max) {
        // dlib has no other way to its own scanner. The detector is ours and not const.
        using scanner = typename detector::image_scanner_type;
        const_cast<scanner&>(any.get_scanner()).set_max_pyramid_levels(layers_max);
        any(image, found, threshold);
    }
};

template <typename detector>
std::unique_ptr<detector> deserialized(const char* serialized, size_t bytes) {
    std::istringstream in(std::string(serialized, bytes));
    detector temporary;
    dlib::deserialize(temporary, in);
    return std::make_unique<detector>(temporary);
}

// A picture of packed RGB bytes that dlib reads in place, without a copy.
struct rgb_view {
    const dlib::rgb_pixel* data;
    long rows, columns;
};

int fail(char* error, const char* what) {
    std::snprintf(error, ERROR_BYTES, "%s", what);
    return -1;
}

template <typename work>
int guarded(char* error, work run) {
    try {
        return run();
    } catch (const std::bad_alloc&) {
        return fail(error, "out of memory: raise worker-memory-mb, or send smaller pictures");
    } catch (const std::exception& e) {
        return fail(error, e.what());
    } catch (...) {
        return fail(error, "a foreign exception");
    }
}

}  // namespace

namespace dlib {
template <> struct image_traits<rgb_view> { typedef rgb_pixel pixel_type; };
template <> struct image_traits<const rgb_view> { typedef rgb_pixel pixel_type; };
}  // namespace dlib

namespace {
inline long num_rows(const rgb_view& v) { return v.rows; }
inline long num_columns(const rgb_view& v) { return v.columns; }
inline const void* image_data(const rgb_view& v) { return v.data; }
inline long width_step(const rgb_view& v) { return v.columns * static_cast<long>(sizeof(dlib::rgb_pixel)); }
}  // namespace

extern "C" {

// Makes OpenBLAS take its buffer, more than 100 MB of addresses, which it keeps. Where it cannot have it, it asks again for ever: so this comes
// before memory is limited.
void fw_reserve_blas(void) {
    constexpr int SIDE = 64;
    static double a[SIDE * SIDE], product[SIDE * SIDE];
    const double one = 1, zero = 0;
    dgemm_("N", "N", &SIDE, &SIDE, &SIDE, &one, a, &SIDE, a, &SIDE, &zero, product, &SIDE);
}

// Builds dlib's frontal face detector from its own serialized form. dlib holds the same bytes as packed text, and
// takes a quarter of a second to unpack it.
int fw_detector_new(const char* serialized, size_t bytes, bool built_in, void** out, char* error) {
    return guarded(error, [&] {
        auto detector = std::make_unique<face_detector>();
        if (built_in) {
            detector->built_in = deserialized<hog::detector>(serialized, bytes);
        } else {
            detector->dlibs = deserialized<dlib::frontal_face_detector>(serialized, bytes);
        }
        *out = detector.release();
        return 0;
    });
}

void fw_detector_free(void* detector) { delete static_cast<face_detector*>(detector); }

// Searches a picture enlarged twice, as Python's face_recognition does by default, and writes at most `capacity`
// detections, surest first; `*found` is how many there were. Of the pyramid's layers only the `layers_max` finest are searched.
int fw_detect(void* detector, const uint8_t* rgb, int64_t width, int64_t height, uint32_t layers_max, double threshold,
              detection* out, size_t capacity, size_t* found, char* error) {
    return guarded(error, [&] {
        const rgb_view view{reinterpret_cast<const dlib::rgb_pixel*>(rgb), static_cast<long>(height),
                            static_cast<long>(width)};
        dlib::pyramid_down<2> pyramid;
        dlib::array2d<dlib::rgb_pixel> enlarged;
        std::vector<dlib::rect_detection> detections;
        const face_detector& either = *static_cast<face_detector*>(detector);
        if (either.built_in) {
            hog::enlarge(rgb, view.rows, view.columns, enlarged, pyramid);
        } else {
            dlib::pyramid_up(view, enlarged, pyramid);
        }
        either(enlarged, detections, threshold, layers_max);
        *found = detections.size();
        for (size_t i = 0; i < detections.size() && i < capacity; i++) {
            const dlib::rectangle box = pyramid.rect_down(detections[i].rect, 1);
            out[i] = detection{static_cast<int32_t>(box.left()), static_cast<int32_t>(box.top()),
                               static_cast<int32_t>(box.right()), static_cast<int32_t>(box.bottom()),
                               detections[i].detection_confidence};
        }
        return 0;
    });
}

// Scores the face in a box again, turned by `angle` (radians, clockwise): the mean of what the detector gives it in LOOK_SIZES sizes. In one
// size alone the score depends on how the face happens to lie in the detector's pyramid.
int fw_score(void* detector, const uint8_t* rgb, int64_t width, int64_t height, int32_t left, int32_t top, int32_t right,
             int32_t bottom, double angle, double* score, char* error) {
    return guarded(error, [&] {
        const rgb_view view{reinterpret_cast<const dlib::rgb_pixel*>(rgb), static_cast<long>(height),
                            static_cast<long>(width)};
        const face_detector& either = *static_cast<face_detector*>(detector);
        const dlib::drectangle box(left, top, right, bottom);
        const double side = std::max(1.0, (box.width() + box.height()) / 2);
        const dlib::drectangle shown = dlib::centered_drect(box, (1 + 2 * LOOK_MARGIN) * side, (1 + 2 * LOOK_MARGIN) * side);
        double sum = 0;
        for (int i = 0; i < LOOK_SIZES; i++) {
            const double size = LOOK_SIDE_PX * std::pow(1.2, static_cast<double>(i) / LOOK_SIZES);
            const auto length = static_cast<unsigned long>(std::lround((1 + 2 * LOOK_MARGIN) * size));
            dlib::array2d<dlib::rgb_pixel> look;
            dlib::extract_image_chip(view, dlib::chip_details(shown, dlib::chip_dims(length, length), angle), look);
            std::vector<dlib::rect_detection> detections;
            either(look, detections, LOOK_SCORE_MIN);
            const dlib::dpoint middle = dlib::center(dlib::drectangle(dlib::get_rect(look)));
            double best = LOOK_SCORE_MIN;
            for (const dlib::rect_detection& found : detections) {
                const dlib::drectangle rect(found.rect);
                const dlib::dpoint off = dlib::center(rect) - middle;
                const bool is_it = std::max(std::abs(off.x()), std::abs(off.y())) < LOOK_OFF_MAX * size &&
                                   rect.width() > LOOK_SIDE_MIN * size && rect.width() < LOOK_SIDE_MAX * size;
                if (is_it) best = std::max(best, found.detection_confidence);
            }
            sum += best;
        }
        *score = sum / LOOK_SIZES;
        return 0;
    });
}

// Cuts the chip that the encoder would see for five landmarks given as x, y pairs: 150 × 150 packed RGB into `chip`. Where a
// face reaches over the picture's edge dlib fills the chip with black; `visible` gets 1 for each pixel that, with
// VISIBLE_MARGIN_PX around it, lies inside the picture, else 0.
int fw_chip(const uint8_t* rgb, int64_t width, int64_t height, const int64_t* landmarks, uint8_t* chip, uint8_t* visible,
            char* error) {
    return guarded(error, [&] {
        const rgb_view view{reinterpret_cast<const dlib::rgb_pixel*>(rgb), static_cast<long>(height),
                            static_cast<long>(width)};
        std::vector<dlib::point> parts;
        for (size_t i = 0; i < 5; i++) {
            parts.emplace_back(static_cast<long>(landmarks[2 * i]), static_cast<long>(landmarks[2 * i + 1]));
        }
        // The rectangle of a detection does not enter the chip of five landmarks.
        const dlib::full_object_detection face(dlib::rectangle(), parts);
        const dlib::chip_details details = dlib::get_face_chip_details(face, CHIP_SIDE_PX, CHIP_PADDING);
        dlib::array2d<dlib::rgb_pixel> out;
        dlib::extract_image_chip(view, details, out);
        const dlib::point_transform_affine to_picture = dlib::inv(dlib::get_mapping_to_chip(details));
        const dlib::drectangle picture(0, 0, static_cast<double>(width - 1), static_cast<double>(height - 1));
        const auto inside = [&](double x, double y) { return picture.contains(to_picture(dlib::dpoint(x, y))); };
        const double margin = VISIBLE_MARGIN_PX;
        for (long y = 0; y < out.nr(); y++) {
            for (long x = 0; x < out.nc(); x++) {
                *chip++ = out[y][x].red;
                *chip++ = out[y][x].green;
                *chip++ = out[y][x].blue;
                const double cx = static_cast<double>(x), cy = static_cast<double>(y);
                *visible++ = inside(cx - margin, cy - margin) && inside(cx + margin, cy - margin) &&
                             inside(cx - margin, cy + margin) && inside(cx + margin, cy + margin);
            }
        }
        return 0;
    });
}

void fw_versions(int* major, int* minor, int* patch) {
    *major = DLIB_MAJOR_VERSION;
    *minor = DLIB_MINOR_VERSION;
    *patch = DLIB_PATCH_VERSION;
}

const char* fw_blas_kernel(void) { return openblas_get_corename(); }

int fw_blas_threads(void) { return openblas_get_num_threads(); }

}  // extern "C"
