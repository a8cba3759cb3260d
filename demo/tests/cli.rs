//! The demo's command line: what it refuses, and with which words.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const DEMO: &str = env!("CARGO_BIN_EXE_microlambda-demo");

/// A directory that looks complete, with programs that do nothing.
fn complete(dir: &Path) {
    for program in ["camera-agent", "edge-agent", "face-worker", "microlambda-demo"] {
        let path = dir.join("bin").join(program);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
    }
    for file in [
        "data/photos/demo/a.jpg",
        "data/models/dlib_face_recognition_resnet_model_v1.dat",
        "data/models/shape_predictor_5_face_landmarks.dat",
    ] {
        let path = dir.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
    }
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(DEMO);
    command
        .args(args)
        .current_dir(dir)
        .env("MICROLAMBDA_BIN_DIR", dir.join("bin"))
        .env_remove("MICROLAMBDA_DATA")
        .env_remove("MICROLAMBDA_BROKER")
        .args(["--data", "data", "--out", "out"]);
    command
}

fn demo(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_empty_folder_and_missing_parts_are_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(&demo(dir.path(), &[])).contains("camera-agent is missing: run `make build`"));
    complete(dir.path());
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let message = refusal(&demo(dir.path(), &["--photos", empty.to_str().unwrap()]));
    assert!(message.contains("no photos in") && message.contains("make setup"), "{message}");
    fs::remove_file(dir.path().join("data/models/shape_predictor_5_face_landmarks.dat")).unwrap();
    let message = refusal(&demo(dir.path(), &[]));
    assert!(message.contains("shape_predictor_5_face_landmarks.dat is missing: run `make setup`"), "{message}");
    assert!(!dir.path().join("out/run").exists());
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    complete(dir.path());
    let message = refusal(&demo(dir.path(), &["--broker", "localhost:1883"]));
    assert!(message.contains("write it as mqtt://host:port"), "{message}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let message = refusal(&demo(dir.path(), &["--port", &port]));
    // The program of this directory is empty, so that nothing could have been started.
    assert!(message.contains(&format!("port {port} on 127.0.0.1 is in use")), "{message}");
}

#[test]
fn a_broker_s_address_is_taken_from_the_environment_and_its_password_is_shown_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    complete(dir.path());
    let in_environment = |args: &[&str]| {
        let mut command = command(dir.path(), args);
        let output = command.env("MICROLAMBDA_BROKER", "mqtt://ann:secret@localhost:x").output().unwrap();
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!said.contains("secret"), "{said}");
        (output.status.code(), said)
    };
    let (code, said) = in_environment(&[]);
    assert!(code == Some(1) && said.contains("the port is no number"), "{code:?}: {said}");
    let (code, said) = in_environment(&["--help"]);
    assert!(code == Some(0) && said.contains("MICROLAMBDA_BROKER"), "{code:?}: {said}");
    let (code, said) = in_environment(&["--port", "1"]);
    assert!(code == Some(2) && said.contains("--broker"), "{code:?}: {said}");
}

#[test]
fn a_run_that_fails_leaves_no_results_of_a_former_one() {
    let dir = tempfile::tempdir().unwrap();
    complete(dir.path());
    let results = ["summary.json", "faces.html"].map(|name| dir.path().join("out").join(name));
    fs::create_dir(dir.path().join("out")).unwrap();
    for path in &results {
        fs::write(path, "of a former run").unwrap();
    }
    assert!(refusal(&demo(dir.path(), &["--broker", "localhost:1883"])).contains("mqtt://host:port"));
    assert!(results.iter().all(|path| !path.exists()));
}

#[test]
fn wrong_options_are_a_usage_error_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["--nodes", "0"][..],
        &["--r-limit-ms", "1"],
        &["--frame-bytes-max", "16383"],
        &["--frame-bytes-max", "16777217"],
        &["--port", "1", "--broker", "mqtt://h"],
        &["--kill"],
    ] {
        assert_eq!(demo(dir.path(), args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn what_make_demo_is_given_is_checked_before_anything_is_installed_or_built() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("photos")).unwrap();
    let check = |name: &str, value: &str| {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/demo"));
        command.arg("check").current_dir(dir.path()).env("HOME", dir.path());
        for variable in ["PHOTOS", "NODES", "R_LIMIT_MS", "BROKER", "FRAME_BYTES_MAX", "KILL"] {
            command.env_remove(variable);
        }
        let output = command.env(name, value).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (name, value) in [
        // As make gets it from a shell that leaves the tilde alone.
        ("PHOTOS", "~/photos"),
        ("PHOTOS", "photos"),
        ("NODES", "26"),
        ("R_LIMIT_MS", "10"),
        ("FRAME_BYTES_MAX", "16777216"),
        ("KILL", "0"),
        ("BROKER", "mqtt://ann:secret@host"),
    ] {
        assert_eq!(check(name, value), (Some(0), String::new()), "{name}={value}");
    }
    for (name, value) in [
        ("PHOTOS", "~/none"),
        ("NODES", "27"),
        ("R_LIMIT_MS", "9"),
        ("R_LIMIT_MS", "fast"),
        ("FRAME_BYTES_MAX", "16777217"),
        ("KILL", "yes"),
        ("BROKER", "ann:secret@host"),
        ("BROKER", "mqtts://ann:secret@host"),
    ] {
        let (code, said) = check(name, value);
        assert!(code == Some(2) && said.contains(name) && !said.contains("secret"), "{name}={value}: {code:?}: {said}");
    }
}
