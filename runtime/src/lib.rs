//! What both agents need around their core: the MQTT link, logging, service notification, configuration files, clocks, and a
//! few words on text, folders, and how the last run ended.
//!
//! This crate owns thin adapters over well-kept libraries and no decision: what is published, when and why is the
//! agents' own business. Nothing here knows of frames, chains or faces.

#![forbid(unsafe_code)]

mod backoff;
mod broker;
pub mod clock;
pub mod config;
mod connection;
mod discovery;
mod echo;
pub mod exit;
mod folder;
pub mod last_end;
mod link;
mod log_limiter;
pub mod logging;
pub mod notify;
mod output;
mod remedy;
mod text;

pub use broker::{BrokerConfig, BrokerUrl, BrokerUrlError, PASSWORD_CREDENTIAL};
pub use clock::{boot_id, monotonic_us, unix_ms};
pub use config::ConfigError;
pub use discovery::BrokerAddress;
pub use echo::Echo;
pub use exit::{Signal, shutdown_signal};
pub use folder::{create_private, move_files, sync_folder};
pub use link::{
    Link, LinkConfig, LinkCounters, LinkEvent, LinkEvents, Message, PACKET_BYTES_MAX_DEFAULT, PublishError, Queued,
};
pub use log_limiter::LogLimiter;
pub use logging::{Level, Verbosity};
pub use notify::Watchdog;
pub use output::print;
pub use text::{counted, password_in, printable, shortened, without_passwords};
