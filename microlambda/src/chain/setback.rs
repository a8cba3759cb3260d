//! Steps that came to nothing though no unit failed: how long the chain waits before the next one.

use crate::ChainConfig;

/// A unit that is too slow for this node is tried again after pauses that double up to 2 to this power.
const REFUSAL_DOUBLINGS_MAX: u32 = 2;
/// So many steps may end with a preparation before the next one waits.
const PREPARATIONS_MAX: u32 = 4;
/// Other pauses double up to 2 to this power of slots: 5 s of 40 ms.
const SLOT_DOUBLINGS_MAX: u32 = 7;

/// Why a step did no unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setback {
    /// Its unit was refused, or killed at the limit.
    Refused,
    /// It only got ready what its unit needs.
    Prepared,
    /// Its frames did not come.
    Starved,
}

/// How often each has happened at the chain's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Setbacks {
    refused: u32,
    prepared: u32,
    starved: u32,
}

impl Setbacks {
    /// Whether there was any.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Counts one more; the pause that it calls for, µs.
    pub fn count(&mut self, setback: Setback, config: &ChainConfig) -> u64 {
        let times = match setback {
            Setback::Refused => &mut self.refused,
            Setback::Prepared => &mut self.prepared,
            Setback::Starved => &mut self.starved,
        };
        *times = times.saturating_add(1);
        pause_us(setback, *times, config)
    }

    /// Input has come: true if that was lacking.
    pub fn end_starving(&mut self) -> bool {
        std::mem::take(&mut self.starved) > 0
    }
}

/// The pause after a setback that has happened `times` times by now, µs.
fn pause_us(setback: Setback, times: u32, config: &ChainConfig) -> u64 {
    let (slot_us, former) = (config.slot_us, times.saturating_sub(1));
    let doubled = |us: u64, doublings: u32, max: u32| us.saturating_mul(1 << doublings.min(max));
    match setback {
        // The computer may have stood still for a moment.
        Setback::Refused if former == 0 => slot_us,
        Setback::Refused => doubled(config.refusal_us, former - 1, REFUSAL_DOUBLINGS_MAX),
        // What was prepared may have made room for another chain's. That ends some time.
        Setback::Prepared if times <= PREPARATIONS_MAX => 0,
        Setback::Prepared => doubled(slot_us, times - PREPARATIONS_MAX, SLOT_DOUBLINGS_MAX),
        Setback::Starved => doubled(slot_us, former, SLOT_DOUBLINGS_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Stay;

    fn pauses_ms(setback: Setback) -> Vec<u64> {
        let config = ChainConfig {
            node: "a".into(),
            chain: "door-1".into(),
            r_limit_us: 1_000_000,
            grace_us: 500_000,
            announce_us: 2_000_000,
            slot_us: 40_000,
            fetch_us: 1_000_000,
            refusal_us: 10_000_000,
            placement: Box::new(Stay),
        };
        let mut setbacks = Setbacks::default();
        (0..10).map(|_| setbacks.count(setback, &config) / 1_000).collect()
    }

    #[test]
    fn each_kind_of_setback_has_pauses_of_its_own_that_grow_to_a_bound() {
        let slow = 40_000;
        assert_eq!(pauses_ms(Setback::Refused), [40, 10_000, 20_000, slow, slow, slow, slow, slow, slow, slow]);
        assert_eq!(pauses_ms(Setback::Prepared), [0, 0, 0, 0, 80, 160, 320, 640, 1_280, 2_560]);
        assert_eq!(pauses_ms(Setback::Starved), [40, 80, 160, 320, 640, 1_280, 2_560, 5_120, 5_120, 5_120]);
    }
}
