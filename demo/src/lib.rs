//! Starts real agents and watches them on the bus: the demo, and the harness of the end-to-end tests.
//!
//! This crate owns how agents are started, walled in, killed and measured from outside ([`Rig`], [`Process`],
//! [`Sandbox`]), the brokers they use ([`Broker`]), a typed view of what they say ([`Observer`], [`Tally`]), and the
//! demo itself ([`run`]). It links no agent: what it knows, it knows from the bus, from the agents' commands and from
//! `/proc`.

#![forbid(unsafe_code)]

mod agent;
mod broker;
mod clock;
mod error;
mod job;
mod leftovers;
mod observer;
mod options;
mod outcome;
mod passed_over;
mod process;
pub mod relay;
mod run;
mod sandbox;
mod sheet;
mod show;
mod stillness;
mod summary;
mod tally;
mod unit_limit;
mod url;

pub use agent::{Agent, CameraSetup, EdgeSetup, PROGRAMS_VARIABLE, Programs, Rig, downloads};
pub use broker::{Broker, BrokerKind, run_embedded};
pub use clock::monotonic_us;
pub use error::Error;
pub use observer::{Note, Observer, Report, Seen, read_note};
pub use options::DemoArgs;
pub use process::{Process, Usage, usage};
pub use run::run;
pub use sandbox::{Isolation, Sandbox, Walls, unshare};
pub use summary::{FaceFrame, KnownFace, Memory, Person, Recovery, SetAside, Summary};
pub use tally::{ClaimSeen, News, Step, Tally};
pub use url::BrokerUrl;
