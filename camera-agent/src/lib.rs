//! The camera agent: turns a camera, a folder of pictures or a stream into numbered, durable records, and gives them to
//! the edge nodes that ask for them over MQTT.
//!
//! It owns its source, its spool (the only sequencer of its chain) and what it tells about them. It knows nothing of
//! faces, steps or claims. Four threads: the *source* takes pictures and makes frames of them, the *spool* owns the
//! database, the *dashboard* makes small pictures, and the main thread talks to the broker and decides ([`audience`]) who
//! gets what and what may be freed.

mod agent;
pub mod audience;
pub mod cli;
pub mod config;
pub mod jpeg;
pub mod luma;
pub mod memory;
pub mod mjpeg;
pub mod motion;
pub mod picture;
pub mod run;
pub mod source;
pub mod spool;
#[cfg(test)]
mod testing;

use microlambda_runtime::{ConfigError, exit};

/// Why the program ends without success.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] spool::SpoolError),
    /// The spool was found damaged while running; the next start keeps it aside.
    #[error("{0}")]
    Damage(String),
    /// Something failed while running; the text says what to do.
    #[error("{0}")]
    Run(String),
}

impl RunError {
    fn system(error: std::io::Error) -> Self {
        Self::Run(format!("the system refuses: {error}"))
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => exit::CONFIG,
            Self::Spool(_) | Self::Damage(_) | Self::Run(_) => exit::RUN,
        }
    }
}
