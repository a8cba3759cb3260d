//! Real agents with the files of joined nodes, through a real broker with the files of its node: pictures in, faces out, over TLS.
//! Needs `make setup` (models and photos) and the programs, which `make test` builds first.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use common::Machine;
use common::hub::{Hub, PATIENCE, connected, link_config, next};
use microlambda_demo::{Process, Programs};
use microlambda_runtime::LinkEvent;
use toml::{Table, Value};

/// The checked data that `make setup` fetched.
fn data_dir() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/data");
    std::env::var_os("MICROLAMBDA_DATA").map_or_else(default, PathBuf::from)
}

/// A node that joins the hub, and its agent's process. What differs from a real node: paths, as the root is a folder, and the port.
struct Node {
    machine: Machine,
    role: &'static str,
}

impl Node {
    fn join(hub: &Hub, role: &'static str, microlambda: &str) -> Self {
        let machine = Machine::named("node");
        machine.write_boot("microlambda.toml", microlambda);
        machine
            .write_boot("microlambda-join.toml", hub.machine.text(&format!("/var/lib/microlambda-join/{role}.toml")));
        let report = machine.start();
        assert_eq!(report.problems, [], "{report}");
        Self { machine, role }
    }

    fn run(&self, program: &Path, port: u16, more: Table) -> Process {
        let root = self.machine.root();
        let mut config: Table = self.machine.text(&format!("/etc/microlambda/{}.toml", self.role)).parse().unwrap();
        let broker = config["broker"].as_table_mut().unwrap();
        assert_eq!(broker["url"].as_str(), Some("mqtts://microlambda.local:8883"));
        broker.insert("url".into(), format!("mqtts://127.0.0.1:{port}").into());
        let ca = under(&root, broker["ca-file"].as_str().unwrap());
        broker.insert("ca-file".into(), ca);
        config.insert("state-dir".into(), under(&root, "/var/lib/microlambda"));
        config.extend(more);
        let path = root.join("agent.toml");
        fs::write(&path, config.to_string()).unwrap();
        // As the service manager hands it over.
        let credentials = root.join("credentials");
        fs::create_dir(&credentials).unwrap();
        let stored = root.join(format!("etc/credstore/microlambda-{}-mqtt-password", self.role));
        fs::copy(stored, credentials.join("mqtt-password")).unwrap();
        let mut variable = OsString::from("CREDENTIALS_DIRECTORY=");
        variable.push(&credentials);
        let argv = ["env".into(), variable, program.into(), "run".into(), "--config".into(), path.into()];
        Process::start(self.role, argv.to_vec(), &root.join("agent.log")).unwrap()
    }
}

fn under(root: &Path, path: &str) -> Value {
    root.join(path.trim_start_matches('/')).to_str().unwrap().into()
}

#[tokio::test]
async fn pictures_of_a_joined_camera_become_faces_on_a_joined_node_and_a_viewer_sees_who() {
    let programs = Programs::find().unwrap();
    programs.check().expect("all programs: run `make test`, which builds them");
    let hub = Hub::start(&["127.0.0.1"]);
    let (_viewer, mut events) =
        connected(link_config(&hub.settings("viewer"), "viewer", &["microlambda/home/#"])).await;
    let photos = tempfile::tempdir().unwrap();
    let photo = data_dir().join("photos/people/astronaut.png");
    assert!(photo.is_file(), "{} is missing: run `make setup`", photo.display());
    fs::copy(photo, photos.path().join("astronaut.png")).unwrap();
    let folder = photos.path().to_str().unwrap();
    let camera_text = format!(
        "roles = [\"camera\"]\n[camera]\nname = \"door\"\n[camera.source]\nkind = \"folder\"\npath = \"{folder}\"\n"
    );
    let camera = Node::join(&hub, "camera", &camera_text);
    let edge = Node::join(&hub, "edge", "roles = [\"edge\"]\n[edge]\nname = \"node-a\"\nr-limit-ms = 30000\n");
    let mut running_camera = camera.run(&programs.camera, hub.tls_port, Table::new());
    let of_test: Table = [
        ("models-dir".to_owned(), Value::from(data_dir().join("models").to_str().unwrap())),
        ("worker".to_owned(), Value::from(programs.worker.to_str().unwrap())),
    ]
    .into_iter()
    .collect();
    let mut running_edge = edge.run(&programs.edge, hub.tls_port, of_test);
    let mut seen = std::collections::BTreeSet::new();
    let until = std::time::Instant::now() + PATIENCE;
    while !["status", "head", "claim", "event", "done"].iter().all(|kind| seen.contains(*kind)) {
        assert!(std::time::Instant::now() < until, "only {seen:?}\n{}", edge.machine.text("agent.log"));
        for (process, node) in [(&mut running_camera, &camera), (&mut running_edge, &edge)] {
            assert!(process.exited().is_none(), "{}", node.machine.text("agent.log"));
        }
        let LinkEvent::Message { topic, payload, .. } = next(&mut events).await else { panic!("the broker is gone") };
        let kind = topic.rsplit('/').next().unwrap().to_owned();
        assert!(
            !["continuation", "have", "want"].contains(&kind.as_str()) && !topic.contains("/frame/"),
            "a viewer saw {topic}"
        );
        if kind == "event" {
            let event: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!((event["kind"].as_str(), event["label"].as_str()), (Some("new-face"), Some("astronaut.png")));
        }
        seen.insert(kind);
    }
}

#[test]
fn the_agents_own_check_stops_a_file_that_they_cannot_use_and_keeps_the_former_one() {
    use std::os::unix::fs::symlink;
    let programs = Programs::find().unwrap();
    let machine = Machine::new();
    fs::create_dir_all(machine.root().join("usr/bin")).unwrap();
    symlink(&programs.camera, machine.root().join("usr/bin/camera-agent")).unwrap();
    machine.write_boot("microlambda.toml", "roles = [\"broker\", \"camera\"]\n");
    assert_eq!(machine.start().problems, []);
    let before = machine.text("/etc/microlambda/camera.toml");
    // An agent of another version, which takes nothing.
    let refuses = machine.root().join("usr/bin/camera-agent");
    fs::remove_file(&refuses).unwrap();
    fs::write(&refuses, "#!/bin/sh\necho 'source.fps: not like this' >&2\nexit 3\n").unwrap();
    fs::set_permissions(&refuses, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    machine.write_boot(
        "microlambda.toml",
        "roles = [\"broker\", \"camera\"]\n[camera.source]\nkind = \"v4l2\"\nfps = 3\n",
    );
    machine.start();
    assert_eq!(machine.text("/etc/microlambda/camera.toml"), before);
    assert!(
        machine.problems().contains("camera-agent failed") && machine.problems().contains("not like this"),
        "{}",
        machine.problems()
    );
    fs::remove_file(&refuses).unwrap();
    symlink(&programs.camera, &refuses).unwrap();
    assert_eq!(machine.start().problems, [], "it is tried again by itself");
    assert!(machine.text("/etc/microlambda/camera.toml").contains("fps = 3"));
}

#[test]
fn a_slow_board_gets_a_longer_limit_unless_one_is_given() {
    for (board, settings, expected_ms) in [
        ("Raspberry Pi Zero 2 W Rev 1.0\0", "", 5_000),
        ("Raspberry Pi 3 Model B Plus Rev 1.3\0", "", 5_000),
        ("Raspberry Pi 3 Model B Plus Rev 1.3\0", "[edge]\nr-limit-ms = 700\n", 700),
        ("Raspberry Pi 5 Model B Rev 1.0\0", "", 1_000),
    ] {
        let machine = Machine::new();
        machine.write_root("proc/device-tree/model", board);
        machine.write_boot("microlambda.toml", format!("roles = [\"broker\", \"edge\"]\n{settings}"));
        assert_eq!(machine.start().problems, []);
        let edge = edge_agent::config::Config::load(&machine.root().join("etc/microlambda/edge.toml")).unwrap();
        assert_eq!(edge.chain.r_limit_ms, expected_ms, "{board}");
    }
}
