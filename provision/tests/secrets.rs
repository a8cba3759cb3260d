//! What is said about a mistake never repeats a password that stands there: notes are read by everybody who logs in, and kept in the log.

mod common;

use std::fs::{self, File};
use std::io::Read as _;

use common::Machine;

/// Nothing but the file that its owner wrote holds the secret after a start: not the report, not a note, not what is remembered.
fn assert_told_without(name: &str, text: &str, secret: &str, expected: &str) {
    let machine = Machine::new();
    machine.write_boot(name, text);
    let report = machine.start().to_string();
    assert!(!report.contains(secret), "{text}: {report}");
    assert!(report.contains(expected), "{text}: {report}");
    assert!(machine.problems().contains(expected), "{text}: {}", machine.problems());
    for (path, (_, content)) in machine.everything() {
        let holds = content.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!holds || path == machine.boot().join(name), "{text}: {}", path.display());
    }
}

#[test]
fn a_password_without_quotes_is_not_repeated() {
    for (name, table, key) in [
        ("rpi-preseed.toml", "[wlan]\nssid = \"Home\"\n", "wlan.password"),
        ("rpi-preseed.toml", "[user]\nname = \"ann\"\n", "user.password"),
        ("microlambda.toml", "[join]\nversion = 1\n", "join.password"),
        ("microlambda-join.toml", "version = 1\n", "password"),
    ] {
        for value in ["98765432", "9876.5432", "[98765432]", "{ key = \"98765432\" }", "[\"98765432\"]"] {
            let secret = if value.contains('.') { "9876.5432" } else { "98765432" };
            let expected = format!("`{key}`: it has to be a text in quotes");
            assert_told_without(name, &format!("{table}password = {value}\n"), secret, &expected);
        }
    }
}

#[test]
fn a_password_that_breaks_the_syntax_is_not_repeated() {
    for line in [
        "password = hunter2hunter2",
        "password = hunter2hunter2 hunter2hunter2",
        "password = \"hunter2hunter2",
        "password = 'hunter2hunter2\"",
        "password = \"a\"hunter2hunter2\"",
        "password = \"hunter2hunter2\\q\"",
        "password hunter2hunter2",
        "password: hunter2hunter2",
        "password = 0hunter2hunter2",
        "password = \u{201c}hunter2hunter2\u{201d}",
        "password = \"x\"\npassword = \"hunter2hunter2\"",
    ] {
        let text = format!("[wlan]\nssid = \"Home\"\n{line}\n");
        assert_told_without("rpi-preseed.toml", &text, "hunter2hunter2", "rpi-preseed.toml, line");
    }
}

#[test]
fn a_password_in_a_cameras_address_is_not_repeated() {
    for (source, expected) in [
        (
            "kind = \"command\"\ncommand = \"ffmpeg -i rtsp://me:pass1234@cam/x -f mjpeg -\"",
            "`camera.source.command`: it has to be a list of texts in quotes",
        ),
        ("kind = \"v4l2\"\ndevice = \"rtsp://me:pass1234@cam/x\"", "`camera.source.device`"),
        ("kind = \"v4l2\"\ndevice = \"rtsp://me:a/pass1234@cam/x\"", "`camera.source.device`"),
        ("kind = \"folder\"\npath = \"me:pass1234@cam\"", "`camera.source.path`"),
        ("kind = \"rtsp://me:pass1234@cam/x\"", "`camera.source.kind`"),
        ("kind = \"command\"\n\"rtsp://me:pass1234@cam/x\" = 1\ncommand = [\"cat\"]", "is not known"),
    ] {
        let text = format!("roles = [\"camera\", \"broker\"]\n[camera.source]\n{source}\n");
        assert_told_without("microlambda.toml", &text, "pass1234", expected);
    }
}

#[test]
fn a_password_in_a_brokers_address_is_not_repeated() {
    for address in ["mqtts://me:pass1234@hub.local", "me:pass1234@hub.local", "mqtts://me:a/pass1234@hub.local"] {
        let text = format!("[broker]\naddress = \"{address}\"\n");
        assert_told_without("microlambda.toml", &text, "pass1234", "`broker.address`");
        let text = format!("[broker]\nnames = [\"{address}\"]\n");
        assert_told_without("microlambda.toml", &text, "pass1234", "`broker.names`");
    }
}

#[test]
fn pieces_of_files_that_a_check_recovered_are_overwritten_and_removed() {
    let machine = Machine::new();
    let pieces = ["FSCK0000.REC", "FSCK0001.REC", "fsck0012.rec"];
    let others = ["FSCK.REC", "FSCK00a1.REC", "FSCK0000.txt", "notes.rec"];
    for name in pieces.into_iter().chain(others) {
        machine.write_boot(name, "password = \"hunter2hunter2\"\n");
    }
    machine.start_with(true);
    assert!(machine.boot().join(pieces[0]).exists(), "a dry run does nothing");
    let mut open = pieces.map(|name| File::open(machine.boot().join(name)).unwrap());
    assert_eq!(machine.start().problems, []);
    for (name, file) in pieces.into_iter().zip(&mut open) {
        assert!(!machine.boot().join(name).exists(), "{name}");
        let mut blocks = Vec::new();
        file.read_to_end(&mut blocks).unwrap();
        assert!(!blocks.is_empty() && blocks.iter().all(|&byte| byte == 0), "{name}");
    }
    assert!(others.into_iter().all(|name| machine.boot().join(name).exists()));
}

#[test]
fn a_piece_that_cannot_be_removed_is_told() {
    let machine = Machine::new();
    fs::create_dir(machine.boot().join("FSCK0000.REC")).unwrap();
    machine.start();
    assert!(machine.problems().contains("FSCK0000.REC: a piece of a lost file"), "{}", machine.problems());
    fs::remove_dir(machine.boot().join("FSCK0000.REC")).unwrap();
    machine.start();
    assert_eq!(machine.problems(), "");
}
