//! One more node: what the broker's node writes lets it in, and what cannot be used undoes nothing.

mod common;

use common::Machine;

const EXAMPLE: &str = include_str!("../examples/microlambda.toml");

#[test]
fn a_node_joins_with_the_file_that_the_broker_wrote() {
    let hub = Machine::new();
    hub.write_boot("microlambda.toml", "site = \"lab\"\nroles = [\"broker\"]\n");
    hub.start();
    for (role, file) in [("camera", "microlambda-join-camera.toml"), ("edge", "microlambda-join.toml")] {
        let node = Machine::named("node");
        let join = hub.text(&format!("/var/lib/microlambda-join/{role}.toml"));
        node.write_boot(file, &join);
        assert_eq!(node.start().problems, [], "{}", node.problems());
        let config = node.text(&format!("/etc/microlambda/{role}.toml"));
        for part in ["mqtts://microlambda.local:8883", "ca-file = \"/etc/microlambda/site-ca.pem\"", "site = \"lab\""] {
            assert!(config.contains(part), "{part}: {config}");
        }
        assert_eq!(node.text("/etc/microlambda/site-ca.pem"), hub.text("/etc/microlambda/site-ca.pem"));
        let password = node.text(&format!("/etc/credstore/microlambda-{role}-mqtt-password"));
        assert!(join.contains(password.trim()));
        let left = node.boot_text(file);
        assert!(!left.contains(password.trim()) && left.contains("password = \"(applied)\""), "{left}");
        let before = node.everything();
        node.start();
        assert_eq!(node.everything(), before);
    }
}

#[test]
fn a_node_that_is_called_as_its_broker_is_told_to_have_another_name() {
    let hub = Machine::named("hub");
    hub.write_boot("microlambda.toml", "roles = [\"broker\"]\n");
    assert_eq!(hub.start().problems, []);
    let join = hub.text("/var/lib/microlambda-join/edge.toml");
    let node = Machine::named("hub");
    node.write_boot("microlambda-join.toml", &join);
    node.start();
    assert!(node.problems().contains("this device is called hub, as its broker is"), "{}", node.problems());
    node.write_boot("rpi-preseed.toml", "[system]\nhostname = \"attic\"\n");
    assert_eq!(node.start().problems, []);
    // The name that counts is the one it is going to have, and the broker's that it is going to ask.
    node.write_boot("microlambda.toml", "[broker]\naddress = \"Hub.local\"\n");
    node.write_boot("rpi-preseed.toml", "[system]\nhostname = \"hub\"\n");
    node.start();
    assert!(node.problems().contains("this device is called hub, as its broker is"), "{}", node.problems());
    node.write_boot("microlambda.toml", "[broker]\naddress = \"192.168.1.7\"\n");
    assert_eq!(node.start().problems, []);
}

#[test]
fn a_card_as_it_comes_joins_with_nothing_but_the_file_that_the_broker_wrote() {
    let hub = Machine::new();
    hub.write_boot("microlambda.toml", EXAMPLE);
    assert_eq!(hub.start().problems, []);
    let node = Machine::named("node");
    node.write_boot("microlambda.toml", EXAMPLE);
    node.write_boot("microlambda-join.toml", hub.text("/var/lib/microlambda-join/edge.toml"));
    assert_eq!(node.start().problems, [], "{}", node.problems());
    assert!(node.text("/etc/microlambda/edge.toml").contains("mqtts://microlambda.local:8883"));
    assert!(!node.has("/etc/microlambda/camera.toml") && !node.has("/etc/mosquitto/conf.d/microlambda.conf"));
}

#[test]
fn a_card_whose_join_file_cannot_be_used_makes_no_site_of_its_own() {
    let hub = Machine::new();
    hub.write_boot("microlambda.toml", "roles = [\"broker\"]\n");
    hub.start();
    let join = hub.text("/var/lib/microlambda-join/edge.toml");
    let node = Machine::named("node");
    node.write_boot("microlambda.toml", EXAMPLE);
    node.write_boot("microlambda-join.toml", join.replacen("MII", "XXX", 1));
    for _ in 0..2 {
        node.start();
        assert!(node.problems().contains("`ca`: it is damaged"), "{}", node.problems());
        for file in
            ["/etc/mosquitto/conf.d/microlambda.conf", "/etc/microlambda/camera.toml", "/etc/microlambda/edge.toml"]
        {
            assert!(!node.has(file), "{file}");
        }
    }
    node.write_boot("microlambda-join.toml", join);
    assert_eq!(node.start().problems, [], "{}", node.problems());
    assert!(node.has("/etc/microlambda/edge.toml"));
}

#[test]
fn a_card_whose_join_file_is_no_text_makes_no_site_of_its_own() {
    let too_long = vec![b'#'; 300 << 10];
    for unusable in [&b"\xff\xfev"[..], b"na\xefve", &too_long] {
        let node = Machine::named("node");
        node.write_boot("microlambda.toml", EXAMPLE);
        node.write_boot("microlambda-join.toml", unusable);
        node.start();
        assert!(node.problems().contains("microlambda-join.toml: it is not"), "{}", node.problems());
        assert!(!node.has("/etc/mosquitto/conf.d/microlambda.conf") && !node.has("/etc/microlambda/authority"));
    }
}

#[test]
fn a_join_file_under_another_name_is_told_and_its_card_makes_no_site_of_its_own() {
    let hub = Machine::new();
    hub.write_boot("microlambda.toml", "roles = [\"broker\"]\n");
    hub.start();
    let node = Machine::named("node");
    node.write_boot("microlambda.toml", EXAMPLE);
    let wrong = "microlambda-join (1).toml";
    node.write_boot(wrong, hub.text("/var/lib/microlambda-join/edge.toml"));
    node.start();
    let told = node.problems();
    assert!(told.contains("microlambda-join (1).toml: this file is not read: name it microlambda-join.toml"), "{told}");
    assert!(!node.has("/etc/mosquitto/conf.d/microlambda.conf") && !node.has("/etc/microlambda/authority"));
    std::fs::rename(node.boot().join(wrong), node.boot().join("microlambda-join.toml")).unwrap();
    assert_eq!(node.start().problems, [], "{}", node.problems());
    assert!(node.has("/etc/microlambda/edge.toml"));
}

#[test]
fn a_join_file_that_powershell_wrote_is_as_good_as_any() {
    let hub = Machine::new();
    hub.write_boot("microlambda.toml", "roles = [\"broker\"]\n");
    hub.start();
    let join = hub.text("/var/lib/microlambda-join/edge.toml").replace('\n', "\r\n");
    let node = Machine::named("node");
    node.write_boot("microlambda.toml", EXAMPLE);
    let utf16: Vec<u8> = format!("\u{feff}{join}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    node.write_boot("microlambda-join.toml", utf16);
    assert_eq!(node.start().problems, [], "{}", node.problems());
    assert!(node.has("/etc/microlambda/edge.toml") && !node.has("/etc/microlambda/camera.toml"));
    assert!(node.boot_text("microlambda-join.toml").contains("(applied)"));
}

#[test]
fn a_former_broker_joins_the_site_that_another_device_runs_with_its_authority() {
    let (old, new) = (Machine::named("old"), Machine::named("new"));
    old.write_boot("microlambda.toml", "roles = [\"broker\"]\n");
    old.start();
    for file in ["authority.pem", "credentials.json"] {
        let path = format!("/etc/microlambda/authority/{file}");
        new.write_root(path.trim_start_matches('/'), &old.text(&path));
    }
    new.write_boot("microlambda.toml", "roles = [\"broker\"]\n");
    new.start();
    let join = new.text("/var/lib/microlambda-join/edge.toml");
    old.write_boot("microlambda.toml", "roles = [\"edge\"]\n");
    old.write_boot("microlambda-join.toml", join);
    assert_eq!(old.start().problems, [], "{}", old.problems());
    assert!(old.text("/etc/microlambda/edge.toml").contains("mqtts://"));
}

#[test]
fn a_role_that_is_dropped_and_taken_again_takes_the_same_join_file() {
    let hub = Machine::new();
    hub.write_boot("microlambda.toml", "roles = [\"broker\"]\n");
    hub.start();
    let join = hub.text("/var/lib/microlambda-join/edge.toml");
    let node = Machine::named("node");
    node.write_boot("microlambda.toml", "roles = [\"edge\"]\n");
    node.write_boot("microlambda-join.toml", &join);
    assert_eq!(node.start().problems, []);
    let password = node.text("/etc/credstore/microlambda-edge-mqtt-password");
    node.write_boot("microlambda.toml", "roles = [\"camera\"]\n");
    node.start();
    assert!(!node.has("/etc/credstore/microlambda-edge-mqtt-password"));
    node.write_boot("microlambda.toml", "roles = [\"edge\"]\n");
    node.start();
    assert!(node.problems().contains("copy its join file here again"), "{}", node.problems());
    node.write_boot("microlambda-join.toml", &join);
    assert_eq!(node.start().problems, [], "{}", node.problems());
    assert_eq!(node.text("/etc/credstore/microlambda-edge-mqtt-password"), password);
}

#[test]
fn a_join_that_cannot_be_used_is_told_and_leaves_the_former_one() {
    let hub = Machine::new();
    hub.write_boot("microlambda.toml", "roles = [\"broker\"]\n");
    hub.start();
    let join = hub.text("/var/lib/microlambda-join/edge.toml");
    let node = Machine::named("node");
    node.write_boot("microlambda-join.toml", &join);
    node.start();
    let config = node.text("/etc/microlambda/edge.toml");
    let broken_ca = join.replacen("MII", "XXX", 1);
    let viewer = hub.text("/var/lib/microlambda-join/viewer.toml");
    let plain = join.replace("mqtts://", "mqtt://");
    let half = join.split_once("password").unwrap().0.to_owned();
    for (wrong, part) in [
        (broken_ca, "`ca`: it is damaged"),
        (viewer, "not for a node"),
        (plain, "only reached over TLS"),
        (half, "missing (password, ca)"),
        (join.replace("version = 1", "version = 2"), "update this node"),
    ] {
        node.write_boot("microlambda-join.toml", &wrong);
        node.start();
        assert!(node.problems().contains(part), "{part}: {}", node.problems());
        assert_eq!(node.text("/etc/microlambda/edge.toml"), config);
        assert_eq!(node.boot_text("microlambda-join.toml"), wrong, "nothing of it was applied");
    }
    // On the broker's own node it is of no use, and stays; also where no roles are named.
    for text in ["roles = [\"broker\"]\n", EXAMPLE] {
        hub.write_boot("microlambda.toml", text);
        hub.write_boot("microlambda-join.toml", &join);
        hub.start();
        assert!(hub.problems().contains("it runs the broker itself"), "{}", hub.problems());
        assert_eq!(hub.boot_text("microlambda-join.toml"), join);
        assert!(hub.has("/etc/mosquitto/conf.d/microlambda.conf"));
    }
}

/// The join files of camera and edge that a new broker of this site wrote.
fn joins_of(site: &str) -> [String; 2] {
    let hub = Machine::new();
    hub.write_boot("microlambda.toml", format!("site = \"{site}\"\nroles = [\"broker\"]\n"));
    hub.start();
    ["camera", "edge"].map(|role| hub.text(&format!("/var/lib/microlambda-join/{role}.toml")))
}

#[test]
fn a_device_that_changes_role_and_site_is_of_the_new_site_and_forgets_the_former_join() {
    let ([shop, _], [_, lab]) = (joins_of("shop"), joins_of("lab"));
    let node = Machine::named("node");
    node.write_boot("microlambda.toml", "roles = [\"camera\"]\n");
    node.write_boot("microlambda-join.toml", shop);
    assert_eq!(node.start().problems, []);
    assert!(node.text("/etc/microlambda/camera.toml").contains("site = \"shop\""));
    node.write_boot("microlambda.toml", "roles = [\"edge\"]\n");
    node.write_boot("microlambda-join.toml", lab);
    assert_eq!(node.start().problems, [], "{}", node.problems());
    let edge = node.text("/etc/microlambda/edge.toml");
    assert!(edge.contains("site = \"lab\"") && !edge.contains("shop"), "{edge}");
    // With the certificate of the lab's authority no camera gets into the shop.
    node.write_boot("microlambda.toml", "roles = [\"camera\", \"edge\"]\n");
    node.start();
    assert!(node.problems().contains("the camera knows no broker yet"), "{}", node.problems());
    assert!(!node.has("/etc/microlambda/camera.toml"));
}

#[test]
fn a_join_of_another_broker_leaves_a_role_that_works_until_that_role_joins_there_too() {
    let ([camera, _], [other_camera, other_edge]) = (joins_of("home"), joins_of("home"));
    let node = Machine::named("node");
    node.write_boot("microlambda-join-camera.toml", camera);
    assert_eq!(node.start().problems, []);
    let files = [
        "/etc/microlambda/site-ca.pem",
        "/etc/microlambda/camera.toml",
        "/etc/credstore/microlambda-camera-mqtt-password",
    ];
    let before = files.map(|file| node.text(file));
    node.write_boot("microlambda-join-edge.toml", &other_edge);
    for _ in 0..2 {
        node.start();
        assert!(node.problems().contains("of another broker than that of the camera"), "{}", node.problems());
        assert_eq!(files.map(|file| node.text(file)), before);
        assert_eq!(node.boot_text("microlambda-join-edge.toml"), other_edge, "nothing of it was applied");
        assert!(!node.has("/etc/microlambda/edge.toml"));
    }
    node.write_boot("microlambda-join-camera.toml", other_camera);
    assert_eq!(node.start().problems, [], "{}", node.problems());
    assert!(other_edge.contains(&node.text(files[0])) && node.has("/etc/microlambda/edge.toml"));
    for file in ["microlambda-join-camera.toml", "microlambda-join-edge.toml"] {
        assert!(node.boot_text(file).contains("password = \"(applied)\""), "{file}");
    }
}

#[test]
fn joins_of_different_brokers_keep_their_passwords_and_make_no_site() {
    let ([camera, edge], [other, _]) = (joins_of("home"), joins_of("home"));
    // Each in a file of its own, and one as a table of the settings.
    for first in ["microlambda-join-camera.toml", "microlambda.toml"] {
        let node = Machine::named("node");
        node.write_boot("microlambda.toml", EXAMPLE);
        let table = if first == "microlambda.toml" { "[join]\n" } else { "" };
        node.write_boot(first, format!("{table}{other}"));
        node.write_boot("microlambda-join-edge.toml", &edge);
        for _ in 0..2 {
            node.start();
            assert!(node.problems().contains("of different brokers"), "{first}: {}", node.problems());
            assert_eq!(node.boot_text(first), format!("{table}{other}"), "nothing of it was applied");
            assert_eq!(node.boot_text("microlambda-join-edge.toml"), edge, "nothing of it was applied");
            for file in ["authority", "camera.toml", "edge.toml", "site-ca.pem"] {
                assert!(!node.has(&format!("/etc/microlambda/{file}")), "{first}: {file}");
            }
        }
        node.write_boot(first, format!("{table}{camera}"));
        assert_eq!(node.start().problems, [], "{first}: {}", node.problems());
        for file in ["camera.toml", "edge.toml"] {
            assert!(node.has(&format!("/etc/microlambda/{file}")), "{first}: {file}");
        }
        assert!(node.boot_text(first).contains("password = \"(applied)\""), "{first}");
    }
}

#[test]
fn a_join_that_a_broker_does_not_use_is_told_and_leaves_what_was_changed_by_hand() {
    let [_, other] = joins_of("lab");
    let roles = "roles = [\"broker\", \"edge\"]\n";
    for (name, text) in [
        ("microlambda-join.toml", other.clone()),
        // A table in the settings is as good as a file.
        ("microlambda.toml", format!("{roles}[join]\n{other}")),
    ] {
        let hub = Machine::new();
        hub.write_boot("microlambda.toml", roles);
        hub.write_boot(name, &text);
        hub.start();
        let by_hand = "site = \"home\"\n# mine\n";
        hub.write_root("etc/microlambda/edge.toml", by_hand);
        for _ in 0..2 {
            hub.start();
            assert!(hub.problems().contains("it runs the broker itself"), "{name}: {}", hub.problems());
            assert_eq!(hub.text("/etc/microlambda/edge.toml"), by_hand, "{name}");
            assert_eq!(hub.boot_text(name), text);
        }
        hub.write_boot("microlambda.toml", format!("{roles}[edge]\nr-limit-ms = 900\n"));
        hub.start();
        assert!(hub.text("/etc/microlambda/edge.toml").contains("900"), "{name}");
    }
}
