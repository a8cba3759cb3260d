//! The wireless network follows from the file: what a mistake or a password that was taken out leaves open stays as it was.

mod common;

use common::Machine;

const FILE: &str = "rpi-preseed.toml";
const SETTINGS: &str = "/etc/wpa_supplicant/wpa_supplicant-wlan0.conf";

/// A machine with this network, and the file as it is left there.
fn with_network(kind: &str) -> (Machine, String) {
    let machine = Machine::new();
    let text = format!("[wlan]\nssid = \"Home\"\n{kind}password = \"open sesame\"\nhidden = true\ncountry = \"GB\"\n");
    machine.write_boot(FILE, text);
    assert_eq!(machine.start().problems, []);
    let left = machine.boot_text(FILE);
    assert!(left.contains("(applied)"), "{left}");
    (machine, left)
}

#[test]
fn a_wrong_value_leaves_what_was_right_before() {
    let (machine, left) = with_network("");
    let before = machine.text(SETTINGS);
    assert!(before.contains("scan_ssid=1\n") && before.contains("country=GB\n"), "{before}");
    for password in ["(applied)", "open sesame"] {
        for (right, wrong) in [("\"GB\"", "\"Great Britain\""), ("hidden = true", "hidden = \"yes\"")] {
            machine.write_boot(FILE, left.replace(right, wrong).replace("(applied)", password));
            machine.start();
            assert_eq!(machine.text(SETTINGS), before, "{wrong}");
            let told = machine.problems();
            assert!(told.contains("`wlan.") && !told.contains("is missing"), "{wrong}: {told}");
            assert!(!machine.boot_text(FILE).contains("open sesame"), "it was applied before");
        }
    }
    // Another network has nothing of before.
    let other = left.replace("\"Home\"", "\"Office\"").replace("(applied)", "open sesame").replace("\"GB\"", "3");
    machine.write_boot(FILE, other);
    machine.start();
    let now = machine.text(SETTINGS);
    assert!(now.contains("ssid=4f6666696365\n") && !now.contains("country"), "{now}");
}

#[test]
fn a_password_that_was_taken_out_opens_no_network_of_another_kind() {
    let (psk, sae) = ("key_mgmt = \"wpa-psk\"\n", "key_mgmt = \"sae\"\n");
    for (before, now, is_told) in
        [("", sae, true), (psk, sae, true), (sae, psk, true), (sae, "", true), ("", psk, false), (psk, "", false)]
    {
        let (machine, left) = with_network(before);
        let settings = machine.text(SETTINGS);
        let (head, tail) = left.split_once(before).filter(|_| !before.is_empty()).unwrap_or(("[wlan]\n", &left[7..]));
        machine.write_boot(FILE, format!("{head}{now}{tail}"));
        machine.start();
        let told = machine.problems();
        assert_eq!(told.contains("with another `key_mgmt`: write the password again"), is_told, "{now}: {told}");
        assert_eq!(machine.text(SETTINGS), settings, "{now}");
        machine.write_boot(FILE, format!("{head}{now}{tail}").replace("(applied)", "open sesame"));
        assert_eq!(machine.start().problems, []);
        assert_eq!(machine.text(SETTINGS) == settings, !is_told, "written again, it is taken");
    }
}
