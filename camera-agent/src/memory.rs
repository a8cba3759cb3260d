//! Gives memory back: an agent holds a frame for milliseconds and must stay small for months.

/// Every block of at least this size is a mapping of its own, which goes back to the system when it is freed, bytes. glibc
/// raises this bound by itself (up to 32 MiB) and then keeps the blocks of frames and decoded pictures in its heaps.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: i32 = 64 << 10;
/// A heap's unused end longer than this is given back, bytes.
#[cfg(target_env = "gnu")]
const SLACK_BYTES_MAX: i32 = 256 << 10;

/// Sets the C library's allocator up for few and small heaps: one heap instead of one for each thread. Call it first in
/// `main`; allocators other than glibc's are left alone.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    {
        let settings = [
            (libc::M_ARENA_MAX, 1),
            (libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN),
            (libc::M_TRIM_THRESHOLD, SLACK_BYTES_MAX),
        ];
        for (setting, value) in settings {
            #[expect(unsafe_code, reason = "the allocator's settings are reached through the C library alone")]
            // SAFETY: mallopt changes the allocator's settings under its own lock and takes plain numbers.
            let taken = unsafe { libc::mallopt(setting, value) };
            debug_assert_eq!(taken, 1, "glibc knows setting {setting}");
        }
    }
}
