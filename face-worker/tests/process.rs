//! The worker as a process: steps, limits, bad input, its end, and what it may do.

mod support;

use face_worker::{Dlib, analyse};
use microlambda::{Budget, Stop};
use microlambda_faces::proto::{CLASS_DECODE, CLASS_DETECT, FromWorker, StepTimes, ToWorker, UnitOutcome};
use microlambda_faces::{Analysis, FaceParams, Partial};
use support::{Worker, frame, models, photo, start};

/// Far more than any step of these tests takes.
const NO_LIMIT_US: u64 = 600_000_000;

fn analyses(messages: &[FromWorker]) -> Vec<(u64, Analysis)> {
    messages
        .iter()
        .filter_map(|message| match message {
            FromWorker::Unit { sequence, outcome: UnitOutcome::Done(analysis), .. } => {
                Some((*sequence, analysis.clone()))
            }
            _ => None,
        })
        .collect()
}

fn last_partial(messages: &[FromWorker]) -> Option<Partial> {
    messages.iter().rev().find_map(|message| match message {
        FromWorker::Unit { outcome: UnitOutcome::Partial(partial), .. } => Some(partial.clone()),
        _ => None,
    })
}

fn stopped(messages: &[FromWorker]) -> (Stop, StepTimes) {
    match messages.last() {
        Some(FromWorker::Stopped { stop, report, .. }) => (*stop, *report),
        other => panic!("expected Stopped, got {other:?}"),
    }
}

#[test]
fn a_step_takes_its_frames_in_order_and_says_what_each_unit_cost() {
    let mut worker = Worker::ready();
    worker.send(&start(7, NO_LIMIT_US, u32::MAX, None));
    worker.send(&frame(40, &photo("people/astronaut.png"), true));
    worker.send(&frame(41, &photo("faceless/coins.png"), false));
    let messages = worker.until_stopped();
    let done = analyses(&messages);
    assert_eq!(done.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [40, 41]);
    let (stop, report) = stopped(&messages);
    assert_eq!(stop, Stop::Starved);
    assert_eq!(report.units as usize, messages.len() - 1);
    assert!(report.busy_us <= report.used_us && report.first_unit_start_us < report.last_unit_end_us, "{report:?}");
    let mut thumbnails = 0;
    for message in &messages[..messages.len() - 1] {
        let FromWorker::Unit { step, run, thumbnail, outcome, .. } = message else { panic!("{message:?}") };
        assert_eq!(*step, 7);
        assert!(run.1 > 0 && run.2 <= report.used_us);
        thumbnails += usize::from(thumbnail.is_some());
        assert!(
            thumbnail.is_none() || outcome.faces() == thumbnails,
            "a thumbnail comes with the encoding of the last face"
        );
    }
    assert_eq!(thumbnails, 2, "the astronaut, and the suit");
    let (status, _) = worker.exit();
    assert!(status.success(), "the end of the stream is the end of the worker: {status}");
}

#[test]
fn a_step_ends_at_its_limit_and_another_process_goes_on_inside_the_frame() {
    let picture = photo("people/t1.jpg");
    // By a process as well: with more than one BLAS thread, as in this test's own, the last bits may differ.
    let mut worker = Worker::ready();
    worker.send(&start(1_000, NO_LIMIT_US, u32::MAX, None));
    worker.send(&frame(3, &picture, false));
    let (_, whole) = analyses(&worker.until_stopped()).pop().expect("an analysis");
    let mut resume = None;
    let mut steps = 0;
    let cut = loop {
        let mut worker = Worker::ready();
        worker.send(&start(steps, NO_LIMIT_US, 4, resume.take()));
        worker.send(&frame(3, &picture, false));
        let messages = worker.until_stopped();
        steps += 1;
        if let Some((_, analysis)) = analyses(&messages).pop() {
            break analysis;
        }
        assert_eq!(stopped(&messages).0, Stop::UnitsMax);
        resume = last_partial(&messages);
        assert_eq!(resume.as_ref().map(Partial::units), Some(4 * steps as u32));
    };
    assert!(steps > 2, "{steps} steps");
    assert_eq!(cut, whole);
}

#[test]
fn no_unit_starts_that_the_costs_say_would_end_after_the_limit() {
    let mut worker = Worker::ready();
    worker.send(&start(0, NO_LIMIT_US, u32::MAX, None));
    worker.send(&frame(0, &photo("people/t1.jpg"), false));
    let units = worker.until_stopped();
    let units = units.iter().filter_map(|message| match message {
        FromWorker::Unit { run, .. } => Some(run.2),
        _ => None,
    });
    // The middle one: on a busy machine the largest says nothing of a unit.
    let mut units_us: Vec<u64> = units.collect();
    units_us.sort_unstable();
    let unit_us = units_us[units_us.len() / 2];
    // A class never measured may start where half of the limit is left, so this many units fit at first at least.
    worker.send(&start(1, unit_us * 6, u32::MAX, None));
    worker.send(&frame(1, &photo("people/biden.jpg"), false));
    let messages = worker.until_stopped();
    let (stop, report) = stopped(&messages);
    assert_eq!(stop, Stop::Limit);
    assert!(report.units >= 1, "{report:?}");
    worker.send(&start(2, 1, u32::MAX, None));
    worker.send(&frame(2, &photo("people/biden.jpg"), false));
    assert_eq!(stopped(&worker.until_stopped()).1.units, 0, "nothing fits a microsecond");
}

#[test]
fn a_unit_that_no_step_has_room_for_is_named() {
    let mut known = Budget::default();
    known.observe(CLASS_DECODE, 1, NO_LIMIT_US);
    let mut first = start(0, NO_LIMIT_US, u32::MAX, None);
    if let ToWorker::Start { costs, .. } = &mut first {
        *costs = known.table();
    }
    let mut worker = Worker::ready();
    worker.send(&first);
    worker.send(&frame(0, &photo("people/biden.jpg"), false));
    let messages = worker.until_stopped();
    assert_eq!(stopped(&messages).0, Stop::TooLarge);
    let [FromWorker::Refused { step: 0, unit }, _] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!((unit.run.0, unit.prepare.map(|(class, _)| class)), (CLASS_DETECT, Some(CLASS_DECODE)));
}

#[test]
fn unreadable_pictures_are_recorded_with_the_remedy_and_the_next_one_is_analysed() {
    let jpeg = photo("people/biden.jpg");
    let mut tiny = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(1, 1).write_to(&mut tiny, image::ImageFormat::Png).expect("a picture");
    let mut worker = Worker::ready();
    worker.send(&start(0, NO_LIMIT_US, u32::MAX, None));
    let pictures: [&[u8]; 5] = [b"not a picture", b"", &jpeg[..300], tiny.get_ref(), &photo("people/astronaut.png")];
    for (sequence, picture) in (0..).zip(pictures) {
        worker.send(&frame(sequence, picture, sequence < 4));
    }
    let done = analyses(&worker.until_stopped());
    assert_eq!(done.len(), 5);
    for (_, analysis) in &done[..3] {
        let Analysis::Unreadable { why } = analysis else { panic!("{analysis:?}") };
        assert!(why.contains("; "), "no remedy in: {why}");
    }
    assert!(matches!(&done[3].1, Analysis::Frame(frame) if frame.faces.is_empty() && frame.width_px == 1));
    assert!(matches!(&done[4].1, Analysis::Frame(frame) if !frame.faces.is_empty()));
}

#[test]
fn a_stop_ends_the_step_after_the_running_unit() {
    let mut worker = Worker::ready();
    worker.send(&start(0, NO_LIMIT_US, u32::MAX, None));
    worker.send(&frame(0, &photo("people/obama3.jpg"), true));
    assert!(matches!(worker.read(), Some(FromWorker::Unit { .. })));
    worker.send(&ToWorker::Stop);
    let messages = worker.until_stopped();
    assert!(analyses(&messages).is_empty(), "the frame has more units than that");
    assert_eq!(stopped(&messages).0, Stop::Starved);
}

#[test]
fn frames_outside_a_step_are_dropped() {
    let mut worker = Worker::ready();
    worker.send(&frame(9, &photo("people/biden.jpg"), false));
    worker.send(&start(0, NO_LIMIT_US, u32::MAX, None));
    worker.send(&ToWorker::NoMoreFrames);
    let messages = worker.until_stopped();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(stopped(&messages).0, Stop::Starved);
}

#[test]
fn a_frame_that_may_still_come_is_waited_for_within_the_limit() {
    let mut worker = Worker::ready();
    worker.send(&start(0, 20_000, u32::MAX, None));
    let (stop, report) = stopped(&worker.until_stopped());
    assert_eq!((stop, report.units), (Stop::Starved, 0));
}

#[test]
fn a_state_of_another_picture_starts_the_frame_again() {
    let picture = photo("faceless/coins.png");
    let mut worker = Worker::ready();
    let foreign = Partial { width_px: 5, height_px: 5, tiles_done: 1, ..Partial::default() };
    worker.send(&start(0, NO_LIMIT_US, u32::MAX, Some(foreign)));
    worker.send(&frame(0, &picture, false));
    let mut engine = Dlib::load(&models()).expect("models");
    let fresh = analyse(&mut engine, FaceParams::default(), picture).expect("an analysis");
    assert_eq!(analyses(&worker.until_stopped()), [(0, fresh)]);
}

#[test]
fn a_stream_that_is_not_the_protocol_ends_the_worker_with_a_remedy() {
    use std::io::Write;
    let mut worker = Worker::ready();
    worker.stream.write_all(&[255; 16]).expect("the worker reads");
    assert_eq!(worker.read(), None);
    let (status, text) = worker.exit();
    assert_eq!(status.code(), Some(1));
    assert!(text.contains("of one version"), "{text}");
}

#[test]
fn a_damaged_model_is_named_with_its_sums_and_the_remedy() {
    let directory = tempfile::tempdir().expect("a directory");
    for model in [face_worker::LANDMARK_MODEL, face_worker::ENCODER_MODEL] {
        std::fs::copy(models().join(model.file), directory.path().join(model.file)).expect("a copy");
    }
    let damaged = directory.path().join(face_worker::LANDMARK_MODEL.file);
    let mut bytes = std::fs::read(&damaged).expect("the model");
    bytes[1_000_000] ^= 1;
    std::fs::write(&damaged, &bytes).expect("written");
    let mut worker = Worker::start_with(directory.path(), &[], &[]);
    let Some(FromWorker::Fatal { message }) = worker.read() else { panic!("expected Fatal") };
    for part in [face_worker::LANDMARK_MODEL.file, &face_worker::LANDMARK_MODEL.sha256[..12], "make models"] {
        assert!(message.contains(part), "no {part} in: {message}");
    }
    assert_eq!(worker.exit().0.code(), Some(3));
}

#[test]
fn a_missing_models_directory_is_named() {
    let mut worker = Worker::start_with("/nowhere".as_ref(), &[], &[]);
    let Some(FromWorker::Fatal { message }) = worker.read() else { panic!("expected Fatal") };
    assert!(message.contains("/nowhere") && message.contains("--models"), "{message}");
    assert_eq!(worker.exit().0.code(), Some(3));
}

#[test]
fn the_worker_uses_one_blas_thread_whatever_it_inherits() {
    let mut worker = Worker::start_with(&models(), &[], &[("OPENBLAS_NUM_THREADS", "8")]);
    assert!(matches!(worker.read(), Some(FromWorker::Ready { .. })));
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.child.id())).expect("the process");
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")).map(str::trim);
    assert_eq!(threads, Some("2"), "one that works and one that reads");
}

#[test]
fn the_worker_gains_no_privileges_and_filters_its_system_calls() {
    let mut worker = Worker::ready();
    worker.send(&start(0, NO_LIMIT_US, u32::MAX, None));
    worker.send(&frame(0, &photo("people/biden.jpg"), false));
    assert_eq!(analyses(&worker.until_stopped()).len(), 1, "it works inside the sandbox");
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.child.id())).expect("the process");
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(|v| v.trim().to_owned());
    assert_eq!(value("NoNewPrivs:").as_deref(), Some("1"));
    assert_eq!(value("Seccomp:").as_deref(), Some("2"));
}

#[test]
fn resident_memory_stays_below_110_mb_at_1280_by_720() {
    let mut still = image::load_from_memory(&photo("people/t1.jpg")).expect("a photo").into_rgb8();
    still = image::imageops::crop(&mut still, 0, 80, 1280, 720).to_image();
    let mut jpeg = std::io::Cursor::new(Vec::new());
    still.write_to(&mut jpeg, image::ImageFormat::Jpeg).expect("a JPEG");
    let mut worker = Worker::ready();
    worker.send(&start(0, NO_LIMIT_US, u32::MAX, None));
    for sequence in 0..5 {
        worker.send(&frame(sequence, jpeg.get_ref(), sequence < 4));
    }
    let messages = worker.until_stopped();
    assert_eq!(analyses(&messages).len(), 5);
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.child.id())).expect("the process");
    let kb: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|v| v.trim().strip_suffix(" kB"))
        .and_then(|v| v.parse().ok())
        .expect("a number");
    assert!(kb < 110_000, "{kb} kB");
    println!("peak resident memory {kb} kB");
    for message in &messages {
        if let FromWorker::Unit { prepare, run, .. } = message {
            println!("class {} work {}: {} µs, preparation {prepare:?}", run.0.0, run.1, run.2);
        }
    }
}
