//! What an agent behind walls sees: its own directory, what it was given, and the broker.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use microlambda_demo::{Broker, Isolation, Programs, Sandbox, Walls};
use rustix::process::{Pid, Signal, kill_process};

fn programs() -> Programs {
    Programs::in_dir(Path::new(env!("CARGO_BIN_EXE_microlambda-demo")).parent().unwrap())
}

fn argv(parts: &[&str]) -> Vec<OsString> {
    parts.iter().map(OsString::from).collect()
}

/// Runs a shell script inside and returns what it prints.
fn inside(sandbox: &Sandbox, script: &str) -> String {
    let command = sandbox.enter(argv(&["sh", "-c", script]));
    let output = Command::new(&command[0]).args(&command[1..]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}: {out}{err}");
    out.trim().to_string()
}

struct Setting {
    _dir: tempfile::TempDir,
    root: PathBuf,
    broker: Broker,
    walls: Walls,
}

/// `None` where the system allows no namespaces; the reason is printed.
fn setting() -> Option<Setting> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for path in ["run/own", "run/other", "photos"] {
        fs::create_dir_all(root.join(path)).unwrap();
        fs::write(root.join(path).join("secret"), path).unwrap();
    }
    let broker = Broker::embedded(&programs(), &root.join("broker"), None).unwrap();
    let walls = Walls::new(Isolation::of_tests(), &programs(), &root.join("run"), broker.url()).unwrap();
    if let Walls::None(why) = &walls {
        eprintln!("SKIPPED: no namespaces on this system: {why}");
        return None;
    }
    Some(Setting { _dir: dir, root, broker, walls })
}

impl Setting {
    fn sandbox(&self, keep: &[&str]) -> Sandbox {
        self.sandbox_over(&["run", "photos"], keep)
    }

    fn sandbox_over(&self, cover: &[&str], keep: &[&str]) -> Sandbox {
        let Walls::Namespaces { socket, .. } = &self.walls else { unreachable!("checked at the start") };
        let [cover, keep] =
            [cover, keep].map(|paths| paths.iter().map(|path| self.root.join(path)).collect::<Vec<_>>());
        Sandbox::new(&programs(), socket, &cover, &keep, &self.root.join("sandbox.log")).unwrap()
    }
}

#[test]
fn an_agent_sees_its_own_directory_and_what_it_was_given_alone() {
    let Some(setting) = setting() else { return };
    let root = setting.root.display();
    let node = setting.sandbox(&["run/own"]);
    let camera = setting.sandbox(&["run/other", "photos"]);
    assert_eq!(
        inside(&node, &format!("cat {root}/run/own/secret; ls {root}/run {root}/photos")),
        format!("run/own{root}/photos:\n\n{root}/run:\nbus\nown")
    );
    assert_eq!(inside(&camera, &format!("cat {root}/photos/secret; ls {root}/run")), "photosbus\nother");
    inside(&node, &format!("echo kept > {root}/run/own/state"));
    assert_eq!(
        fs::read_to_string(setting.root.join("run/own/state")).unwrap(),
        "kept\n",
        "its directory is the real one"
    );
    assert_eq!(fs::read_to_string(setting.root.join("photos/secret")).unwrap(), "photos", "outside nothing is covered");
}

#[test]
fn any_folder_can_be_kept_or_covered_wherever_it_lies_and_however_it_is_called() {
    let Some(setting) = setting() else { return };
    // Where people mount their disks; only root may make a folder there.
    let disk = tempfile::tempdir_in("/mnt").or_else(|_| tempfile::tempdir()).unwrap();
    let disk = disk.path().to_str().unwrap();
    let (photos, secret) = (format!("{disk}/my \\photos "), format!("{disk}/secret"));
    for path in [&photos, &secret] {
        fs::create_dir(path).unwrap();
        fs::write(Path::new(path).join("a.jpg"), "a photo").unwrap();
    }
    let node = setting.sandbox_over(&["run", &photos, &secret], &["run/own"]);
    assert_eq!(inside(&node, &format!("ls '{photos}' '{secret}'")), format!("{photos}:\n\n{secret}:"));
    let camera = setting.sandbox_over(&["run", &photos, &secret], &["run/other", &photos]);
    assert_eq!(inside(&camera, &format!("cat '{photos}/a.jpg'; ls '{secret}'")), "a photo");
    let inner = setting.sandbox_over(&["run", disk], &["run/other", &photos]);
    assert_eq!(
        inside(&inner, &format!("ls '{disk}' '{photos}'")),
        format!("{disk}:\nmy \\photos \n\n{photos}:\na.jpg")
    );
}

#[test]
fn a_line_break_in_a_path_is_a_character_like_any_other() {
    let Some(setting) = setting() else { return };
    let [photos, secret] = ["my\nphotos", "no\n\nphotos"].map(|name| setting.root.join(name));
    for path in [&photos, &secret] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("a.jpg"), "a photo").unwrap();
    }
    let [photos, secret] = [&photos, &secret].map(|path| path.to_str().unwrap());
    let camera = setting.sandbox_over(&["run", photos, secret], &["run/other", photos]);
    assert_eq!(inside(&camera, &format!("cat '{photos}/a.jpg'; ls -A '{secret}'")), "a photo");
    let node = setting.sandbox_over(&["run", photos, secret], &["run/own"]);
    assert_eq!(inside(&node, &format!("ls -A '{photos}'; ls -A '{secret}'")), "");
}

#[test]
fn folders_that_cannot_be_walled_in_are_known_before_any_agent_starts() {
    let Some(setting) = setting() else { return };
    let [dir, photos, gone] = ["walls", "photos", "gone"].map(|name| setting.root.join(name));
    let around = |isolation: Isolation, keep: &[PathBuf]| {
        let cover = [photos.clone(), setting.root.join("run")];
        Walls::around(isolation, &programs(), &dir, setting.broker.url(), &cover, keep)
    };
    assert!(around(Isolation::Namespaces, std::slice::from_ref(&photos)).unwrap().hold());
    let keep = [photos.clone(), gone];
    let error = around(Isolation::Namespaces, &keep).unwrap_err().to_string();
    assert!(error.contains("/gone") && error.contains("--isolation none"), "{error}");
    let walls = around(Isolation::Auto, &keep).unwrap();
    let said = walls.to_string();
    assert!(!walls.hold() && said.contains("/gone") && !said.contains("--isolation"), "{said}");
}

#[test]
fn an_agent_reaches_the_broker_and_nothing_else() {
    let Some(setting) = setting() else { return };
    let node = setting.sandbox(&["run/own"]);
    let interfaces = inside(&node, "cat /proc/net/dev | tail -n +3 | cut -d: -f1");
    assert_eq!(interfaces.trim(), "lo");
    let port = setting.broker.url().address().1;
    // A CONNECT of MQTT 3.1.1 with client id "x", answered by a CONNACK of four bytes; and the broker's own port is not there.
    let script = r#"
        import socket
        s = socket.create_connection(("127.0.0.1", 1883), 10)
        s.sendall(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x")
        print(s.recv(4).hex())
        try: socket.create_connection(("127.0.0.1", PORT), 10)
        except ConnectionRefusedError: print("refused")
    "#;
    let script: String = script.lines().map(|line| line.trim_start_matches("        ")).collect::<Vec<_>>().join("\n");
    let script = script.replace("PORT", &port.to_string());
    assert_eq!(inside(&node, &format!("python3 - <<'END'\n{script}\nEND")), "20020000\nrefused");
    assert_eq!(Sandbox::broker_url(setting.broker.url()).address(), ("127.0.0.1", 1883));
}

#[test]
fn a_killed_agent_enters_the_same_sandbox_again_under_its_own_pid() {
    let Some(setting) = setting() else { return };
    let node = setting.sandbox(&["run/own"]);
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let home = namespace(node.pid());
    assert_ne!(home, namespace(std::process::id()));
    for _ in 0..2 {
        let command = node.enter(argv(&["cat"]));
        let mut agent =
            Command::new(&command[0]).args(&command[1..]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while fs::read_to_string(format!("/proc/{}/comm", agent.id())).unwrap().trim() != "cat" {
            assert!(std::time::Instant::now() < until, "the command never became the agent");
            std::thread::yield_now();
        }
        assert_eq!(namespace(agent.id()), home);
        agent.kill().unwrap();
        agent.wait().unwrap();
    }
}

#[test]
fn the_end_of_what_holds_an_agents_namespaces_is_told_with_its_name() {
    let Some(setting) = setting() else { return };
    let mut node = setting.sandbox(&["run/own"]);
    node.check("node-a").unwrap();
    kill_process(Pid::from_raw(node.pid().cast_signed()).unwrap(), Signal::KILL).unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let error = loop {
        match node.check("node-a") {
            Err(error) => break error.to_string(),
            Ok(()) => assert!(std::time::Instant::now() < until, "nobody notices"),
        }
    };
    assert!(error.contains("the sandbox of node-a ended unexpectedly (signal: 9"), "{error}");
}

#[test]
fn namespaces_that_were_demanded_and_not_got_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let broker = "mqtt://127.0.0.1:1".parse().unwrap();
    let deep = dir.path().join("x".repeat(120));
    let error = Walls::new(Isolation::Namespaces, &programs(), &deep, &broker).unwrap_err().to_string();
    assert!(error.contains("too long for a socket") && error.contains("--isolation auto"), "{error}");
    assert!(matches!(Walls::new(Isolation::Auto, &programs(), &deep, &broker).unwrap(), Walls::None(_)));
}
