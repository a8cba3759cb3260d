// Prints dlib's frontal face detector as dlib serializes it: five HOG filters. Run while the worker is built.

#include <cstdio>
#include <string>

#include <dlib/image_processing/frontal_face_detector.h>

int main() {
    const std::string bytes = dlib::get_serialized_frontal_faces();
    return std::fwrite(bytes.data(), 1, bytes.size(), stdout) == bytes.size() && std::fflush(stdout) == 0 ? 0 : 1;
}
