//! Files of the boot partition that cannot be read, are not meant to be, or are written as other systems write them.

mod common;
use std::fs;

use common::Machine;

const EXAMPLE: &str = include_str!("../examples/microlambda.toml");

#[test]
fn files_that_are_no_text_too_long_or_no_files_cost_only_themselves() {
    let machine = Machine::new();
    machine.write_boot("rpi-preseed.toml", b"\xff\xfe[\0s");
    machine.write_boot("microlambda.toml", vec![b'#'; 300 << 10]);
    fs::create_dir(machine.boot().join("microlambda-join.toml")).unwrap();
    machine.start();
    let told = machine.problems();
    for part in [
        "rpi-preseed.toml: it is not UTF-8",
        "microlambda.toml: it is not a file of at most 256 KiB",
        "microlambda-join.toml: it is not a file",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    machine.write_boot("microlambda.toml", "roles = [\"broker\", \"edge\"]\n");
    machine.start();
    assert!(machine.has("/etc/microlambda/edge.toml"));
}

#[test]
fn a_file_that_nobody_reads_is_told_until_it_is_gone() {
    let machine = Machine::new();
    machine.write_boot("microlambda.toml", EXAMPLE);
    machine.write_boot("user-data", "#cloud-config\n");
    machine.write_boot("rpi-preseed.toml.txt", "[system]\nhostname = \"hub\"\n");
    machine.write_boot("cmdline.txt", "root=LABEL=rootA systemd.run=/boot/firmware/firstrun.sh\n");
    fs::create_dir(machine.boot().join("ssh")).unwrap();
    for _ in 0..2 {
        machine.start();
        let told = machine.problems();
        for part in
            ["user-data: this file is not read", "rpi-preseed.toml.txt: this file", "cmdline.txt: `systemd.run=`"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(told.lines().filter(|line| line.starts_with('*')).count(), 3, "{told}");
    }
    assert!(
        machine.has("/etc/mosquitto/conf.d/microlambda.conf"),
        "none of them keeps anything else from being set up"
    );
    for name in ["user-data", "rpi-preseed.toml.txt", "cmdline.txt"] {
        fs::remove_file(machine.boot().join(name)).unwrap();
    }
    assert_eq!(machine.start().problems, []);
    assert_eq!(machine.problems(), "");
}

#[test]
fn files_in_the_encodings_of_windows_are_read_and_their_passwords_taken_out() {
    let text = "[wlan]\nssid = \"Caf\u{e9}\"\npassword = \"open sesame\"\ncountry = \"FR\"\n";
    let utf16 = |bytes_of: fn(u16) -> [u8; 2]| format!("\u{feff}{text}").encode_utf16().flat_map(bytes_of).collect();
    let encodings: [Vec<u8>; 3] = [utf16(u16::to_le_bytes), utf16(u16::to_be_bytes), format!("\u{feff}{text}").into()];
    for bytes in encodings {
        let machine = Machine::new();
        machine.write_boot("rpi-preseed.toml", &bytes);
        machine.write_boot("microlambda.toml", [b"\xff\xfe#".as_slice(), &[0]].concat());
        assert_eq!(machine.start().problems, []);
        let wlan = machine.text("/etc/wpa_supplicant/wpa_supplicant-wlan0.conf");
        assert!(wlan.contains("ssid=436166c3a9\n"), "{wlan}");
        let left = machine.boot_text("rpi-preseed.toml");
        assert_eq!(left.trim_start_matches('\u{feff}'), text.replace("open sesame", "(applied)"));
        let once = machine.everything();
        assert_eq!(machine.start().changed, 0, "each file is known as it is on the card");
        assert_eq!(machine.everything(), once);
    }
}
