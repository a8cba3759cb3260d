//! What is wrong at one start and mended at a later one, by its owner or by itself.

mod common;

use std::fs;

use common::Machine;

const EXAMPLE: &str = include_str!("../examples/microlambda.toml");
const BROKER: &str = "/etc/mosquitto/conf.d/microlambda.conf";

#[test]
fn roles_that_cannot_be_read_found_no_site_and_open_no_camera() {
    for wrong in ["roles = [\"egde\"]\n", "roles = \"edge\"\n", "roles = edge\n", "site = \"lab\nnode = \"x\"\n"] {
        let machine = Machine::new();
        machine.write_boot("microlambda.toml", wrong);
        for _ in 0..2 {
            machine.start();
            let told = machine.problems();
            assert!(told.contains("microlambda.toml, line") && told.contains("it has no role until"), "{told}");
            for file in
                [BROKER, "/etc/microlambda/authority", "/etc/microlambda/camera.toml", "/etc/microlambda/edge.toml"]
            {
                assert!(!machine.has(file), "{wrong}: {file}");
            }
        }
        machine.write_boot("microlambda.toml", "roles = [\"broker\", \"edge\"]\n");
        assert_eq!(machine.start().problems, [], "{wrong}");
        assert!(machine.has(BROKER) && machine.has("/etc/microlambda/edge.toml"), "{wrong}");
        assert!(!machine.has("/etc/microlambda/camera.toml"), "{wrong}");
    }
}

#[test]
fn roles_that_cannot_be_read_leave_those_that_held() {
    let hub = Machine::new();
    hub.write_boot("microlambda.toml", EXAMPLE);
    hub.start();
    let join = hub.text("/var/lib/microlambda-join/edge.toml");
    hub.write_boot("microlambda.toml", "roles = [\"egde\"]\n");
    hub.start();
    assert!(hub.has(BROKER) && hub.has("/etc/microlambda/camera.toml") && hub.has("/etc/microlambda/edge.toml"));
    // Those of a join are held, too.
    let node = Machine::named("node");
    node.write_boot("microlambda-join.toml", join);
    assert_eq!(node.start().problems, []);
    node.write_boot("microlambda.toml", "roles = [\"egde\"]\n");
    node.start();
    assert!(node.problems().contains("`roles`") && !node.problems().contains("no role until"), "{}", node.problems());
    assert!(node.has("/etc/microlambda/edge.toml") && !node.has(BROKER));
}

#[test]
fn going_back_to_the_former_file_is_noticed() {
    let machine = Machine::new();
    let former = "site = \"lab\"\nroles = [\"broker\", \"edge\"]\n";
    machine.write_boot("microlambda.toml", former);
    assert_eq!(machine.start().problems, []);
    // The edge node's file cannot be written; what else the new file asks for is done.
    let in_the_way = machine.root().join("etc/microlambda/.edge.toml.new");
    fs::create_dir(&in_the_way).unwrap();
    machine.write_boot("microlambda.toml", former.replace("lab", "attic"));
    machine.start();
    assert!(machine.problems().contains("the edge node could not be set up"), "{}", machine.problems());
    let join = "/var/lib/microlambda-join/edge.toml";
    assert!(machine.text(join).contains("site = \"attic\""));
    fs::remove_dir(&in_the_way).unwrap();
    machine.write_boot("microlambda.toml", former);
    assert_eq!(machine.start().problems, [], "{}", machine.problems());
    assert!(machine.text(join).contains("site = \"lab\""));
    assert!(machine.text("/etc/microlambda/edge.toml").contains("site = \"lab\""));
}

#[test]
fn the_note_of_a_file_that_is_no_text_goes_away_with_the_former_file() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", EXAMPLE);
    assert_eq!(machine.start().problems, []);
    machine.write_boot("microlambda.toml", b"\xff\xfev");
    machine.start();
    assert!(machine.problems().contains("microlambda.toml: it is not UTF-8"), "{}", machine.problems());
    machine.write_boot("microlambda.toml", EXAMPLE);
    assert_eq!(machine.start().problems, []);
}

#[test]
fn passwords_that_could_not_be_taken_out_are_at_a_later_start_and_nothing_is_applied_again() {
    let machine = Machine::new();
    let text =
        "[system]\nhostname = \"no good\"\n[wlan]\nssid = \"Home\"\npassword = \"open sesame\"\ncountry = \"GB\"\n";
    machine.write_boot("rpi-preseed.toml", text);
    // As on a full partition: the new file cannot be written beside the former one.
    let in_the_way = machine.boot().join("rpi-preseed.new");
    fs::create_dir(&in_the_way).unwrap();
    for _ in 0..2 {
        machine.start();
        let told = machine.problems();
        for part in [
            "the passwords in rpi-preseed.toml were applied",
            "make room on the boot partition",
            "line 2: `system.hostname`",
        ] {
            assert_eq!(told.matches(part).count(), 1, "{part}: {told}");
        }
        assert_eq!(machine.boot_text("rpi-preseed.toml"), text);
    }
    let memory = machine.text("/var/lib/microlambda-provision/state.json");
    assert!(!memory.contains("open sesame"), "{memory}");
    let wlan = "etc/wpa_supplicant/wpa_supplicant-wlan0.conf";
    machine.write_root(wlan, "# mine\n");
    fs::remove_dir(&in_the_way).unwrap();
    for _ in 0..2 {
        assert_eq!(machine.start().changed, 0);
        assert_eq!(machine.boot_text("rpi-preseed.toml"), text.replace("open sesame", "(applied)"));
        assert_eq!(machine.text(wlan), "# mine\n");
        let told = machine.problems();
        assert!(told.contains("`system.hostname`") && !told.contains("the passwords in"), "{told}");
    }
}
