//! Standard output of commands.

use std::io::{ErrorKind, Write as _};

/// Writes text to standard output; false if nobody reads it any more, as behind `| head`.
///
/// # Errors
/// The text is lost, for example as the disk is full; why, for people.
pub fn print(text: &str) -> Result<bool, String> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(format!("cannot write to standard output: {error}")),
    }
}
