//! How a worker ends that misbehaves in a unit; built with `--features fault-injection` only.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;

use microlambda_faces::proto::{CLASS_DECODE, CLASS_DETECT, FromWorker};
use support::{Worker, frame, models, photo, start};

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// A photo whose JPEG comment says what is to go wrong.
fn faulty(fault: &str) -> Vec<u8> {
    let mut jpeg = photo("people/biden.jpg");
    let length = u16::try_from(fault.len() + 2).expect("a short comment").to_be_bytes();
    let comment = [&[0xFF, 0xFE][..], &length, fault.as_bytes()].concat();
    jpeg.splice(2..2, comment);
    jpeg
}

fn begin(fault: &str, arguments: &[&str]) -> Worker {
    let mut worker = Worker::start_with(&models(), arguments, &[]);
    assert!(matches!(worker.read(), Some(FromWorker::Ready { .. })));
    // Made before the step starts: a worker without frames ends its step soon.
    let picture = faulty(fault);
    worker.send(&start(0, 600_000_000, u32::MAX, None));
    worker.send(&frame(0, &picture, false));
    worker
}

#[test]
fn a_unit_that_aborts_ends_the_process_and_the_stream() {
    let mut worker = begin("fault:abort", &[]);
    assert!(matches!(worker.read_any(), Some(FromWorker::Tried { .. })));
    let parts = [worker.read_any(), worker.read_any()].map(|message| match message {
        Some(FromWorker::Begin { step: 0, part: (class, _) }) => class,
        other => panic!("expected Begin, got {other:?}"),
    });
    assert_eq!(parts, [CLASS_DECODE, CLASS_DETECT], "the agent knows what went on when the process died");
    assert_eq!(worker.read_any(), None);
    assert_eq!(worker.exit().0.signal(), Some(SIGABRT));
}

#[test]
fn a_unit_that_asks_for_memory_without_end_meets_the_limit() {
    let mut worker = begin("fault:exhaust", &["--memory-max-mb", "256"]);
    assert_eq!(worker.read(), None);
    let (status, text) = worker.exit();
    assert_eq!(status.signal(), Some(SIGABRT), "{text}");
    assert!(text.contains("memory allocation"), "{text}");
}

#[test]
fn a_unit_that_hangs_does_not_outlive_the_agent() {
    let mut worker = begin("fault:hang", &[]);
    let stderr = worker.child.stderr.take().expect("a pipe");
    let begun = BufReader::new(stderr).lines().any(|line| line.expect("text").contains("fault:hang begins"));
    assert!(begun, "the worker ended before the unit");
    assert_eq!(worker.exit().0.signal(), Some(SIGKILL));
}
