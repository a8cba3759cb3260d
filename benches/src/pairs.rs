//! The same work by two sides in turn: who goes first, and what each pair of times comes to.

use crate::random::mixed;
use crate::stats::Stats;

/// Draws which side goes first, so that neither always finds the caches, or a slow minute, as the other left them. Of every two pairs one begins
/// with ours, and a seed decides which.
#[derive(Debug, Clone)]
pub struct Order {
    seed: u64,
    pairs: u64,
}

/// Times of both sides, pair by pair.
#[derive(Debug, Clone, Default)]
pub struct Pairs {
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Order {
    /// The order that follows from a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, pairs: 0 }
    }

    /// Whether ours goes first in the next pair.
    pub fn ours_first(&mut self) -> bool {
        self.pairs += 1;
        self.is_ours_first(self.pairs - 1)
    }

    /// Which side went first in the last pair drawn; empty before the first one.
    pub fn went_first(&self) -> &'static str {
        match self.pairs.checked_sub(1).map(|pair| self.is_ours_first(pair)) {
            Some(true) => "ours",
            Some(false) => "theirs",
            None => "",
        }
    }

    fn is_ours_first(&self, pair: u64) -> bool {
        let (block, is_second) = (pair / 2, pair % 2 == 1);
        (mixed(self.seed, block) & 1 == 1) != is_second
    }

    /// The next pair: both sides' work, one after the other in the order drawn.
    ///
    /// # Errors
    /// Either side's; the other may not have run then.
    pub fn pair<A, B, E>(
        &mut self,
        ours: impl FnOnce() -> Result<A, E>,
        theirs: impl FnOnce() -> Result<B, E>,
    ) -> Result<(A, B), E> {
        if self.ours_first() {
            let ours = ours()?;
            Ok((ours, theirs()?))
        } else {
            let theirs = theirs()?;
            Ok((ours()?, theirs))
        }
    }
}

impl Pairs {
    /// One more pair.
    pub fn add(&mut self, ours: f64, theirs: f64) {
        self.ours.push(ours);
        self.theirs.push(theirs);
    }

    /// The last pair, ours and theirs; `None` if there is none.
    pub fn last(&self) -> Option<(f64, f64)> {
        Some((*self.ours.last()?, *self.theirs.last()?))
    }

    /// All pairs of another one after these.
    pub fn extend(&mut self, other: &Self) {
        self.ours.extend(&other.ours);
        self.theirs.extend(&other.theirs);
    }

    /// Our side; `None` if there is no pair.
    pub fn ours(&self) -> Option<Stats> {
        Stats::of(self.ours.iter().copied())
    }

    /// The other side; `None` if there is no pair.
    pub fn theirs(&self) -> Option<Stats> {
        Stats::of(self.theirs.iter().copied())
    }

    /// Ours by theirs, pair by pair; `None` if there is no pair.
    pub fn ratio(&self) -> Option<Stats> {
        Stats::of(self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| ours / theirs))
    }

    /// Both sides as series of a chart: the work, and after a comma whose it is.
    pub fn samples(&self, work: &str, [ours, theirs]: [&str; 2]) -> [(String, Vec<f64>); 2] {
        [(format!("{work}, {ours}"), self.ours.clone()), (format!("{work}, {theirs}"), self.theirs.clone())]
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn of_every_two_pairs_one_begins_with_ours_and_the_seed_decides_which() {
        let drawn = |seed| {
            let mut order = Order::new(seed);
            (0..64).map(|_| order.ours_first()).collect::<Vec<bool>>()
        };
        let firsts = drawn(1);
        assert!(firsts.chunks(2).all(|block| block[0] != block[1]), "{firsts:?}");
        let begun_by_ours = firsts.chunks(2).filter(|block| block[0]).count();
        assert!((8..=24).contains(&begun_by_ours), "{begun_by_ours} of 32 blocks begin with ours");
        assert_eq!(firsts, drawn(1));
        assert_ne!(firsts, drawn(2));
    }

    #[test]
    fn both_sides_run_in_the_order_drawn() {
        let (mut order, mut drawn) = (Order::new(3), Order::new(3));
        for _ in 0..8 {
            let ran = RefCell::new(Vec::new());
            let run = |side: &'static str| {
                ran.borrow_mut().push(side);
                Ok::<_, ()>(side)
            };
            assert_eq!(order.pair(|| run("ours"), || run("theirs")), Ok(("ours", "theirs")));
            let expected = if drawn.ours_first() { ["ours", "theirs"] } else { ["theirs", "ours"] };
            assert_eq!(*ran.borrow(), expected);
            assert_eq!(order.went_first(), expected[0]);
        }
    }

    #[test]
    fn a_ratio_is_that_of_a_pair_and_not_of_two_medians() {
        let mut pairs = Pairs::default();
        assert_eq!(pairs.ratio(), None);
        for (ours, theirs) in [(1.0, 10.0), (20.0, 40.0), (30.0, 100.0)] {
            pairs.add(ours, theirs);
        }
        assert_eq!(pairs.ratio().map(|ratio| ratio.p50), Some(0.3));
        assert_eq!((pairs.ours().map(|ms| ms.p50), pairs.theirs().map(|ms| ms.p50)), (Some(20.0), Some(40.0)));
    }
}
