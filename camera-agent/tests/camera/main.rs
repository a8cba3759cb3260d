//! The camera agent as a process, against a real broker.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod blocks;
mod command_line;
mod dashboard;
mod faults;
mod jobs;
mod memory;
mod motion;
mod serving;
mod support;
