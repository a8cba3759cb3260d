//! The programs from outside: what they link, how they answer mistakes, what they print.

use std::path::Path;
use std::process::{Command, Output};

use edge_agent::store::SqliteStore;
use microlambda_demo::Programs;
use microlambda_tests::{data_dir, photo};
use serde_json::Value;

fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().expect("a program: run `make test`, which builds it")
}

fn edge(arguments: &[&str]) -> Output {
    run(&Programs::find().expect("programs").edge, arguments)
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
    ] {
        std::fs::write(&file, text).expect("a file");
        let output = edge(&["validate", "--config", path]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{text}: {said}");
        assert!(said.contains(named), "{text}: {said}");
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
    std::fs::write(&file, text).expect("a file");
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
    let mut bytes = std::fs::read(&database).expect("a database");
    let damages: [fn(&mut Vec<u8>); 2] = [|bytes| bytes[4_096..].fill(0xa5), |bytes| bytes[..100].fill(0xa5)];
    for damage in damages {
        damage(&mut bytes);
        std::fs::write(&database, &bytes).expect("a damaged database");
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
    std::fs::create_dir(&photos).expect("a folder");
    for name in ["a.jpg", "b.png"] {
        std::fs::write(photos.join(name), "no picture").expect("a file");
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
        std::fs::write(&path, models + &example).expect("a file");
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
