//! Configurations that are right, and what is said of wrong ones.

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("camera.toml")).map_err(|error| error.to_string())
}

const FOLDER: &str = "[source]\nkind = \"folder\"\npath = \"/srv/pictures\"\n";

#[test]
fn the_example_is_valid_and_shows_the_defaults() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.source.class(), ChainClass::Live);
    let bare = parse("[source]\nkind = \"v4l2\"\n").unwrap();
    assert_eq!(config.source, bare.source);
    assert_eq!((config.spool, config.frame_bounds()), (bare.spool, bare.frame_bounds()));
    assert_eq!((config.image_interval_s, config.still_interval_s), (bare.image_interval_s, bare.still_interval_s));
    assert_eq!((config.state_dir, config.site, config.broker), (bare.state_dir, bare.site, bare.broker));
}

#[test]
fn every_commented_key_of_the_example_is_known() {
    // Each commented setting is tried in its own table.
    let mut table = String::new();
    let mut tried = 0;
    for line in EXAMPLE.lines() {
        if line.starts_with('[') {
            table = line.to_owned();
        }
        let Some(setting) = line.strip_prefix("#: ") else { continue };
        tried += 1;
        if setting.starts_with("kind = \"folder\"") || setting.starts_with("kind = \"command\"") {
            table = "[source]".into();
        }
        let key = setting.split(" = ").next().unwrap();
        let text = match table.as_str() {
            "" => format!("{setting}\n{FOLDER}"),
            "[source]" => continue,
            table => format!("{FOLDER}{table}\n{setting}\n"),
        };
        let outcome = parse(&text);
        let known = outcome.as_ref().err().is_none_or(|error| !error.contains("unknown field"));
        assert!(known, "{key}: {outcome:?}");
    }
    assert!(tried >= 5, "the example shows optional keys as `#: key = value`");
}

/// Keys of the table that `header` opens, as serde names them when it refuses one.
fn keys_of(header: &str) -> Vec<String> {
    let table = if header == "[source]" { String::new() } else { FOLDER.to_owned() };
    let error = match header {
        "" => parse(&format!("no-such-key = 1\n{FOLDER}")).unwrap_err(),
        header => parse(&format!("{table}{header}\nno-such-key = 1\n")).unwrap_err(),
    };
    // A table with one key has it alone.
    let (_, expected) = error.split_once("expected ").unwrap();
    expected.lines().next().unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_example_and_the_documentation_have_every_key() {
    let documentation = include_str!("../../../docs/configuration.md");
    let (_, documentation) = documentation.split_once("## camera-agent").unwrap();
    let mut seen = 0;
    for (header, prefix) in [
        ("", ""),
        ("[source]", "source."),
        ("[spool]", "spool."),
        ("[frame]", "frame."),
        ("[image]", "image."),
        ("[motion]", "motion."),
        ("[broker]", "broker."),
    ] {
        for key in keys_of(header) {
            if ["source", "spool", "frame", "image", "motion", "broker"].contains(&key.as_str()) {
                continue;
            }
            seen += 1;
            let is_setting = |line: &str| line.trim_start_matches("#: ").starts_with(&format!("{key} = "));
            assert!(EXAMPLE.lines().any(is_setting), "{prefix}{key}: no example");
            let documented = prefix == "broker." || documentation.contains(&format!("| `{prefix}{key}` |"));
            assert!(documented, "{prefix}{key} is not in docs/configuration.md");
        }
    }
    assert!(seen > 15, "{seen} keys: serde names them otherwise now");
}

#[test]
fn what_is_reported_as_valid_is_the_configuration_with_its_defaults() {
    let report = parse(FOLDER).unwrap().report();
    assert_eq!((&report["valid"], &report["class"]), (&json!(true), &json!("batch")));
    assert_eq!(report["config"]["spool"]["frames-max"], 10_000);
    assert_eq!(report["config"]["frame"]["pixels-max"], 16_000_000);
    assert_eq!(report["config"]["source"], json!({ "kind": "folder", "path": "/srv/pictures" }));
    let again = parse(&toml_of(&report["config"])).unwrap();
    assert_eq!(again.report(), report, "it reads back as itself");
}

/// JSON tables as TOML ones.
fn toml_of(config: &Value) -> String {
    let line = |(key, value): (&String, &Value)| match value {
        Value::Null | Value::Object(_) => String::new(),
        value => format!("{key} = {value}\n"),
    };
    let table = |(key, value): (&String, &Value)| {
        let lines = value.as_object().map(|table| table.iter().map(line).collect::<String>());
        lines.map_or(String::new(), |lines| format!("[{key}]\n{lines}"))
    };
    let config = config.as_object().unwrap();
    config.iter().map(line).chain(config.iter().map(table)).collect()
}

#[test]
fn the_camera_is_named_after_the_machine_unless_told() {
    assert!(!parse(FOLDER).unwrap().camera.as_str().is_empty());
    assert_eq!(parse(&format!("camera = \"door\"\n{FOLDER}")).unwrap().camera.as_str(), "door");
}

#[test]
fn unknown_and_missing_keys_are_named_with_the_remedy() {
    for (text, parts) in [
        (format!("colour = 1\n{FOLDER}"), vec!["camera.toml:1", "`colour`", "`state-dir`", "camera-agent validate"]),
        (format!("{FOLDER}[spool]\nbytes = 1\n"), vec!["camera.toml:5", "`bytes`", "`bytes-max`"]),
        ("site = \"home\"\n".into(), vec!["missing field `source`"]),
        ("[source]\npath = \"x\"\n".into(), vec!["missing field `kind`"]),
        ("[source]\nkind = \"webcam\"\n".into(), vec!["`webcam`", "`folder`", "`v4l2`", "`command`"]),
        ("[source]\nkind = \"folder\"\n".into(), vec!["source.path", "for example"]),
        ("[source]\nkind = \"folder\"\npath = \"\"\n".into(), vec!["source.path", "for example"]),
        ("[source]\nkind = \"command\"\ncommand = []\n".into(), vec!["source.command", "rpicam-vid"]),
        (format!("{FOLDER}device = \"/dev/video0\"\n"), vec!["source.device", "only kind = \"v4l2\""]),
        (format!("{FOLDER}finite = true\n"), vec!["source.finite", "only kind = \"command\""]),
        (
            "[source]\nkind = \"command\"\ncommand = [\"x\"]\nsilence-s = 86401\n".into(),
            vec!["source.silence-s", "at most 86400", "0 waits for ever"],
        ),
        (format!("site = \"My Home\"\n{FOLDER}"), vec!["camera.toml:1", "a-z"]),
        (format!("camera = \"{}\"\n{FOLDER}", "c".repeat(60)), vec!["camera.toml:1", "1 to 55 characters"]),
        (format!("camera = \"{}\"\n{FOLDER}", "c".repeat(70)), vec!["camera.toml:1", "1 to 55 characters"]),
        (format!("camera = \"Door\"\n{FOLDER}"), vec!["\"Door\" is no camera's name", "1 to 55 characters"]),
        (format!("{FOLDER}[broker]\nurl = \"broker:1883\"\n"), vec!["camera.toml:5", "mqtt://host:1883"]),
        (format!("{FOLDER}[frame]\nbytes-max = 33554432\n"), vec!["frame.bytes-max", "16777216"]),
        (format!("{FOLDER}[frame]\nbytes-max = 1\n"), vec!["frame.bytes-max", "16384"]),
        (
            format!("{FOLDER}[frame]\npixels-max = 999999\n"),
            vec!["camera.toml: frame.pixels-max", "1000000 to 100000000"],
        ),
        (format!("{FOLDER}[frame]\npixels-max = 100000001\n"), vec!["frame.pixels-max", "1000000 to 100000000"]),
        (format!("{FOLDER}[spool]\nbytes-max = 1000000\n"), vec!["spool.bytes-max", "16777216"]),
        (format!("{FOLDER}[spool]\nframes-max = 1\n"), vec!["camera.toml: spool.frames-max", "at least 8"]),
        (format!("state-dir = \"~/state\"\n{FOLDER}"), vec!["camera.toml: state-dir", "the whole path"]),
        (format!("state-dir = \"\"\n{FOLDER}"), vec!["camera.toml: state-dir", "leave the key out"]),
        (format!("state-dir = \"a\\u0000b\"\n{FOLDER}"), vec!["camera.toml: state-dir", "NUL"]),
        ("[[source]]\nkind = \"folder\"\npath = \"/p\"\n".into(), vec!["camera.toml:1", "there is one `[source]`"]),
        (format!("{FOLDER}[spool]\nframes-max = -1\n"), vec!["camera.toml:5"]),
        (format!("{FOLDER}[image]\ninterval-s = 100000\n"), vec!["image.interval-s", "0 is never"]),
        (
            format!("{FOLDER}[motion]\nstill-interval-s = 5000\n"),
            vec!["motion.still-interval-s", "3600", "0 keeps every picture"],
        ),
        ("[source]\nkind = \"v4l2\"\ndevice = \"/dev/video0\"\nfps = 0\n".into(), vec!["source.fps", "1 to 1000"]),
    ] {
        let error = parse(&text).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{part} in: {error}");
        }
    }
}

#[test]
fn a_path_under_a_tilde_is_refused_by_its_key_with_the_whole_path() {
    for (key, text) in [
        ("state-dir", format!("state-dir = \"~/a/b\"\n{FOLDER}")),
        ("source.path", "[source]\nkind = \"folder\"\npath = \"~/a/b\"\n".into()),
        ("source.device", "[source]\nkind = \"v4l2\"\ndevice = \"~/a/b\"\n".into()),
        ("source.command", "[source]\nkind = \"command\"\ncommand = [\"~/a/b\", \"-\"]\n".into()),
        ("broker.password-file", format!("{FOLDER}[broker]\npassword-file = \"~/a/b\"\n")),
        ("broker.ca-file", format!("{FOLDER}[broker]\nca-file = \"~/a/b\"\n")),
    ] {
        let error = parse(&text).unwrap_err();
        assert!(error.starts_with(&format!("camera.toml: {key}: `~`")), "{error}");
        assert!(error.contains("write the whole path, such as /home/ann/a/b"), "{error}");
    }
    let shell = "[source]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", \"~/bin/give\"]\n";
    assert!(parse(shell).is_ok(), "a shell expands it");
}

#[test]
fn classes_follow_from_the_source() {
    let class = |source: &str| parse(&format!("[source]\n{source}")).unwrap().source.class();
    assert_eq!(class("kind = \"folder\"\npath = \"/p\"\n"), ChainClass::Batch);
    assert_eq!(class("kind = \"command\"\ncommand = [\"x\"]\n"), ChainClass::Live);
    assert_eq!(class("kind = \"command\"\ncommand = [\"x\"]\nfinite = true\n"), ChainClass::Batch);
}
