//! What may happen any number of times, and is told to people only so often.

/// It is told this often at most, µs: whoever causes it must not fill the log.
const TOLD_US: u64 = 10_000_000;

/// Says whether it is time to tell people again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seldom {
    told_us: Option<u64>,
}

impl Seldom {
    /// Whether it was not told for ten seconds before `now_us`, or never; if so it counts as told.
    pub fn is_due(&mut self, now_us: u64) -> bool {
        let is_due = self.told_us.is_none_or(|told_us| told_us.saturating_add(TOLD_US) <= now_us);
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
    fn the_first_is_told_and_then_one_in_ten_seconds() {
        let mut seldom = Seldom::default();
        let told: Vec<u64> = (0..30).filter(|second| seldom.is_due(second * 1_000_000)).collect();
        assert_eq!(told, [0, 10, 20]);
    }
}
