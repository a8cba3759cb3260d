use std::io::Write as _;
use std::path::Path;

use super::*;
use crate::spool::Input;
use crate::testing::photo_jpeg;

fn stream_file(folder: &Path, parts: &[&[u8]]) -> String {
    let path = folder.join("stream.mjpeg");
    std::fs::File::create(&path).unwrap().write_all(&parts.concat()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn shell(script: &str, finite: bool) -> CommandLine {
    CommandLine { argv: vec!["/bin/sh".into(), "-c".into(), script.into()], finite, silence_s: 60 }
}

fn open(line: &CommandLine, already: &[(Input, bool)]) -> Result<Stream, SourceError> {
    let already = already.to_vec();
    Stream::open(line, Box::new(already.into_iter()), &Arc::default())
}

fn pictures(stream: &mut Stream) -> (Vec<Vec<u8>>, Result<Next, SourceError>) {
    let mut pictures = Vec::new();
    loop {
        match stream.next() {
            Ok(Next::Frame(Captured { picture: Picture::File(jpeg), .. })) => pictures.push(jpeg),
            Ok(Next::PassedOver { .. }) => {}
            other => return (pictures, other),
        }
    }
}

#[test]
fn pictures_pass_byte_for_byte_and_status_0_ends_a_finite_input() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (photo_jpeg(320, 240, 1), photo_jpeg(320, 240, 2));
    let file = stream_file(folder.path(), &[&a, &b]);
    let mut stream = open(&shell(&format!("cat {file}"), true), &[]).unwrap();
    assert_eq!(pictures(&mut stream), (vec![a, b], Ok(Next::End)));
}

#[test]
fn garbage_between_pictures_is_passed_over_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (photo_jpeg(320, 240, 1), photo_jpeg(320, 240, 2));
    let file = stream_file(folder.path(), &[b"\0\0hello", &a, "[info] naïve".as_bytes(), &b]);
    let mut stream = open(&shell(&format!("cat {file}"), true), &[]).unwrap();
    let mut reasons = Vec::new();
    let mut frames = 0;
    loop {
        match stream.next().unwrap() {
            Next::Frame(_) => frames += 1,
            Next::PassedOver { why, .. } => reasons.push(why),
            Next::End => break,
            Next::NotYet(_) => panic!("a command is waited for in `next`"),
        }
    }
    assert_eq!(frames, 2);
    assert!(!reasons.is_empty() && reasons.iter().all(|why| why.contains("-f mjpeg")), "{reasons:?}");
}

#[test]
fn the_parts_of_a_multipart_stream_are_pictures_and_their_headers_nothing_to_tell_of() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (photo_jpeg(320, 240, 1), photo_jpeg(320, 240, 2));
    let header = b"--cam\r\nContent-Type: image/jpeg\r\n\r\n";
    let file = stream_file(folder.path(), &[header, &a, b"\r\n", header, &b, b"\r\n--cam--\r\n"]);
    let mut stream = open(&shell(&format!("cat {file}"), true), &[]).unwrap();
    for jpeg in [a, b] {
        let Ok(Next::Frame(frame)) = stream.next() else { panic!("something else than a picture") };
        assert_eq!(frame.picture, Picture::File(jpeg));
    }
    assert_eq!(stream.next(), Ok(Next::End));
}

#[test]
fn a_failing_command_is_trouble_with_its_last_words() {
    let mut stream = open(&shell("echo no such camera >&2; exit 3", true), &[]).unwrap();
    let (none, end) = pictures(&mut stream);
    assert!(none.is_empty());
    let Err(SourceError::Trouble(why)) = end else { panic!("{end:?}") };
    assert!(why.contains("exit status: 3") && why.contains("try its command line"), "{why}");
}

#[test]
fn the_last_words_of_a_failing_command_are_told_every_time() {
    for _ in 0..30 {
        let (_, end) = pictures(&mut open(&shell("echo bad camera >&2; exit 3", false), &[]).unwrap());
        let Err(SourceError::Trouble(why)) = end else { panic!("{end:?}") };
        assert!(why.contains(": bad camera;"), "{why}");
    }
}

#[test]
fn who_holds_a_failing_commands_standard_error_open_does_not_hold_up_its_end() {
    let folder = tempfile::tempdir().unwrap();
    // In a session of its own before the command ends: it is not killed with its group.
    let script = format!(
        "mkfifo {0}; setsid sh -c 'exec >&-; : > {0}; exec sleep 20' & read _ < {0}; echo bad camera >&2; exit 3",
        folder.path().join("there").display()
    );
    let began = Instant::now();
    let (_, end) = pictures(&mut open(&shell(&script, false), &[]).unwrap());
    assert!(matches!(&end, Err(SourceError::Trouble(why)) if why.contains(": bad camera;")), "{end:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn a_last_picture_that_was_cut_short_is_passed_over_once_and_told_with_what_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (photo_jpeg(64, 48, 1), photo_jpeg(64, 48, 2));
    let file = stream_file(folder.path(), &[&a, &b[..500]]);
    let line = shell(&format!("cat {file}"), true);
    let mut stream = open(&line, &[]).unwrap();
    assert!(matches!(stream.next(), Ok(Next::Frame(_))));
    let Ok(Next::PassedOver { why, input: Some(input) }) = stream.next() else { panic!("it is not told") };
    assert!(why.contains("frame 1: it is cut short") && why.contains("500 bytes were left"), "{why}");
    assert_eq!(stream.next(), Ok(Next::End));

    let already = [(input_of("frame 0", &a, 0), true), (input, false)];
    assert_eq!(pictures(&mut open(&line, &already).unwrap()), (vec![], Ok(Next::End)));
    let other = [already[0].clone(), (input_of("frame 1", b"another", 0), false)];
    let (_, end) = pictures(&mut open(&line, &other).unwrap());
    assert!(matches!(end, Err(SourceError::Fatal(why)) if why.contains("from frame 1 on")));
}

#[test]
fn a_live_command_that_ends_is_trouble_whatever_its_status() {
    let mut stream = open(&shell("true", false), &[]).unwrap();
    assert!(matches!(stream.next(), Err(SourceError::Trouble(_))));
}

#[test]
fn a_live_command_that_ends_well_after_a_picture_is_told_of_the_key_that_makes_it_a_job() {
    let folder = tempfile::tempdir().unwrap();
    let file = stream_file(folder.path(), &[&photo_jpeg(64, 48, 1)]);
    let why_of = |script: &str| match pictures(&mut open(&shell(script, false), &[]).unwrap()) {
        (_, Err(SourceError::Trouble(why))) => why,
        (_, other) => panic!("{other:?}"),
    };
    let why = why_of(&format!("cat {file}; echo done >&2"));
    assert!(why.contains("ended (exit status: 0) after 1 picture and is started again"), "{why}");
    assert!(why.contains("finite = true in [source]") && why.ends_with("with an end (it said: done)"), "{why}");
    for no_end in [format!("cat {file}; exit 3"), "true".to_owned()] {
        let why = why_of(&no_end);
        assert!(!why.contains("finite") && why.contains("try its command line in a terminal"), "{why}");
    }
}

#[test]
fn a_command_that_gives_no_whole_picture_any_more_is_trouble_whatever_else_it_writes() {
    let folder = tempfile::tempdir().unwrap();
    let file = stream_file(folder.path(), &[&photo_jpeg(64, 48, 1)]);
    let half = format!("head -c 500 {file}");
    for (after, finite) in [("true", false), ("while :; do echo garbage; done", false), (half.as_str(), true)] {
        let line = CommandLine { silence_s: 1, ..shell(&format!("cat {file}; {after}; sleep 1000"), finite) };
        let (seen, end) = pictures(&mut open(&line, &[]).unwrap());
        assert_eq!(seen.len(), 1);
        let Err(SourceError::Trouble(why)) = end else { panic!("{end:?}") };
        assert!(why.contains("no whole picture for 1 s") && why.contains("silence-s in [source]"), "{why}");
    }
}

#[test]
fn the_time_in_which_nobody_waits_for_a_command_is_no_silence_of_it() {
    let folder = tempfile::tempdir().unwrap();
    // More than the pipe and one chunk hold, so that the command waits.
    let jpegs: Vec<Vec<u8>> = (0..40).map(|n| photo_jpeg(320, 240, n)).collect();
    let file = stream_file(folder.path(), &jpegs.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let line = CommandLine { silence_s: 1, ..shell(&format!("cat {file}"), true) };
    let mut stream = open(&line, &[]).unwrap();
    assert!(matches!(stream.next(), Ok(Next::Frame(_))));
    std::thread::sleep(Duration::from_millis(1_500));
    let (rest, end) = pictures(&mut stream);
    assert_eq!((rest.len(), end), (jpegs.len() - 1, Ok(Next::End)));
}

#[test]
fn a_command_that_closes_its_output_and_lives_is_ended() {
    for silence_s in [0, 60] {
        let line = CommandLine { silence_s, ..shell("exec >&-; sleep 1000", false) };
        let mut stream = open(&line, &[]).unwrap();
        let Err(SourceError::Trouble(why)) = stream.next() else { panic!() };
        assert!(why.contains("did not end within 5 s"), "{why}");
    }
}

#[test]
fn the_last_words_of_a_command_hold_no_password_wherever_a_long_line_is_cut() {
    for before in 380..400 {
        let line = format!("{} rtsp://me:secret@cam refuses\n", "x".repeat(before));
        let last_words = Mutex::default();
        keep_last_line(line.as_bytes(), &last_words);
        assert_eq!(*last_words.lock().unwrap(), "rtsp://me:***@cam refuses", "{before}");
    }
}

#[test]
fn a_program_that_does_not_exist_is_fatal_and_named() {
    let line = CommandLine { argv: vec!["no-such-program-anywhere".into()], finite: false, silence_s: 60 };
    let error = open(&line, &[]).err().unwrap();
    assert!(matches!(&error, SourceError::Fatal(why) if why.contains("no-such-program-anywhere")), "{error}");
}

#[test]
fn a_restart_passes_by_what_was_read_and_notices_another_stream() {
    let folder = tempfile::tempdir().unwrap();
    let frames: Vec<Vec<u8>> = (0..3).map(|n| photo_jpeg(64, 48, n)).collect();
    let file = stream_file(folder.path(), &[&frames[0], &frames[1], &frames[2]]);
    let line = shell(&format!("cat {file}"), true);
    let already: Vec<(Input, bool)> = (0..2).map(|n| (input_of(&format!("frame {n}"), &frames[n], 0), true)).collect();
    let mut stream = open(&line, &already).unwrap();
    assert_eq!(pictures(&mut stream), (vec![frames[2].clone()], Ok(Next::End)));

    let other = vec![(input_of("frame 0", b"another", 0), true)];
    let (_, end) = pictures(&mut open(&line, &other).unwrap());
    assert!(matches!(end, Err(SourceError::Fatal(why)) if why.contains("--new-job")));

    let longer: Vec<(Input, bool)> = already
        .into_iter()
        .chain([(input_of("frame 2", &frames[2], 0), true), (input_of("frame 3", b"x", 0), true)])
        .collect();
    let (_, end) = pictures(&mut open(&line, &longer).unwrap());
    assert!(matches!(end, Err(SourceError::Fatal(why)) if why.contains("frame 3")));
}

#[test]
fn a_dropped_source_kills_its_program_and_the_programs_children() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", pid_file.display());
    let stream = open(&shell(&script, false), &[]).unwrap();
    let pid = loop {
        match std::fs::read_to_string(&pid_file) {
            Ok(text) => break text.trim().to_owned(),
            Err(_) => std::thread::yield_now(),
        }
    };
    drop(stream);
    let is_running = || {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
    };
    let began = std::time::Instant::now();
    while is_running() {
        assert!(began.elapsed().as_secs() < 20, "the grandchild lives");
        std::thread::yield_now();
    }
}
