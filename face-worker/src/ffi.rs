//! All unsafe code of the worker: the binding to `dlib.cpp`, and pictures for the dlib crate.

#![expect(unsafe_code, reason = "dlib is C++; this module checks lengths and turns its exceptions into errors")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;

use dlib_face_recognition::ImageMatrix;
use microlambda_encoder::{CHIP_BYTES, CHIP_SIDE_PX};
use microlambda_faces::Rect;

use crate::picture::Pixels;

/// Landmarks of the 5-point predictor.
pub const LANDMARKS: usize = 5;
/// dlib's frontal face detector as dlib serializes it (Boost Software License 1.0): five HOG filters, taken out of dlib by the build script.
static DETECTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/frontal_face_detector.dat"));
/// Size of the buffer for messages of the binding.
const ERROR_BYTES: usize = 256;
/// More detections than this in one tile are left out, surest first: far more than faces of 40 px fit.
const DETECTIONS_MAX: usize = 1024;
/// Layers of the detector's pyramid: dlib's own bound, more than any picture has.
const ALL_LAYERS: u32 = 1000;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawDetection {
    left: i32,
    top: i32,
    right: i32,
    bottom: i32,
    score: f64,
}

unsafe extern "C" {
    fn fw_reserve_blas();
    fn fw_detector_new(
        serialized: *const u8,
        bytes: usize,
        built_in: bool,
        out: *mut *mut c_void,
        error: *mut c_char,
    ) -> c_int;
    fn fw_detector_free(detector: *mut c_void);
    fn fw_detect(
        detector: *mut c_void,
        rgb: *const u8,
        width: i64,
        height: i64,
        layers_max: u32,
        threshold: f64,
        out: *mut RawDetection,
        capacity: usize,
        found: *mut usize,
        error: *mut c_char,
    ) -> c_int;
    fn fw_score(
        detector: *mut c_void,
        rgb: *const u8,
        width: i64,
        height: i64,
        left: i32,
        top: i32,
        right: i32,
        bottom: i32,
        angle: f64,
        score: *mut f64,
        error: *mut c_char,
    ) -> c_int;
    fn fw_chip(
        rgb: *const u8,
        width: i64,
        height: i64,
        landmarks: *const i64,
        chip: *mut u8,
        visible: *mut u8,
        error: *mut c_char,
    ) -> c_int;
    fn fw_versions(major: *mut c_int, minor: *mut c_int, patch: *mut c_int);
    fn fw_blas_kernel() -> *const c_char;
    fn fw_blas_threads() -> c_int;
}

/// Makes OpenBLAS take the buffer that it keeps. To be called before memory is limited: where OpenBLAS cannot have it, it asks again for ever.
pub fn reserve_blas() {
    // SAFETY: it takes nothing and touches only memory of its own.
    unsafe { fw_reserve_blas() }
}

/// What the C++ side threw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dlib: {0}")]
pub struct DlibError(pub String);

/// Calls into the binding and turns its message into an error.
fn guarded(call: impl FnOnce(*mut c_char) -> c_int) -> Result<(), DlibError> {
    let mut message = [0u8; ERROR_BYTES];
    if call(message.as_mut_ptr().cast()) == 0 {
        return Ok(());
    }
    let text = CStr::from_bytes_until_nul(&message).map_or_else(|_| "no message".into(), CStr::to_string_lossy);
    Err(DlibError(text.into_owned()))
}

/// dlib's frontal face detector (HOG), with scores.
#[derive(Debug)]
pub struct Detector(NonNull<c_void>);

// SAFETY: the detector owns all it points to and has no thread-local state; it is not Sync, since a search writes into it.
unsafe impl Send for Detector {}

impl Detector {
    /// Builds the detector, of our code or of dlib's own: both find the same faces with the same scores.
    ///
    /// # Errors
    /// If C++ throws, out of memory for example.
    pub fn new(built_in: bool) -> Result<Self, DlibError> {
        let mut detector = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call, which reads so many bytes and writes at most ERROR_BYTES of message.
        guarded(|error| unsafe {
            fw_detector_new(DETECTOR.as_ptr(), DETECTOR.len(), built_in, &raw mut detector, error)
        })?;
        NonNull::new(detector).map(Self).ok_or_else(|| DlibError("no detector".into()))
    }

    /// Searches a picture enlarged twice for faces of at least 40 px: boxes in the picture's coordinates (they may
    /// reach over its edges) with their scores, surest first. `layers_max` as in [`crate::Engine::search`].
    ///
    /// # Errors
    /// If C++ throws.
    pub fn search(
        &mut self,
        pixels: &Pixels,
        layers_max: Option<u32>,
        score_min: f32,
    ) -> Result<Vec<(Rect, f32)>, DlibError> {
        let mut raw = vec![RawDetection::default(); DETECTIONS_MAX];
        let mut found = 0;
        // SAFETY: `Pixels` holds width × height × 3 bytes; `raw` has room for the capacity given with it.
        guarded(|error| unsafe {
            fw_detect(
                self.0.as_ptr(),
                pixels.rgb().as_ptr(),
                i64::from(pixels.width_px()),
                i64::from(pixels.height_px()),
                layers_max.unwrap_or(ALL_LAYERS),
                f64::from(score_min),
                raw.as_mut_ptr(),
                raw.len(),
                &raw mut found,
                error,
            )
        })?;
        raw.truncate(found);
        let rect = |d: &RawDetection| Rect { left: d.left, top: d.top, right: d.right, bottom: d.bottom };
        Ok(raw.iter().map(|d| (rect(d), d.score as f32)).collect())
    }

    /// Scores the face in a box again after turning it by `angle` (radians): the mean over four sizes of it, at least -1.
    ///
    /// # Errors
    /// If C++ throws.
    pub fn score(&mut self, pixels: &Pixels, rect: Rect, angle: f64) -> Result<f32, DlibError> {
        let mut score = 0.0;
        // SAFETY: `Pixels` holds width × height × 3 bytes; what of the box lies outside is not read.
        guarded(|error| unsafe {
            fw_score(
                self.0.as_ptr(),
                pixels.rgb().as_ptr(),
                i64::from(pixels.width_px()),
                i64::from(pixels.height_px()),
                rect.left,
                rect.top,
                rect.right,
                rect.bottom,
                angle,
                &raw mut score,
                error,
            )
        })?;
        Ok(score as f32)
    }
}

impl Drop for Detector {
    fn drop(&mut self) {
        // SAFETY: made by `fw_detector_new`, freed once.
        unsafe { fw_detector_free(self.0.as_ptr()) }
    }
}

/// What the encoder sees of a face: 150 × 150 pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chip {
    /// Packed RGB.
    pub rgb: Box<[u8; CHIP_BYTES]>,
    /// 1 for each pixel that shows the picture, 0 for what dlib filled with black beyond its edge.
    pub visible: Vec<u8>,
}

/// The chip that the encoder sees for these landmarks (x, y pairs).
///
/// # Errors
/// If C++ throws.
pub fn chip(pixels: &Pixels, landmarks: &[[i64; 2]; LANDMARKS]) -> Result<Chip, DlibError> {
    let mut chip = Chip { rgb: Box::new([0; CHIP_BYTES]), visible: vec![0; CHIP_SIDE_PX * CHIP_SIDE_PX] };
    // SAFETY: `Pixels` holds width × height × 3 bytes, `landmarks` ten numbers, `chip` exactly one chip.
    guarded(|error| unsafe {
        fw_chip(
            pixels.rgb().as_ptr(),
            i64::from(pixels.width_px()),
            i64::from(pixels.height_px()),
            landmarks.as_ptr().cast(),
            chip.rgb.as_mut_ptr(),
            chip.visible.as_mut_ptr(),
            error,
        )
    })?;
    Ok(chip)
}

/// A copy of a picture for the dlib crate.
pub fn matrix(pixels: &Pixels) -> ImageMatrix {
    // SAFETY: `Pixels` holds width × height × 3 bytes.
    unsafe { ImageMatrix::new(pixels.width_px() as usize, pixels.height_px() as usize, pixels.rgb().as_ptr()) }
}

/// dlib's version as compiled in.
pub fn dlib_version() -> String {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: three valid pointers.
    unsafe { fw_versions(&raw mut major, &raw mut minor, &raw mut patch) };
    format!("{major}.{minor}.{patch}")
}

/// The kernel that OpenBLAS picked for this processor, and its threads.
pub fn blas() -> (String, i32) {
    // SAFETY: OpenBLAS returns a static string.
    let kernel = unsafe { CStr::from_ptr(fw_blas_kernel()) };
    // SAFETY: no arguments.
    (kernel.to_string_lossy().into_owned(), unsafe { fw_blas_threads() })
}
