//! The programs from outside: what they link, how they answer mistakes, what they print.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use edge_agent::store::SqliteStore;
use microlambda_demo::Programs;
use microlambda_tests::{data_dir, photo};
use serde_json::Value;

fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().expect("a program: run `make test`, which builds it")
}

fn edge_program() -> PathBuf {
    Programs::find().expect("programs").edge
}

fn edge(arguments: &[&str]) -> Output {
    run(&edge_program(), arguments)
}

fn libraries(program: &Path) -> String {
    let output = run(Path::new("ldd"), &[program.to_str().expect("a path")]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn only_the_worker_links_dlib() {
    let programs = Programs::find().expect("programs");
    assert!(libraries(&programs.worker).contains("libdlib"), "{}", libraries(&programs.worker));
    for agent in [&programs.edge, &programs.camera] {
        let linked = libraries(agent);
        assert!(linked.contains("libc.so"), "{linked}");
        assert!(!linked.contains("dlib") && !linked.contains("blas"), "{}: {linked}", agent.display());
    }
}

#[test]
fn a_mistake_in_a_configuration_names_line_key_and_remedy() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("edge.toml");
    let path = file.to_str().expect("a path");
    for (text, named) in [
        ("r-limit = 5\n", "r-limit"),
        ("[chain]\nr-limit-ms = \"fast\"\n", "r-limit-ms"),
        ("[chain]\nr-limit-ms = 1\n", "chain.r-limit-ms"),
        ("[chain]\nplacement = \"anywhere\"\n", "anywhere"),
        ("node = \"Küche\"\n", "Küche"),
        ("[broker]\nurl = \"http://x\"\n", "http"),
        ("[[chain]]\nr-limit-ms = 1000\n", "there is one `[chain]`"),
        ("state-dir = \"~/edge\"\n", "write the whole path"),
    ] {
        fs::write(&file, text).expect("a file");
        let output = edge(&["validate", "--config", path]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{text}: {said}");
        assert!(said.contains(named) && said.contains(path), "{text}: {said}");
        let output = edge(&["validate", "--json", "--config", path]);
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((output.status.code(), &value["valid"]), (Some(3), &Value::Bool(false)), "{text}: {value}");
        assert!(value["error"].as_str().is_some_and(|error| error.contains(named)), "{text}: {value}");
    }
    let output = edge(&["run", "--config", "/nonexistent/edge.toml"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("example-config"));
    assert_eq!(edge(&["fly"]).status.code(), Some(2));
}

fn models_line(folder: &Path) -> String {
    format!("models-dir = {folder:?}\n")
}

#[test]
fn missing_models_and_a_damaged_database_are_told_with_the_remedy() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("edge.toml");
    let path = file.to_str().expect("a path");
    let state = dir.path().join("state");
    let text = format!("{}node = \"a\"\nstate-dir = {state:?}\n", models_line(&dir.path().join("none")));
    fs::write(&file, text).expect("a file");
    let output = edge(&["validate", "--config", path]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("models-dir") && said.contains("make models"), "{said}");
    assert_eq!(edge(&["check", "--config", path]).status.code(), Some(1), "there is no database to check");

    drop(SqliteStore::open(&state).expect("a database"));
    let output = edge(&["check", "--json", "--config", path]);
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), &value["sound"]), (Some(0), &Value::Bool(true)), "{value}");

    let database = state.join("edge.sqlite");
    let mut bytes = fs::read(&database).expect("a database");
    let damages: [fn(&mut Vec<u8>); 2] = [|bytes| bytes[4_096..].fill(0xa5), |bytes| bytes[..100].fill(0xa5)];
    for damage in damages {
        damage(&mut bytes);
        fs::write(&database, &bytes).expect("a damaged database");
        let output = edge(&["check", "--json", "--config", path]);
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((output.status.code(), &value["sound"]), (Some(1), &Value::Bool(false)), "{value}");
        assert!(value["problems"].as_array().is_some_and(|problems| !problems.is_empty()), "{value}");
        let output = edge(&["check", "--config", path]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("Stop the agent, move") && said.contains("edge.sqlite*"), "{said}");
        assert!(!said.contains("run `edge-agent check`"), "it is the check that says so: {said}");
    }
}

#[test]
fn a_demo_over_pictures_that_nobody_can_read_fails_and_says_why() {
    let dir = tempfile::tempdir().expect("a folder");
    let photos = dir.path().join("photos");
    fs::create_dir(&photos).expect("a folder");
    for name in ["a.jpg", "b.png"] {
        fs::write(photos.join(name), "no picture").expect("a file");
    }
    std::os::unix::fs::symlink("a.jpg", photos.join("c.jpg")).expect("a link");
    let [photos, out] = [photos, dir.path().join("out")].map(|path| path.to_str().expect("a path").to_owned());
    let data = data_dir();
    let data = data.to_str().expect("a path");
    let arguments = ["--photos", &photos, "--out", &out, "--data", data, "--timeout-s", "240"];
    let output = run(&Programs::find().expect("programs").demo, &arguments);
    let (live, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{live}{said}");
    assert!(live.contains("2 photos of") && live.contains("1 symbolic link was passed over"), "{live}");
    assert!(live.contains("2 pictures were passed over"), "{live}");
    assert!(said.contains("not one of 2 photos") && said.contains("b.png: it is neither"), "{said}");
}

#[test]
fn the_example_configurations_are_valid() {
    let dir = tempfile::tempdir().expect("a folder");
    let programs = Programs::find().expect("programs");
    for (program, file) in [(&programs.edge, "edge.toml"), (&programs.camera, "camera.toml")] {
        let example = run(program, &["example-config"]);
        assert!(example.status.success());
        let path = dir.path().join(file);
        let example = String::from_utf8(example.stdout).expect("text");
        let models = if file == "edge.toml" { models_line(&data_dir().join("models")) } else { String::new() };
        fs::write(&path, models + &example).expect("a file");
        let arguments = ["validate", "--config", path.to_str().expect("a path")];
        let output = run(program, &arguments);
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        let output = run(program, &[&arguments[..], &["--json"]].concat());
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&value["valid"], &value["site"]), (&Value::Bool(true), &Value::from("home")), "{file}: {value}");
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    let programs = Programs::find().expect("programs");
    let commands: [(&Path, &[&[&str]]); 2] = [
        (
            &programs.edge,
            &[&[], &["run"], &["validate"], &["faces"], &["faces", "list"], &["status"], &["check"], &["inspect"]],
        ),
        (&programs.camera, &[&[], &["run"], &["validate"], &["probe"]]),
    ];
    for (program, commands) in commands {
        for command in commands {
            let output = run(program, &[command, &["--help"][..]].concat());
            let help = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && help.contains("Example"), "{command:?}: {help}");
        }
    }
}

#[test]
fn inspect_shows_each_face_with_the_reason_and_the_numbers() {
    let models = data_dir().join("models");
    let models = models.to_str().expect("a path");
    let astronaut = photo("people/astronaut.png");
    let coins = photo("faceless/coins.png");
    let pictures = [astronaut.to_str().expect("a path"), coins.to_str().expect("a path")];
    let output = edge(&["inspect", "--json", "--encodings", "--models", models, pictures[0], pictures[1]]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let face = &value[0]["faces"][0];
    assert_eq!(face["usable"], true);
    assert_eq!(face["encoding"].as_array().map(Vec::len), Some(128));
    for key in ["box", "size_px", "sharpness", "score"] {
        assert!(!face[key].is_null(), "{key} in {face}");
    }
    let strong = value[0]["faces"].as_array().expect("faces").iter().filter(|f| f["enough_for_somebody_new"] == true);
    assert_eq!(strong.count(), 1, "the suit is nobody new: {value}");
    assert_eq!(value[1]["faces"].as_array().map(Vec::len), Some(0));
}

#[test]
fn inspect_names_a_file_that_is_no_picture() {
    let models = data_dir().join("models");
    let output = edge(&["inspect", "--models", models.to_str().expect("a path"), "/nonexistent.jpg"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("/nonexistent.jpg"));
}

#[test]
fn inspect_names_a_file_whose_name_is_no_unicode_in_json_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let strange = folder.path().join(OsStr::from_bytes(b"n\xff.jpg"));
    fs::copy(photo("people/biden.jpg"), &strange).expect("a copy");
    let models = data_dir().join("models");
    let output =
        Command::new(edge_program()).args(["inspect", "--json", "--models"]).arg(models).arg(&strange).output();
    let output = output.expect("edge-agent");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(value[0]["photo"].as_str().is_some_and(|name| name.ends_with("n\u{fffd}.jpg")), "{value}");
    assert_eq!(value[0]["faces"].as_array().map(Vec::len), Some(1));
}

#[test]
fn inspect_ends_when_nobody_reads_any_more() {
    let models = data_dir().join("models");
    let coins = photo("faceless/coins.png");
    let mut inspect = Command::new(edge_program())
        .args(["inspect", "--models"])
        .arg(models)
        .args([&coins; 40])
        // Had it gone on, it would have failed in the end.
        .arg("/nonexistent.jpg")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("edge-agent");
    let mut first = String::new();
    BufReader::new(inspect.stdout.take().expect("a pipe")).read_line(&mut first).expect("a line");
    assert!(first.contains("coins.png"), "{first}");
    assert!(inspect.wait().expect("its end").success());
}

#[test]
fn a_picture_for_which_the_worker_has_no_memory_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let large = folder.path().join("large.jpg");
    image::GrayImage::new(10_000, 9_900).save(&large).expect("a picture");
    let config = folder.path().join("edge.toml");
    fs::write(&config, "worker-memory-mb = 256\n").expect("a configuration");
    let models = data_dir().join("models");
    let output = Command::new(edge_program())
        .args(["inspect", "--config"])
        .arg(&config)
        .arg("--models")
        .arg(models)
        .args([&large, &photo("people/biden.jpg")])
        .output()
        .expect("edge-agent");
    let said = String::from_utf8_lossy(&output.stdout);
    let (first, second) = said.split_once('\n').expect("two pictures");
    assert!(first.contains("large.jpg") && first.contains("raise worker-memory-mb"), "{said}");
    assert!(second.contains("1 face"), "{said}");
    assert!(!output.status.success());
}

#[test]
fn a_report_says_why_a_state_directory_cannot_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, file) = (folder.path().join("edge.toml"), folder.path().join("state"));
    fs::write(&config, format!("state-dir = {:?}\n", file.display().to_string())).expect("a configuration");
    let said = || {
        let output = edge(&["status", "--config", config.to_str().expect("a path")]);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said().contains("has `edge-agent run` been started"), "{}", said());
    fs::write(&file, "").expect("a file");
    assert!(said().contains("a file is in its place"), "{}", said());
}
