//! The programs from outside: what they link, how they answer mistakes, what they print.

use std::path::Path;
use std::process::{Command, Output};

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

#[test]
fn the_example_configurations_are_valid() {
    let dir = tempfile::tempdir().expect("a folder");
    let programs = Programs::find().expect("programs");
    for (program, file) in [(&programs.edge, "edge.toml"), (&programs.camera, "camera.toml")] {
        let example = run(program, &["example-config"]);
        assert!(example.status.success());
        let path = dir.path().join(file);
        std::fs::write(&path, &example.stdout).expect("a file");
        let output = run(program, &["validate", "--config", path.to_str().expect("a path")]);
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    let programs = Programs::find().expect("programs");
    let commands: [(&Path, &[&[&str]]); 2] = [
        (&programs.edge, &[&[], &["run"], &["validate"], &["faces", "list"], &["status"], &["check"], &["inspect"]]),
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
