//! Clocks and random ids.

use std::time::{SystemTime, UNIX_EPOCH};

use microlambda_wire::Name;
use rustix::time::{ClockId, clock_gettime};

/// Microseconds of `CLOCK_MONOTONIC`: since the machine's boot, comparable between all processes of one machine.
pub fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    part(now.tv_sec) * 1_000_000 + part(now.tv_nsec) / 1_000
}

/// Milliseconds since 1970 by the wall clock; 0 if the clock stands before 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    #[cfg(feature = "clock-steps")]
    let unix_ms = unix_ms.saturating_add_signed(step_ms());
    unix_ms
}

/// How far a test has set this program's wall clock off, ms: the number in the file that `MICROLAMBDA_CLOCK_STEP_FILE` names.
/// Compiled only with the feature `clock-steps`, which no shipped binary has.
#[cfg(feature = "clock-steps")]
fn step_ms() -> i64 {
    let file = std::env::var_os("MICROLAMBDA_CLOCK_STEP_FILE");
    let text = file.and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A random id for this start of a program: 16 hexadecimal digits.
///
/// # Errors
/// The kernel has no random numbers to give.
pub fn boot_id() -> std::io::Result<Name> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;
    Name::new(format!("{:016x}", u64::from_be_bytes(bytes))).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_moves_and_the_wall_clock_is_past_2020() {
        let first_us = monotonic_us();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(monotonic_us() >= first_us + 2_000);
        assert!(unix_ms() > 1_577_836_800_000);
    }

    #[test]
    fn boot_ids_are_names_of_16_digits_and_differ() {
        let (a, b) = (boot_id().unwrap(), boot_id().unwrap());
        assert_eq!(a.as_str().len(), 16);
        assert_ne!(a, b);
    }
}
