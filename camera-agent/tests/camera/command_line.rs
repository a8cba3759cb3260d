//! What the commands print, and how they end.

use std::process::Command;

use crate::support::{Setup, output, program};

#[test]
fn exit_codes_tell_usage_configuration_and_run_apart() {
    assert_eq!(output(&["fly"]).0, Some(2));
    let (code, _, log) = output(&["run", "--config", "/no/such/camera.toml"]);
    assert_eq!(code, Some(3));
    assert!(log.contains("camera-agent example-config >"), "{log}");
    let setup = Setup::new(1, "kind = \"folder\"\npath = \"x\"\ncolour = 1");
    let (code, _, log) = output(&["validate", "--config", setup.config.to_str().unwrap()]);
    assert_eq!(code, Some(3));
    assert!(log.contains("`colour`") && log.contains("`path`"), "{log}");
    setup.write(1, "kind = \"folder\"\npath = \"x\"");
    let (code, out, _) = output(&["validate", "--config", setup.config.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    assert!(out.contains("is valid: camera door, folder x"), "{out}");
}

#[test]
fn the_example_configuration_is_printed_and_valid() {
    let (code, example, _) = output(&["example-config"]);
    assert_eq!(code, Some(0));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("camera.toml");
    std::fs::write(&path, example).unwrap();
    assert_eq!(output(&["validate", "--config", path.to_str().unwrap()]).0, Some(0));
}

#[test]
fn probing_lists_devices_or_says_that_there_are_none() {
    let (code, out, log) = output(&["probe"]);
    let has_devices = std::fs::read_dir("/sys/class/video4linux").is_ok_and(|devices| devices.count() > 0);
    if has_devices {
        assert_eq!(code, Some(0), "{log}");
        assert!(out.contains("/dev/video"), "{out}");
    } else {
        assert_eq!(code, Some(1));
        assert!(log.contains("no camera found: plug one in"), "{log}");
    }
    let (code, out, _) = output(&["probe", "--json"]);
    assert_eq!(code, Some(if has_devices { 0 } else { 1 }));
    assert!(serde_json::from_str::<serde_json::Value>(&out).unwrap().is_array());
}

#[test]
fn a_wrong_configuration_is_json_too_where_that_was_asked_for() {
    let setup = Setup::new(1, "kind = \"folder\"\npath = \"x\"\ncolour = 1");
    let config = setup.config.to_str().unwrap();
    for path in [config, "/no/such/camera.toml"] {
        let (code, out, log) = output(&["validate", "--json", "--config", path]);
        assert_eq!(code, Some(3), "{log}");
        let said: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(said["valid"], false);
        assert!(said["error"].as_str().unwrap().contains(path), "{said}");
    }
}

#[test]
fn what_cannot_be_written_is_an_error_and_a_closed_pipe_is_none() {
    let setup = Setup::new(1, "kind = \"folder\"\npath = \"x\"");
    let config = setup.config.to_str().unwrap();
    for arguments in
        [&["example-config"][..], &["validate", "--config", config], &["validate", "--json", "--config", config]]
    {
        let run = |out: std::fs::File| Command::new(program()).args(arguments).stdout(out).output().unwrap();
        let full = run(std::fs::File::options().write(true).open("/dev/full").unwrap());
        let log = String::from_utf8(full.stderr).unwrap();
        assert_eq!(full.status.code(), Some(1), "{arguments:?}: {log}");
        assert!(log.contains("cannot write to standard output"), "{arguments:?}: {log}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = run(std::fs::File::from(std::os::fd::OwnedFd::from(writer)));
        assert_eq!((closed.status.code(), closed.stderr.as_slice()), (Some(0), &b""[..]), "{arguments:?}");
    }
}
