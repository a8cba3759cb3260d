//! A camera stays who it is when its host is called otherwise, and one that becomes another begins a new spool instead of refusing the former.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use std::fs;
use std::path::Path;

use camera_agent::config::Config;
use camera_agent::spool::{Identity, Limits, Spool};
use common::Machine;

const STATE: &str = "/var/lib/microlambda/camera";
const SPOOL: &str = "/var/lib/microlambda/camera/spool.sqlite";
const ASIDE: &str = "/var/lib/microlambda/camera/set-aside-1/spool.sqlite";

fn settings(camera: &str) -> String {
    format!("roles = [\"camera\", \"broker\"]\n[camera]\n{camera}\n")
}

fn config(machine: &Machine) -> Config {
    Config::parse(&machine.text("/etc/microlambda/camera.toml"), Path::new("camera.toml")).unwrap()
}

/// What the agent does with its spool when it starts.
fn start_agent(machine: &Machine) {
    let config = config(machine);
    let identity =
        Identity { camera: config.camera.clone(), class: config.source.class(), source: config.source.describe() };
    let limits = Limits { bytes_max: 1 << 20, frames_max: 8 };
    let folder = machine.root().join(STATE.trim_start_matches('/'));
    Spool::open_or_renew(&folder, &identity, limits, 0).unwrap();
}

fn name(machine: &Machine) -> String {
    config(machine).camera.as_str().to_owned()
}

#[test]
fn a_host_that_is_called_otherwise_has_the_same_camera() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", settings(""));
    machine.write_boot("rpi-preseed.toml", "[system]\nhostname = \"dor\"\n");
    machine.start();
    assert_eq!(name(&machine), "dor");
    start_agent(&machine);
    machine.write_boot("rpi-preseed.toml", "[system]\nhostname = \"door\"\n");
    machine.start();
    // Also where the file is written again.
    for camera in ["image-interval-s = 3", "# nothing"] {
        machine.write_boot("microlambda.toml", settings(camera));
        assert_eq!(machine.start().problems, []);
        assert_eq!((machine.text("/etc/hostname"), name(&machine)), ("door\n".to_owned(), "dor".to_owned()));
        start_agent(&machine);
    }
    assert!(!machine.has(ASIDE));
}

#[test]
fn a_camera_that_becomes_another_begins_a_new_spool_and_the_former_one_is_kept() {
    let live = "[camera.source]\nkind = \"command\"\ncommand = [\"cat\", \"/a\"]\n";
    let finite = format!("{live}finite = true\n");
    let folder = "[camera.source]\nkind = \"folder\"\npath = \"/srv/a\"\n";
    for (before, after, is_another) in [
        ("name = \"door\"", "name = \"gate\"", true),
        ("", "name = \"gate\"", true),
        ("name = \"door\"", "", false),
        ("", folder, true),
        (folder, "", true),
        (folder, &folder.replace("/srv/a", "/srv/b"), true),
        (folder, &folder.replace("/srv/a", "/srv/./a/"), false),
        ("", live, false),
        (live, &live.replace("/a", "/b"), false),
        (live, &finite, true),
        (&finite, &finite.replace("/a", "/b"), true),
    ] {
        let machine = Machine::new();
        machine.write_boot("microlambda.toml", settings(before));
        assert_eq!(machine.start().problems, []);
        start_agent(&machine);
        machine.write_boot("microlambda.toml", settings(after));
        assert_eq!(machine.start().problems, []);
        assert_eq!((machine.has(ASIDE), machine.has(SPOOL)), (is_another, !is_another), "{before} -> {after}");
        start_agent(&machine);
        assert_eq!(machine.start().changed, 0);
        assert!(machine.has(SPOOL), "{before} -> {after}: only once");
    }
}

#[test]
fn a_role_that_comes_back_under_another_name_begins_a_new_spool() {
    let machine = Machine::new();
    for text in [settings("name = \"door\""), "roles = [\"broker\"]\n".to_owned(), settings("name = \"gate\"")] {
        machine.write_boot("microlambda.toml", text);
        assert_eq!(machine.start().problems, []);
        if machine.has("/etc/microlambda/camera.toml") {
            start_agent(&machine);
        }
    }
    assert!(machine.has(ASIDE));
}

#[test]
fn a_memory_without_the_camera_is_read_and_the_agents_own_file_says_who_it_is() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", settings(""));
    machine.start();
    // As a former version left both.
    let (config, state) = ("/etc/microlambda/camera.toml", "/var/lib/microlambda-provision/state.json");
    machine.write_root(&config[1..], &machine.text(config).replace("camera = \"microlambda\"\n", ""));
    let mut memory: serde_json::Value = serde_json::from_str(&machine.text(state)).unwrap();
    for key in ["camera", "former_users"] {
        assert!(memory.as_object_mut().unwrap().remove(key).is_some(), "{key}");
    }
    machine.write_root(&state[1..], &memory.to_string());
    start_agent_named(&machine, "microlambda");
    machine.write_boot("rpi-preseed.toml", "[system]\nhostname = \"door\"\n");
    machine.write_boot("microlambda.toml", settings("image-interval-s = 3"));
    assert_eq!(machine.start().problems, []);
    assert_eq!(name(&machine), "microlambda");
    start_agent(&machine);
    assert!(!machine.has(ASIDE));
}

/// As [`start_agent`] on a host of this name, with a file that names no camera.
fn start_agent_named(machine: &Machine, host: &str) {
    let config = "/etc/microlambda/camera.toml";
    let text = machine.text(config);
    machine.write_root(&config[1..], &format!("camera = \"{host}\"\n{text}"));
    start_agent(machine);
    machine.write_root(&config[1..], &text);
}

#[test]
fn former_spools_that_are_too_many_are_told_with_the_remedy_and_it_is_tried_again() {
    let machine = Machine::new();
    for at in 0..6 {
        machine.write_boot("microlambda.toml", settings(&format!("name = \"camera-{at}\"")));
        machine.start();
        // Also at the last, for which there is no room: it is the former one until there is.
        start_agent(&machine);
    }
    assert_eq!(name(&machine), "camera-4");
    assert!(machine.problems().contains("remove its folders set-aside-1"), "{}", machine.problems());
    fs::remove_dir_all(machine.root().join(&STATE[1..]).join("set-aside-1")).unwrap();
    assert_eq!(machine.start().problems, []);
    assert_eq!(name(&machine), "camera-5");
    start_agent(&machine);
}

#[test]
fn a_spool_is_set_aside_though_the_first_try_was_cut_off_behind_the_agents_file() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", settings("name = \"door\""));
    machine.start();
    start_agent(&machine);
    // A former version remembered nothing of the camera.
    let (config, state) = ("/etc/microlambda/camera.toml", "/var/lib/microlambda-provision/state.json");
    let mut memory: serde_json::Value = serde_json::from_str(&machine.text(state)).unwrap();
    memory.as_object_mut().unwrap().remove("camera").unwrap();
    machine.write_root(&state[1..], &memory.to_string());
    machine.write_boot("microlambda.toml", settings("name = \"gate\""));
    // A file in the place of the folder stands for the power that fails once the agent's file is written.
    let in_the_way = machine.root().join(&STATE[1..]).join("set-aside-1");
    fs::write(&in_the_way, "").unwrap();
    machine.start();
    assert!(machine.text(config).contains("gate") && machine.has(SPOOL));
    fs::remove_file(in_the_way).unwrap();
    assert_eq!(machine.start().problems, []);
    assert!(machine.has(ASIDE) && !machine.has(SPOOL));
}
