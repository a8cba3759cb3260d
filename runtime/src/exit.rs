//! How a program ends: exit codes and the signals that ask for it.

use std::future::Future;
use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Exit code: something failed while running.
pub const RUN: u8 = 1;
/// Exit code: a configuration file is missing or wrong.
pub const CONFIG: u8 = 3;

/// What asked the program to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Control-C on a terminal.
    Interrupt,
    /// `systemctl stop`, `kill`.
    Terminate,
}

/// Installs handlers at once and returns a future that ends when SIGTERM or SIGINT arrives.
///
/// # Errors
/// The handlers cannot be installed. Call it inside a tokio runtime.
pub fn shutdown_signal() -> io::Result<impl Future<Output = Signal> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => Signal::Terminate,
            _ = interrupt.recv() => Signal::Interrupt,
        }
    })
}
