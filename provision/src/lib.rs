//! Sets an appliance up at boot from the files on its boot partition.
//!
//! This crate owns how `rpi-preseed.toml`, `microlambda.toml` and join files are read ([`input`]), what follows from them
//! ([`plan`](mod@plan): pure), how that is done ([`execute`]), the site's authority and the broker's access rules, and the login message.
//! It owns no agent: what it writes for them they check themselves.
//!
//! Whatever a file says, the device boots and can be reached over SSH; a mistake costs the key it is in, is told in plain words on the
//! boot partition, and undoes nothing that was right before.

#![forbid(unsafe_code)]

pub mod apply;
pub mod authority;
pub mod broker;
pub mod camera;
pub mod cli;
pub mod execute;
pub mod facts;
pub mod input;
pub mod paths;
pub mod plan;
pub mod problem;
pub mod redact;
pub mod set_aside;
pub mod state;
pub mod welcome;
