//! A second lambda that has nothing to do with faces: counts the primes below a bound, cut into steps that travel
//! between two "nodes". Each node saves the state as a file and drops everything else; the other one goes on from the file.
//!
//! ```sh
//! cargo run --release -p microlambda --example primes -- 2000000 20
//! ```
//! Arguments: the bound, and `r_limit` in ms. The result is compared with one long run.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "an example is a driver: it owns the clock, the files and the terminal that the library must not touch"
)]

use std::path::Path;
use std::time::Instant;

use microlambda::{Budget, CostClass, Digest, DigestBuilder, Lambda, Next, StepLimit, Stop, UnitCost, run_step};

/// Numbers tested in one unit.
const UNIT_NUMBERS: u64 = 1_000;
/// Steps in a row that may end before their first unit.
const REFUSALS_MAX: u32 = 20;
/// Testing numbers of one size costs about the same: a class per power of two.
fn class_of(number: u64) -> CostClass {
    CostClass(u16::try_from(number.checked_ilog2().unwrap_or(0)).unwrap_or(u16::MAX))
}

struct CountPrimes {
    bound: u64,
}

/// What a checkpoint holds: 24 bytes, whatever the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    next: u64,
    count: u64,
    sum: u64,
}

impl State {
    const START: Self = Self { next: 2, count: 0, sum: 0 };

    fn digest(&self) -> Digest {
        DigestBuilder::new("primes").number(self.next).number(self.count).number(self.sum).finish()
    }

    fn save(&self, path: &Path) -> std::io::Result<()> {
        let bytes: Vec<u8> = [self.next, self.count, self.sum].iter().flat_map(|n| n.to_le_bytes()).collect();
        std::fs::write(path, bytes)
    }

    fn load(path: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let bytes = std::fs::read(path)?;
        let (numbers, []) = bytes.as_chunks::<8>() else { return Err("not a saved state".into()) };
        let [next, count, sum] = numbers else { return Err("not a saved state".into()) };
        let number = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        Ok(Self { next: number(next), count: number(count), sum: number(sum) })
    }
}

impl Lambda for CountPrimes {
    type State = State;
    type Error = std::convert::Infallible;

    fn next(&mut self, state: &State) -> Next {
        if state.next >= self.bound {
            return Next::Done;
        }
        Next::Unit(UnitCost::run(class_of(state.next), UNIT_NUMBERS.min(self.bound - state.next)))
    }

    fn advance(&mut self, state: &mut State) -> Result<(), Self::Error> {
        let end = self.bound.min(state.next + UNIT_NUMBERS);
        for number in state.next..end {
            let prime = (2..).take_while(|divisor| divisor * divisor <= number).all(|d| !number.is_multiple_of(d));
            state.count += u64::from(prime);
            state.sum = state.sum.wrapping_add(if prime { number } else { 0 });
        }
        state.next = end;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let bound: u64 = arguments.next().as_deref().unwrap_or("500000").parse()?;
    let r_limit_ms: u64 = arguments.next().as_deref().unwrap_or("20").parse()?;
    let folder = std::env::temp_dir().join(format!("microlambda-primes-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let checkpoint = folder.join("state");
    let epoch = Instant::now();
    let mut clock = || u64::try_from(epoch.elapsed().as_micros()).unwrap_or(u64::MAX);

    State::START.save(&checkpoint)?;
    let mut budgets = [Budget::default(), Budget::default()];
    let (mut steps, mut overruns, mut refusals) = (0, 0, 0);
    loop {
        // Every step starts from nothing but the file, on the other node.
        let node = steps % budgets.len();
        let mut state = State::load(&checkpoint)?;
        let (mut lambda, limit) = (CountPrimes { bound }, StepLimit::new(r_limit_ms * 1_000));
        let report = run_step(&mut lambda, &mut state, &mut budgets[node], limit, &mut clock)?;
        state.save(&checkpoint)?;
        steps += 1;
        overruns += usize::from(report.used_us > limit.r_limit_us);
        println!(
            "step {steps:3} on node {node}: {:4} units in {:5} µs, at {}",
            report.units, report.used_us, state.next
        );
        if report.stop == Stop::Done {
            break;
        }
        // After a freeze a unit seems too long, and only trying teaches better: a real node waits before it does.
        refusals = if report.units == 0 { refusals + 1 } else { 0 };
        if refusals > REFUSALS_MAX {
            return Err(format!("no unit fits {r_limit_ms} ms: give more").into());
        }
        if let (Stop::TooLarge, Next::Unit(cost)) = (report.stop, lambda.next(&state)) {
            budgets[node].relax(&cost);
        }
    }
    let chained = State::load(&checkpoint)?;
    std::fs::remove_dir_all(&folder)?;

    let mut long = State::START;
    run_step(&mut CountPrimes { bound }, &mut long, &mut Budget::default(), StepLimit::new(u64::MAX), &mut clock)?;
    println!("{} primes below {bound}, {steps} steps, {overruns} beyond {r_limit_ms} ms", chained.count);
    println!("digest {} in steps, {} in one run", chained.digest().short(16), long.digest().short(16));
    if chained == long { Ok(()) } else { Err("the results differ".into()) }
}
