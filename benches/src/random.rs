//! Chance that each run repeats: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).

/// A number for `seed` and `index`, as good as random, whatever was asked for before.
pub fn mixed(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// As [`mixed`], from 0 up to but not including 1.
pub fn fraction(seed: u64, index: u64) -> f64 {
    (mixed(seed, index) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Draws one after the other, for what happens in an order: [`mixed`] of the seed and of how many there were before.
#[derive(Debug)]
pub struct Random {
    seed: u64,
    drawn: u64,
}

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// A number below `bound`, or 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let draw = mixed(self.seed, self.drawn);
        self.drawn += 1;
        draw % bound.max(1)
    }

    /// Puts these into an order drawn.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_the_published_generator() {
        let mut random = Random::new(1_234_567);
        let draws = [0; 3].map(|_| random.below(u64::MAX));
        assert_eq!(draws, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn an_order_drawn_has_all_of_them_and_is_the_seeds() {
        let drawn = |seed| {
            let mut all: Vec<u32> = (0..100).collect();
            Random::new(seed).shuffle(&mut all);
            all
        };
        let mut sorted = drawn(1);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<u32>>());
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }

    #[test]
    fn fractions_spread_evenly_and_tell_seed_from_index() {
        let mean = (0..10_000).map(|index| fraction(3, index)).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert_ne!(mixed(1, 2), mixed(2, 1));
    }
}
