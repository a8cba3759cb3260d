//! When a wait for more of the same is over.

use std::time::{Duration, Instant};

/// Watches a number that is expected to change, and says when it has stood still for too long.
#[derive(Debug)]
pub(crate) struct Stillness {
    patience: Duration,
    /// The number as last seen, and since when.
    seen: Option<(u64, Instant)>,
}

impl Stillness {
    /// A number that may stand still for `patience`; it counts from the first look.
    pub fn new(patience: Duration) -> Self {
        Self { patience, seen: None }
    }

    /// The number is `value` at `now`: true once it has been so for the whole patience.
    pub fn look(&mut self, value: u64, now: Instant) -> bool {
        match self.seen {
            Some((seen, since)) if seen == value => now.duration_since(since) >= self.patience,
            Some(_) | None => {
                self.seen = Some((value, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_begins_anew_with_each_change_and_not_with_each_look() {
        let mut still = Stillness::new(Duration::from_secs(5));
        let begun = Instant::now();
        let looks = [(9, 0), (9, 4), (7, 4), (7, 8), (6, 8), (6, 12)];
        for (value, at_s) in looks {
            assert!(!still.look(value, begun + Duration::from_secs(at_s)), "{value} at {at_s} s");
        }
        assert!(still.look(6, begun + Duration::from_secs(13)));
        assert!(!still.look(5, begun + Duration::from_secs(13)));
    }
}
