//! What must hold for any bytes whatever: one function per decoder of bytes from outside, and one for the chain's machine.
//!
//! A target panics if its promise is broken. libFuzzer calls them (`fuzz/`, `make fuzz`), and `tests/fuzz.rs` feeds them the
//! corpora in `fuzz/corpus/` and the seeds in [`seeds`], with the stable toolchain and without libFuzzer.

mod camera;
mod chain;
mod checkpoint;
mod config;
pub mod seeds;
mod wire;
mod worker;

pub use camera::{jpeg, mjpeg};
pub use chain::chain;
pub use checkpoint::checkpoint;
pub use config::config;
pub use wire::{frame, payloads, topics};
pub use worker::worker;

/// A target: its name, which is also the name of its program and of its corpus, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 9] = [
    ("topics", topics),
    ("payloads", payloads),
    ("frame", frame),
    ("jpeg", jpeg),
    ("mjpeg", mjpeg),
    ("worker", worker),
    ("checkpoint", checkpoint),
    ("config", config),
    ("chain", chain),
];
