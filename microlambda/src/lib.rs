//! MicroLambda's pure core: a computation of any length as a chain of short, bounded invocations.
//!
//! This crate owns the decisions: when a step must stop ([`Budget`], [`run_step`]), which state is newer and
//! which of two forks survives ([`Head`]), who may start the next step and when ([`Chain`], [`placement`]), and which part of a
//! finite job a node works ahead on ([`fanout`]).
//! It owns no clock, no randomness, no IO and no threads: time is an argument in microseconds of some monotonic
//! clock, and every action is returned as an [`Effect`] for the driver to carry out.
//!
//! ```
//! use microlambda::{Budget, CostClass, Lambda, Next, StepLimit, Stop, UnitCost, run_step};
//!
//! /// Sums the integers up to `end`, a thousand a unit.
//! struct Sum { end: u64 }
//!
//! impl Lambda for Sum {
//!     type State = (u64, u64); // next integer, sum so far
//!     type Error = std::convert::Infallible;
//!     fn next(&mut self, state: &(u64, u64)) -> Next {
//!         if state.0 > self.end { Next::Done } else { Next::Unit(UnitCost::run(CostClass(0), 1_000)) }
//!     }
//!     fn advance(&mut self, state: &mut (u64, u64)) -> Result<(), Self::Error> {
//!         for _ in 0..1_000 {
//!             if state.0 <= self.end { state.1 += state.0; state.0 += 1; }
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let (mut lambda, mut budget, mut state) = (Sum { end: 10_000 }, Budget::default(), (0, 0));
//! let mut now_us = 0;
//! // Every reading of this clock is 100 µs after the one before, so a unit costs 100 µs and a step holds a few.
//! let mut clock = move || { now_us += 100; now_us };
//! let mut steps = 0;
//! loop {
//!     let limit = StepLimit::new(1_000);
//!     let report = run_step(&mut lambda, &mut state, &mut budget, limit, &mut clock).unwrap();
//!     steps += 1; // here a node would save `state`, and whoever sees it saved may run the next step
//!     if report.stop == Stop::Done { break; }
//!     // Else one freeze of the computer would silence it for ever. A node waits before it tries again.
//!     if let (Stop::TooLarge, Next::Unit(cost)) = (report.stop, lambda.next(&state)) { budget.relax(&cost); }
//! }
//! assert_eq!(state.1, 50_005_000);
//! assert!(steps > 1);
//! ```

#![forbid(unsafe_code)]

mod budget;
mod chain;
mod digest;
pub mod fanout;
mod head;
mod lambda;
pub mod placement;
mod protocol;
mod rendezvous;
#[doc(hidden)]
pub mod sabotage;

pub use budget::{Budget, ClassCost, CostTable};
pub use chain::{Chain, REASON_BYTES_MAX};
pub use digest::{Digest, DigestBuilder, ParseDigestError};
pub use head::{Head, Version};
pub use lambda::{Admission, CostClass, Lambda, Next, StepLimit, StepReport, StepRun, Stop, UnitCost, run_step};
pub use protocol::{
    Attempt, ChainConfig, Claim, Commit, Context, Effect, Event, Phase, StepEnd, StepMode, TimerReason,
};

/// The README's example, compiled and run as a test.
#[doc = include_str!("../../README.md")]
#[cfg(doctest)]
pub struct ReadmeExample;
