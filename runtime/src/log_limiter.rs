//! What may happen any number of times, and is told to people only so often.

/// It is told this often at most, µs: whoever causes it must not fill the log.
const TOLD_US: u64 = 10_000_000;
/// The same for what only a person ends, µs: a device's log of 64 MB is to hold months of it.
const STANDING_US: u64 = 3_600_000_000;

/// Limits how often one thing is logged: says whether it is time to tell people again.
#[derive(Debug, Clone, Copy)]
pub struct LogLimiter {
    told_us: Option<u64>,
    pause_us: u64,
}

impl Default for LogLimiter {
    /// One in ten seconds.
    fn default() -> Self {
        Self { told_us: None, pause_us: TOLD_US }
    }
}

impl LogLimiter {
    /// One in an hour: for what lasts until a person changes it.
    pub fn standing() -> Self {
        Self { told_us: None, pause_us: STANDING_US }
    }

    /// Whether it was not told for its pause before `now_us`, or never; if so it counts as told.
    pub fn is_due(&mut self, now_us: u64) -> bool {
        let is_due = self.told_us.is_none_or(|told_us| told_us.saturating_add(self.pause_us) <= now_us);
        if is_due {
            self.told_us = Some(now_us);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_then_one_in_each_pause() {
        let told = |mut limiter: LogLimiter| -> Vec<u64> {
            (0..7_300).step_by(5).filter(|second| limiter.is_due(second * 1_000_000)).collect()
        };
        assert_eq!(told(LogLimiter::default())[..3], [0, 10, 20]);
        assert_eq!(told(LogLimiter::standing()), [0, 3_600, 7_200]);
    }
}
