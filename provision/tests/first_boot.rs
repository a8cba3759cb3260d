//! A device from its first start on: what its files ask for is there, once, and what is wrong undoes nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;
use std::fs;
use std::path::Path;

use camera_agent::config::SourceConfig;
use camera_agent::source::command::CommandLine;
use common::{KEY, Machine, is_root};

const EXAMPLE: &str = include_str!("../examples/microlambda.toml");
/// What the agents' packages install, and put in the place of a configuration that is not there.
const CAMERA_EXAMPLE: &str = include_str!("../../camera-agent/camera.toml");
const EDGE_EXAMPLE: &str = include_str!("../../edge-agent/edge.example.toml");

fn preseed() -> String {
    format!(
        "[system]\nhostname = \"hub\"\n[user]\nname = \"ann\"\npassword = \"correct horse\"\n[ssh]\nauthorized_keys = [\"{KEY}\"]\n\
         [wlan]\nssid = \"Home\"\npassword = \"open sesame\"\ncountry = \"GB\"\n[locale]\nkeymap = \"gb\"\ntimezone = \"Europe/London\"\n\
         lang = \"C.UTF-8\"\n[time]\nntp = [\"time.example\"]\n"
    )
}

/// A preseed without what needs tools that only root may use.
fn preseed_without_user() -> String {
    let text = preseed();
    let (before, rest) = text.split_once("[user]").unwrap();
    let (_, after) = rest.split_once("[wlan]").unwrap();
    format!("{before}[wlan]{after}")
}

#[test]
fn a_whole_first_start_sets_everything_up() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", EXAMPLE);
    machine.write_boot("rpi-preseed.toml", preseed_without_user());
    let report = machine.start();
    assert_eq!(report.problems, [], "{}", machine.problems());
    assert_eq!(machine.text("/etc/hostname"), "hub\n");
    assert!(machine.text("/etc/hosts").contains("127.0.1.1\thub.local hub\n"));
    assert!(machine.text("/etc/default/keyboard").contains("XKBLAYOUT=\"gb\""));
    assert_eq!(
        fs::read_link(machine.root().join("etc/localtime")).unwrap(),
        Path::new("/usr/share/zoneinfo/Europe/London")
    );
    assert!(machine.text("/etc/systemd/timesyncd.conf.d/microlambda.conf").contains("NTP=time.example"));
    assert!(machine.text("/etc/ssh/sshd_config.d/10-microlambda.conf").contains("PasswordAuthentication no"));
    let wlan = machine.text("/etc/wpa_supplicant/wpa_supplicant-wlan0.conf");
    assert!(
        wlan.contains("ssid=486f6d65\n") && wlan.contains("country=GB\n") && !wlan.contains("open sesame"),
        "{wlan}"
    );
    for (path, mode) in [
        ("/etc/wpa_supplicant/wpa_supplicant-wlan0.conf", 0o600),
        ("/etc/microlambda/camera.toml", 0o640),
        ("/etc/microlambda/edge.toml", 0o644),
        ("/etc/microlambda/site-ca.pem", 0o644),
        ("/etc/microlambda/authority", 0o700),
        ("/etc/microlambda/authority/authority.pem", 0o600),
        ("/etc/microlambda/authority/credentials.json", 0o600),
        ("/etc/credstore", 0o700),
        ("/etc/credstore/microlambda-camera-mqtt-password", 0o600),
        ("/etc/credstore/microlambda-edge-mqtt-password", 0o600),
        ("/etc/mosquitto/microlambda-broker.pem", 0o600),
        ("/etc/mosquitto/microlambda.passwords", 0o600),
        ("/etc/mosquitto/microlambda.acl", 0o600),
        ("/etc/mosquitto/conf.d/microlambda.conf", 0o644),
        ("/etc/systemd/dnssd/microlambda.dnssd", 0o644),
        ("/var/lib/microlambda-join", 0o700),
        ("/var/lib/microlambda-join/camera.toml", 0o600),
        ("/var/lib/microlambda-join/viewer.toml", 0o600),
        ("/var/lib/microlambda-provision/state.json", 0o600),
    ] {
        assert_eq!(machine.mode(path), mode, "{path}");
    }
    assert!(!machine.has("/var/lib/microlambda-provision/work"), "no plain passwords are left");
}

#[test]
fn the_agents_take_what_is_written_for_them() {
    let machine = Machine::new();
    machine.write_boot(
        "microlambda.toml",
        "site = \"lab\"\n[camera]\nname = \"door\"\nimage-interval-s = 3\n[camera.source]\nkind = \"command\"\ncommand = [\"cat\", \"-\"]\n\
         finite = true\nsilence-s = 0\n[edge]\nname = \"node-1\"\nr-limit-ms = 700\nworker-memory-mb = 300\n[retention]\nspool-mb = 32\nspool-frames = 100\n\
         restart-after-s = 60\n",
    );
    assert_eq!(machine.start().problems, []);
    let camera = machine.text("/etc/microlambda/camera.toml");
    let camera = camera_agent::config::Config::parse(&camera, Path::new("camera.toml")).unwrap();
    assert_eq!((camera.site.as_str(), camera.camera.as_str()), ("lab", "door"));
    assert_eq!((camera.spool.bytes_max, camera.spool.frames_max), (32 << 20, 100));
    assert_eq!((camera.restart_after_s, camera.image_interval_s), (60, 3));
    let argv = ["cat", "-"].map(str::to_owned).to_vec();
    assert_eq!(camera.source, SourceConfig::Command(CommandLine { argv, finite: true, silence_s: 0 }));
    assert_eq!(camera.broker.url.unwrap().to_string(), "mqtt://127.0.0.1:1883");
    assert_eq!(camera.broker.username.as_deref(), Some("camera"));
    let edge = edge_agent::config::Config::load(&machine.root().join("etc/microlambda/edge.toml")).unwrap();
    assert_eq!((edge.site.as_str(), edge.node.unwrap().as_str()), ("lab", "node-1"));
    assert_eq!((edge.chain.r_limit_ms, edge.worker_memory_mb), (700, 300));
    assert_eq!(edge.broker.username.as_deref(), Some("edge"));
}

#[test]
fn a_second_start_changes_nothing() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", EXAMPLE);
    machine.write_boot("rpi-preseed.toml", preseed_without_user());
    machine.start();
    let once = machine.everything();
    let report = machine.start();
    assert_eq!(report.changed, 0, "{report}");
    assert_eq!(machine.everything(), once);
}

#[test]
fn what_was_applied_once_is_not_applied_again_over_what_was_changed_by_hand() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", EXAMPLE);
    machine.start();
    let by_hand = "site = \"home\"\n# mine\n";
    machine.write_root("etc/microlambda/edge.toml", by_hand);
    machine.start();
    assert_eq!(machine.text("/etc/microlambda/edge.toml"), by_hand);
    machine.write_boot("microlambda.toml", format!("{EXAMPLE}\n# changed\n"));
    machine.start();
    assert!(machine.text("/etc/microlambda/edge.toml").contains("127.0.0.1:1883"));
}

#[test]
fn secrets_are_taken_out_and_left_where_their_part_is_wrong() {
    let machine = Machine::new();
    machine.write_boot("rpi-preseed.toml", preseed_without_user());
    machine.start();
    let wanted = preseed_without_user().replace("\"open sesame\"", "\"(applied)\"");
    assert_eq!(machine.boot_text("rpi-preseed.toml"), wanted);
    // A wrong one is needed once it is mended.
    let wrong = preseed_without_user().replace("\"Home\"", "\"\"");
    machine.write_boot("rpi-preseed.toml", &wrong);
    machine.start();
    assert_eq!(machine.boot_text("rpi-preseed.toml"), wrong);
    assert!(machine.problems().contains("rpi-preseed.toml, line 4: `wlan.ssid`"), "{}", machine.problems());
    assert!(machine.text("/etc/wpa_supplicant/wpa_supplicant-wlan0.conf").contains("ssid=486f6d65\n"), "as it was");
}

#[test]
fn a_file_whose_secrets_were_taken_out_can_be_changed() {
    let machine = Machine::new();
    machine.write_boot("rpi-preseed.toml", preseed_without_user());
    machine.start();
    let before = machine.text("/etc/wpa_supplicant/wpa_supplicant-wlan0.conf");
    let changed = machine.boot_text("rpi-preseed.toml").replace("\"hub\"", "\"door\"").replace("\"GB\"", "\"FR\"");
    machine.write_boot("rpi-preseed.toml", &changed);
    assert_eq!(machine.start().problems, []);
    assert_eq!(machine.text("/etc/hostname"), "door\n");
    assert_eq!(
        machine.text("/etc/wpa_supplicant/wpa_supplicant-wlan0.conf"),
        before.replace("country=GB", "country=FR")
    );
    // The key of another network cannot be computed from it.
    machine.write_boot("rpi-preseed.toml", changed.replace("\"Home\"", "\"Office\""));
    machine.start();
    assert!(machine.problems().contains("belongs to another network"), "{}", machine.problems());
    assert!(machine.text("/etc/wpa_supplicant/wpa_supplicant-wlan0.conf").contains("ssid=486f6d65\n"));
}

#[test]
fn a_file_that_is_put_back_with_its_passwords_is_applied_again_and_they_are_taken_out_again() {
    let machine = Machine::new();
    machine.write_boot("rpi-preseed.toml", preseed_without_user());
    machine.start();
    let wlan = "/etc/wpa_supplicant/wpa_supplicant-wlan0.conf";
    let (left, before) = (machine.boot_text("rpi-preseed.toml"), machine.text(wlan));
    fs::remove_file(machine.root().join(&wlan[1..])).unwrap();
    machine.write_boot("rpi-preseed.toml", preseed_without_user());
    machine.start();
    assert_eq!((machine.boot_text("rpi-preseed.toml"), machine.text(wlan)), (left, before));
}

#[test]
fn a_start_without_the_data_partition_leaves_passwords_on_the_card() {
    let machine = Machine::new();
    machine.write_boot("rpi-preseed.toml", preseed_without_user());
    machine.write_root("run/microlambda/data-lost", "there is no data partition\n");
    machine.start();
    assert_eq!(machine.boot_text("rpi-preseed.toml"), preseed_without_user());
    assert!(machine.has("/etc/wpa_supplicant/wpa_supplicant-wlan0.conf"), "it holds for this start");
    fs::remove_file(machine.root().join("run/microlambda/data-lost")).unwrap();
    machine.start();
    assert!(!machine.boot_text("rpi-preseed.toml").contains("open sesame"));
}

#[test]
fn a_mistake_is_told_in_plain_words_and_the_note_goes_away_when_it_is_mended() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", "site = \"lab\"\nroles = [\"broker\", \"edge\"]\n");
    machine.start();
    let edge = machine.text("/etc/microlambda/edge.toml");
    machine.write_boot(
        "microlambda.toml",
        "site = \"My Lab\"\nroles = [\"broker\", \"edge\"]\nrolls = 3\n[edge]\nr-limit-ms = 900\n",
    );
    machine.start();
    let told = machine.problems();
    assert!(told.contains("microlambda.toml, line 1: `site`: \"My Lab\" is not a name"), "{told}");
    assert!(told.contains("microlambda.toml, line 3: `rolls` is not known: did you mean `roles`?"), "{told}");
    let now = machine.text("/etc/microlambda/edge.toml");
    assert!(now.contains("site = \"lab\"") && now.contains("r-limit-ms = 900") && now != edge, "{now}");
    machine.start();
    assert_eq!(machine.problems(), told, "it stays until the file changes");
    machine.write_boot("microlambda.toml", "site = \"lab2\"\nroles = [\"broker\", \"edge\"]\n");
    machine.start();
    assert_eq!(machine.problems(), "");
    assert!(!machine.has("/var/lib/microlambda-provision/problems.txt"));
}

#[test]
fn whatever_a_file_says_ssh_is_on() {
    for text in
        ["[ssh]\nenabled = false\n[", "[ssh]\nenabled = false\nnonsense = 1\n", "\u{0}", "[ssh]\nenabled = \"no\"\n"]
    {
        let machine = Machine::new();
        machine.write_boot("rpi-preseed.toml", text);
        machine.start();
        assert!(
            machine.has("/etc/ssh/sshd_config.d/10-microlambda.conf") && !machine.has("/etc/microlambda/ssh-off"),
            "{text:?}"
        );
        assert!(machine.problems().contains("rpi-preseed.toml"), "{text:?}: {}", machine.problems());
    }
    let machine = Machine::new();
    machine.write_boot("rpi-preseed.toml", "[ssh]\nenabled = false\n");
    machine.start();
    assert!(machine.has("/etc/microlambda/ssh-off"), "a sound file may switch it off");
    machine.write_boot("rpi-preseed.toml", "[ssh]\nenabled = true\npassword_authentication = true\n");
    machine.start();
    assert!(!machine.has("/etc/microlambda/ssh-off"));
    assert!(machine.text("/etc/ssh/sshd_config.d/10-microlambda.conf").contains("PasswordAuthentication yes"));
}

#[test]
fn a_host_key_without_content_is_made_again() {
    let machine = Machine::new();
    let key = "/etc/ssh/ssh_host_ed25519_key";
    assert!(!machine.start_with(true).to_string().contains("ssh-keygen"), "a whole one stays");
    // What a loss of power leaves of a file that was never synced; the other key is whole.
    machine.write_root("etc/ssh/ssh_host_rsa_key", "a key\n");
    machine.write_root(key.trim_start_matches('/'), "");
    assert!(machine.start_with(true).to_string().contains("run ssh-keygen -A"));
    machine.start();
    // On a computer without the tool its absence is what is told.
    if !machine.problems().contains("there is no program ssh-keygen") {
        assert!(machine.text(key).contains("PRIVATE KEY"), "{}", machine.problems());
        assert!(!machine.start_with(true).to_string().contains("ssh-keygen"));
    }
    assert_eq!(machine.text("/etc/ssh/ssh_host_rsa_key"), "a key\n");
    fs::remove_dir_all(machine.root().join("etc/ssh")).unwrap();
    assert!(machine.start_with(true).to_string().contains("run ssh-keygen -A"), "none is there");
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", EXAMPLE);
    machine.write_boot("rpi-preseed.toml", preseed());
    let before = machine.everything();
    let text = machine.start_with(true).to_string();
    assert_eq!(machine.everything(), before);
    for part in [
        "write /etc/hostname",
        "run useradd",
        "run chpasswd",
        "write /etc/microlambda/camera.toml",
        "hash the site's passwords",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for secret in ["correct horse", "open sesame"] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// Accounts are made by the system's own tools, which take another root only from root. For anybody else their refusal is what happens.
#[test]
fn a_user_gets_in_with_key_and_password_and_a_tool_that_fails_is_told_and_tried_again() {
    let machine = Machine::new();
    machine.write_boot("rpi-preseed.toml", preseed());
    let report = machine.start();
    if !is_root() {
        assert!(machine.problems().contains("the user could not be set up, and is tried again"), "{report}");
        assert_eq!(machine.boot_text("rpi-preseed.toml"), preseed(), "the next try needs the passwords");
        return;
    }
    assert_eq!(report.problems, [], "{}", machine.problems());
    assert!(machine.text("/etc/passwd").contains("ann:x:1000:1000:"));
    assert!(machine.text("/etc/group").contains("sudo:x:27:ann\n"));
    assert!(machine.text("/etc/shadow").contains("ann:$y$"), "{}", machine.text("/etc/shadow"));
    assert_eq!(machine.text("/etc/ssh/authorized_keys.d/ann"), format!("{KEY}\n"));
    assert!(machine.text("/etc/ssh/sshd_config.d/10-microlambda.conf").contains("/etc/ssh/authorized_keys.d/%u"));
    let left = machine.boot_text("rpi-preseed.toml");
    assert!(!left.contains("correct horse") && left.contains("password = \"(applied)\""), "{left}");
    let shadow = machine.text("/etc/shadow");
    // The file is changed with its secrets taken out: the password stays.
    machine.write_boot("rpi-preseed.toml", left.replace("[ssh]", "passwordless_sudo = true\n[ssh]"));
    assert_eq!(machine.start().problems, []);
    assert_eq!(machine.text("/etc/shadow"), shadow);
    assert_eq!(machine.mode("/etc/sudoers.d/010-microlambda-ann"), 0o440);
    // The name of a user of the system is not for people.
    machine.write_boot("rpi-preseed.toml", preseed().replace("\"ann\"", "\"mosquitto\""));
    machine.start();
    assert!(machine.problems().contains("mosquitto is a user of the system itself"), "{}", machine.problems());
    assert!(machine.boot_text("rpi-preseed.toml").contains("correct horse"), "it was not applied");
}

#[test]
fn a_network_camera_keeps_its_password_out_of_the_boot_partition() {
    let machine = Machine::new();
    let text = "roles = [\"camera\", \"broker\"]\n[camera.source]\nkind = \"command\"\ncommand = [\"ffmpeg\", \"rtsp://me:pass123@cam/x\"]\n";
    machine.write_boot("microlambda.toml", text);
    assert_eq!(machine.start().problems, []);
    let left = machine.boot_text("microlambda.toml");
    assert_eq!(left, text.replace("pass123", "(applied)"));
    assert!(machine.text("/etc/microlambda/camera.toml").contains("rtsp://me:pass123@cam/x"));
    machine.write_boot("microlambda.toml", format!("site = \"lab\"\n{left}"));
    assert_eq!(machine.start().problems, []);
    let camera = machine.text("/etc/microlambda/camera.toml");
    assert!(camera.contains("rtsp://me:pass123@cam/x") && camera.contains("site = \"lab\""), "{camera}");
}

#[test]
fn a_wrong_source_opens_no_other_camera() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", "[camera.source]\nkind = \"folder\"\npath = \"photos\"\n");
    machine.start();
    assert!(!machine.has("/etc/microlambda/camera.toml") && machine.has("/etc/microlambda/edge.toml"));
    assert!(machine.problems().contains("`camera.source.path`"), "{}", machine.problems());
    machine.write_boot("microlambda.toml", "[camera.source]\nkind = \"folder\"\npath = \"/srv/photos\"\n");
    machine.start();
    assert!(machine.text("/etc/microlambda/camera.toml").contains("/srv/photos"));
}

#[test]
fn a_device_runs_on_no_example_of_a_package_and_what_a_person_wrote_stays() {
    let with_files = |camera: &str, edge: &str| {
        let machine = Machine::new();
        machine.write_root("usr/share/microlambda/camera.example.toml", CAMERA_EXAMPLE);
        machine.write_root("usr/share/microlambda/edge.example.toml", EDGE_EXAMPLE);
        machine.write_root("etc/microlambda/camera.toml", camera);
        machine.write_root("etc/microlambda/edge.toml", edge);
        machine
    };
    // Neither a role without a join nor a camera without a source that is right has a file of its own.
    for (text, has_edge) in
        [("roles = [\"camera\", \"edge\"]\n", false), ("[camera.source]\nkind = \"folder\"\npath = \"photos\"\n", true)]
    {
        let machine = with_files(CAMERA_EXAMPLE, EDGE_EXAMPLE);
        machine.write_boot("microlambda.toml", text);
        machine.start();
        assert!(!machine.has("/etc/microlambda/camera.toml"), "{text}");
        assert_eq!(machine.has("/etc/microlambda/edge.toml"), has_edge, "{text}");
        assert!(!has_edge || machine.text("/etc/microlambda/edge.toml").contains("127.0.0.1:1883"), "{text}");
        // As if the agents were installed later.
        machine.write_root("etc/microlambda/camera.toml", CAMERA_EXAMPLE);
        machine.start();
        assert!(!machine.has("/etc/microlambda/camera.toml"), "{text}");
    }
    let by_hand = "# mine\n";
    let machine = with_files(by_hand, by_hand);
    machine.write_boot("microlambda.toml", "roles = [\"camera\", \"edge\"]\n");
    machine.start();
    assert_eq!(machine.text("/etc/microlambda/camera.toml"), by_hand);
    assert_eq!(machine.text("/etc/microlambda/edge.toml"), by_hand);
}

#[test]
fn a_role_that_is_dropped_is_gone_and_the_authority_stays() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", EXAMPLE);
    machine.start();
    let authority = machine.text("/etc/microlambda/authority/authority.pem");
    machine.write_boot("microlambda.toml", "roles = [\"broker\"]\n");
    machine.start();
    for gone in [
        "/etc/microlambda/camera.toml",
        "/etc/microlambda/edge.toml",
        "/etc/credstore/microlambda-camera-mqtt-password",
    ] {
        assert!(!machine.has(gone), "{gone}");
    }
    machine.write_boot("microlambda.toml", "roles = [\"edge\"]\n");
    machine.start();
    assert!(
        !machine.has("/etc/mosquitto/conf.d/microlambda.conf") && !machine.has("/etc/systemd/dnssd/microlambda.dnssd")
    );
    assert!(machine.problems().contains("the edge knows no broker yet"), "{}", machine.problems());
    assert_eq!(machine.text("/etc/microlambda/authority/authority.pem"), authority);
}

#[test]
fn the_brokers_certificate_is_made_anew_for_a_new_name_and_near_its_end_and_the_authority_never() {
    let mut machine = Machine::new();
    machine.now_unix_s = 3;
    machine.write_boot("microlambda.toml", EXAMPLE);
    machine.start();
    let (authority, first) =
        (machine.text("/etc/microlambda/site-ca.pem"), machine.text("/etc/mosquitto/microlambda-broker.pem"));
    machine.now_unix_s = common::NOW;
    machine.start();
    assert_eq!(machine.text("/etc/mosquitto/microlambda-broker.pem"), first);
    machine.write_boot("rpi-preseed.toml", "[system]\nhostname = \"hub\"\n");
    machine.start();
    let second = machine.text("/etc/mosquitto/microlambda-broker.pem");
    assert_ne!(second, first);
    assert!(machine.text("/var/lib/microlambda-join/edge.toml").contains("mqtts://hub.local:8883"));
    machine.now_unix_s += 400_000_000;
    machine.start();
    let third = machine.text("/etc/mosquitto/microlambda-broker.pem");
    assert_ne!(third, second);
    machine.start();
    assert_eq!(machine.text("/etc/mosquitto/microlambda-broker.pem"), third);
    assert_eq!(machine.text("/etc/microlambda/site-ca.pem"), authority);
}

#[test]
fn an_authority_that_was_removed_is_made_anew_and_one_that_was_brought_back_needs_no_new_join() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", EXAMPLE);
    machine.start();
    let folder = machine.root().join("etc/microlambda/authority");
    let files =
        ["authority.pem", "credentials.json"].map(|name| (name, fs::read_to_string(folder.join(name)).unwrap()));
    let first = machine.text("/var/lib/microlambda-join/edge.toml");
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(machine.start().problems, []);
    let second = machine.text("/var/lib/microlambda-join/edge.toml");
    let password = |join: &str| join.parse::<toml::Table>().unwrap()["password"].as_str().unwrap().to_owned();
    assert_ne!(password(&first), password(&second));
    assert_ne!(machine.text("/etc/microlambda/site-ca.pem").len(), 0);
    assert_eq!(machine.text("/etc/credstore/microlambda-edge-mqtt-password"), format!("{}\n", password(&second)));
    let other = Machine::new();
    for (name, text) in files {
        other.write_root(&format!("etc/microlambda/authority/{name}"), &text);
    }
    other.write_boot("microlambda.toml", EXAMPLE);
    assert_eq!(other.start().problems, []);
    assert_eq!(other.text("/var/lib/microlambda-join/edge.toml"), first);
}

#[test]
fn a_damaged_authority_is_told_and_not_replaced() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", EXAMPLE);
    machine.start();
    machine.write_root("etc/microlambda/authority/authority.pem", "");
    machine.start();
    assert!(machine.problems().contains("authority.pem is damaged"), "{}", machine.problems());
    assert_eq!(machine.text("/etc/microlambda/authority/authority.pem"), "");
    assert!(machine.has("/etc/mosquitto/conf.d/microlambda.conf"), "the broker goes on with what it has");
}

#[test]
fn a_memory_that_is_lost_or_damaged_is_begun_anew() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", EXAMPLE);
    machine.start();
    let authority = machine.text("/etc/microlambda/site-ca.pem");
    machine.write_root("var/lib/microlambda-provision/state.json", "{");
    machine.start();
    assert!(machine.problems().contains("what was remembered cannot be read"), "{}", machine.problems());
    assert_eq!(machine.start().problems, []);
    assert_eq!(machine.text("/etc/microlambda/site-ca.pem"), authority);
}

#[test]
fn no_file_but_those_of_root_alone_holds_a_password_in_the_clear() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", EXAMPLE);
    machine.start();
    let credentials: std::collections::BTreeMap<String, String> =
        serde_json::from_str(&machine.text("/etc/microlambda/authority/credentials.json")).unwrap();
    assert_eq!(credentials.len(), 3);
    let mut holders = 0;
    for (path, (mode, content)) in machine.everything() {
        let holds = credentials
            .values()
            .any(|password| content.windows(password.len()).any(|window| window == password.as_bytes()));
        holders += usize::from(holds);
        assert!(!holds || mode & 0o077 == 0, "{}", path.display());
        assert!(!holds || !path.ends_with("microlambda.passwords"), "mosquitto's file holds hashes");
    }
    assert_eq!(holders, 6, "the credentials, three join files and two agents' passwords");
}
