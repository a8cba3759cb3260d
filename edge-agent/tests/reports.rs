//! What the reports say of a node's database as it may be found, and how they end.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Output};

use edge_agent::store::{SqliteStore, Store as _};
use microlambda::{Digest, Head};
use microlambda_faces::FaceParams;
use microlambda_wire::{ChainClass, Name};
use serde_json::Value;
use tempfile::TempDir;

/// A node that does not run: a configuration and its state directory.
struct Node {
    folder: TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { folder: tempfile::tempdir().expect("a folder") };
        let text = format!("node = \"a\"\nstate-dir = {:?}\n", node.state().display().to_string());
        fs::write(node.config(), text).expect("a configuration");
        node
    }

    /// One that has run and ended.
    fn that_has_run() -> Self {
        let node = Self::new();
        drop(SqliteStore::open_or_renew(&node.state(), &FaceParams::default()).expect("a database"));
        node
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("edge.toml")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-agent"));
        command.args(arguments).arg("--config").arg(self.config()).output().expect("edge-agent")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn an_emptied_database_is_told_as_damaged_and_not_as_new() {
    let node = Node::that_has_run();
    fs::write(node.state().join("edge.sqlite"), "").expect("an empty file");
    for command in ["check", "status"] {
        let output = node.ask(&[command]);
        assert_eq!(output.status.code(), Some(1), "{command}: {}", said(&output));
        assert!(!said(&output).contains("holds nothing yet"), "{command}: {}", said(&output));
    }
    let check = node.ask(&["check", "--json"]);
    assert_eq!((check.status.code(), &json(&check)["sound"]), (Some(1), &Value::Bool(false)));
    assert!(json(&check)["problems"][0].as_str().is_some_and(|what| what.contains("missing or empty")));
    assert!(said(&check).contains("Stop the agent, move"), "{}", said(&check));
    let status = node.ask(&["status", "--json"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(json(&status)["error"].as_str().is_some_and(|why| why.contains("missing or empty")));
}

#[test]
fn a_database_that_an_agent_is_about_to_make_anew_is_not_told_as_damaged() {
    let node = Node::that_has_run();
    fs::write(node.state().join("edge.sqlite"), "").expect("an empty file");
    let lock = File::create(node.state().join("lock")).expect("a file");
    lock.lock().expect("the agent's lock");
    let status = node.ask(&["status"]);
    assert!(said(&status).contains("holds nothing yet"), "{}", said(&status));
}

#[test]
fn a_database_that_was_removed_is_named_and_is_no_damage() {
    let node = Node::that_has_run();
    fs::remove_file(node.state().join("edge.sqlite")).expect("its removal");
    let check = node.ask(&["check", "--json"]);
    assert_eq!((check.status.code(), &json(&check)["sound"]), (Some(1), &Value::Bool(false)));
    assert!(json(&check)["problems"][0].as_str().is_some_and(|why| why.contains("was removed")));
    assert!(!said(&check).contains("is damaged"), "there is nothing to move away: {}", said(&check));
    assert!(said(&node.ask(&["status"])).contains("was removed"));
}

#[test]
fn where_json_was_asked_for_an_error_is_json_too_and_the_exit_code_stays() {
    let node = Node::new();
    assert_eq!(node.ask(&["status"]).status.code(), Some(1), "there is no database yet");
    let status = node.ask(&["status", "--json"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(json(&status)["error"].as_str().is_some_and(|why| said(&status).contains(why)));
    fs::write(node.config(), "nodes = 1\n").expect("a wrong configuration");
    for (command, reason) in [("status", "/error"), ("check", "/problems/0")] {
        let output = node.ask(&[command, "--json"]);
        assert_eq!(output.status.code(), Some(3), "{command}");
        let value = json(&output);
        assert!(value.pointer(reason).and_then(Value::as_str).is_some_and(|why| why.contains("`nodes`")), "{value}");
    }
}

#[test]
fn a_run_leaves_the_folder_of_a_camera_agent_alone() {
    let node = Node::new();
    fs::create_dir(node.state()).expect("a folder");
    for (file, text) in [("spool.sqlite", "of a camera"), ("last-end", "clean\n")] {
        fs::write(node.state().join(file), text).expect("a file");
    }
    for command in ["run", "status", "check"] {
        let output = node.ask(&[command]);
        assert_eq!(output.status.code(), Some(1), "{command}: {}", said(&output));
        assert!(said(&output).contains("state-dir belongs to a camera agent"), "{command}: {}", said(&output));
    }
    let files = fs::read_dir(node.state()).expect("the folder").count();
    assert_eq!(files, 2, "nothing was made in it");
}

#[test]
fn at_least_one_event_is_asked_for() {
    let output = Node::that_has_run().ask(&["events", "--last", "0"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("--last"), "{}", said(&output));
}

/// Somebody in five frames, in one of them twice.
fn somebody_often_seen(node: &Node) {
    let mut store = SqliteStore::open(&node.state()).expect("a database");
    let [chain, camera] = ["door-1", "door"].map(|name| Name::new(name).expect("a name"));
    let genesis = Head::genesis(Digest::of(b""));
    store.add_chain(&chain, &camera, ChainClass::Batch, genesis).expect("a chain");
    drop(store);
    let database = rusqlite::Connection::open(node.state().join("edge.sqlite")).expect("a database");
    let rows = "INSERT INTO person VALUES (1, 0, 'f', 0, 0, 1000);
        WITH seen (sequence, face_index) AS (VALUES (0, 0), (1, 0), (2, 0), (2, 1), (3, 0), (4, 0))
        INSERT INTO sighting (chain, sequence, face_index, person, distance, captured_at_ms, frames, last_seen_ms, label)
        SELECT 1, sequence, face_index, 0, 0.0, 1000 * (sequence + 1), sequence + 1, 1000 * (sequence + 1), sequence || '.jpg' FROM seen;";
    database.execute_batch(rows).expect("rows");
}

#[test]
fn the_list_of_faces_names_the_first_pictures_and_counts_the_others() {
    let node = Node::new();
    somebody_often_seen(&node);
    let list = node.ask(&["faces", "list"]);
    let text = String::from_utf8_lossy(&list.stdout);
    assert_eq!(
        text,
        "f  camera door  1970-01-01T00:00:01Z to 1970-01-01T00:00:05Z  first in frame 0, 5 frames  0.jpg 1.jpg 2.jpg and 2 more\n",
        "{}",
        said(&list)
    );
    let list = json(&node.ask(&["faces", "list", "--json"]));
    let labels: Vec<&str> = (0..5_usize).filter_map(|at| list[0]["frames"][at]["label"].as_str()).collect();
    assert_eq!(labels, ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"]);
    assert_eq!((list[0]["frames"].as_array().map(Vec::len), &list[0]["last_seen_ms"]), (Some(5), &Value::from(5_000)));
    assert_eq!(list.as_array().map(Vec::len), Some(1));
}
