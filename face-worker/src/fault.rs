//! Faults on demand, for tests of the agent: a picture that contains one of these markers makes the unit misbehave. Compiled
//! only with the feature `fault-injection`, which no shipped binary has.

/// Ends the process as an aborting C++ library does.
const ABORT: &[u8] = b"fault:abort";
/// Never returns.
const HANG: &[u8] = b"fault:hang";
/// Asks for memory without end.
const EXHAUST: &[u8] = b"fault:exhaust";

/// Misbehaves if the picture says so.
pub fn inject(picture: &[u8]) {
    let marked = |marker: &[u8]| picture.windows(marker.len()).any(|window| window == marker);
    if marked(ABORT) {
        std::process::abort();
    }
    if marked(HANG) {
        // A test has to know that the unit runs before it goes away.
        eprintln!("fault:hang begins");
    }
    while marked(HANG) {
        std::thread::park();
    }
    let mut memory: Vec<Vec<u8>> = Vec::new();
    while marked(EXHAUST) {
        memory.push(vec![1; 1 << 24]);
    }
}
