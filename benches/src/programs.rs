//! The programs that are measured: as they are shipped, not as they are built for tests.

use std::fs;

use microlambda_demo::Programs;

use crate::Error;

/// Only a worker with the cargo feature `fault-injection` holds this message; it looks through each picture for markers.
const FAULT: &[u8] = b"fault:hang begins";

/// Refuses programs that were built for tests: to be called before anything is measured.
///
/// # Errors
/// They are missing, cannot be read, or the worker injects faults.
pub fn check_programs() -> Result<(), Error> {
    let programs = Programs::find()?;
    programs.check()?;
    if injects_faults(&fs::read(&programs.worker)?) {
        let worker = programs.worker.display();
        return Err(format!(
            "{worker} was built with the feature `fault-injection`, which no shipped program has; build what is to be measured: \
             cargo build --release --workspace --bins"
        )
        .into());
    }
    Ok(())
}

fn injects_faults(worker: &[u8]) -> bool {
    worker.windows(FAULT.len()).any(|window| window == FAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_injects_faults_is_told_by_its_message() {
        assert!(injects_faults(b"\x7fELF...fault:hang begins\n..."));
        assert!(!injects_faults(b"\x7fELF...worker begins\n..."));
    }
}
