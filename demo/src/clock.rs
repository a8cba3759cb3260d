//! The machine's monotonic clock: the same reading in every process, so that times of different agents compare.

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`, µs.
pub fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1_000
}
