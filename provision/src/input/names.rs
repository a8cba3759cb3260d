//! Files that are on the boot partition and are not read, though whoever put them there thinks that they are.

use super::{appliance, join, preseed};

/// Two names that differ by so many letters are taken for a slip.
const SLIP_LETTERS_MAX: usize = 2;
/// Endings of copies that are kept on purpose, and of what editors and this program leave for a moment.
const ENDINGS_OF_COPIES: [&str; 8] = [".example", ".bak", ".old", ".orig", ".swp", ".tmp", ".new", "~"];
/// What sets other systems up: by older versions of Raspberry Pi Imager, by cloud-init, by hand.
const OF_OTHER_SYSTEMS: [&str; 9] = [
    "custom.toml",
    "firstrun.sh",
    "network-config",
    "ssh",
    "ssh.txt",
    "user-data",
    "userconf",
    "userconf.txt",
    "wpa_supplicant.conf",
];
/// The kernel's command line, in which older versions of Raspberry Pi Imager ask for their script.
pub const COMMAND_LINE: &str = "cmdline.txt";

/// One such file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread<'n> {
    /// Its name.
    pub name: &'n str,
    /// What is wrong and what to do.
    pub what: String,
    /// Whether it was to let this node into a site.
    pub is_join: bool,
}

/// Those of `names` that are read by nobody here.
pub fn unread<'n>(names: impl IntoIterator<Item = &'n str>) -> Vec<Unread<'n>> {
    names.into_iter().filter_map(judge).collect()
}

fn judge(name: &str) -> Option<Unread<'_>> {
    // Names of FAT are the same in capitals.
    let lower = name.to_lowercase();
    let is_ours = [preseed::FILE, appliance::FILE].iter().chain(&join::FILES).any(|ours| *ours == lower);
    if is_ours || lower.starts_with('.') || ENDINGS_OF_COPIES.iter().any(|ending| lower.ends_with(ending)) {
        return None;
    }
    let told = |what: String, is_join: bool| Some(Unread { name, what, is_join });
    if OF_OTHER_SYSTEMS.contains(&lower.as_str()) {
        let what = format!(
            "this file is not read: write the card with Raspberry Pi Imager 2.0.11 or newer through MicroLambda's manifest, or write what it says into {}; \
             then remove it, as it may hold a password",
            preseed::FILE
        );
        return told(what, false);
    }
    let letters: String = lower.split('.').next()?.chars().filter(char::is_ascii_alphanumeric).collect();
    let letters = letters.replace("copyof", "").replace("copy", "");
    let is_slip = |of: &str| strsim::levenshtein(&letters, of) <= SLIP_LETTERS_MAX;
    let named =
        |file: &str| format!("this file is not read: name it {file} (some systems hide the last ending), or remove it");
    if letters.contains("microlambdajoin") || is_slip("microlambdajoin") {
        let what = if letters.contains("viewer") {
            "this file is not read: it is for people who watch, and not for a node. Take the join file of camera or edge, and remove this one".into()
        } else {
            named(join::FILES[0])
        };
        return told(what, true);
    }
    if letters.contains("rpipreseed") || is_slip("rpipreseed") {
        return told(named(preseed::FILE), false);
    }
    if is_slip("microlambda") { told(named(appliance::FILE), false) } else { None }
}

/// What is wrong with the kernel's command line, if it asks for a script of another system.
pub fn of_command_line(text: &str) -> Option<&'static str> {
    let asks = text.split_whitespace().any(|word| word.starts_with("systemd.run="));
    asks.then_some(
        "`systemd.run=` asks for a script of Raspberry Pi OS, and nothing else is started: take the words that begin with systemd.run and systemd.unit \
         out of its line. An older Raspberry Pi Imager writes them: use 2.0.11 or newer, through MicroLambda's manifest",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_on_the_partition_is_passed_over() {
        let right = [
            "rpi-preseed.toml",
            "RPI-PRE~1.TOM",
            "microlambda.toml",
            "MICROLAMBDA.TOML",
            "microlambda-join.toml",
            "microlambda-join-camera.toml",
            "microlambda-join-edge.toml",
            "rpi-preseed.toml.example",
            "microlambda-problems.txt",
            "microlambda-data-lost.txt",
            "microlambda-data-repaired.txt",
            "microlambda.toml.bak",
            "rpi-preseed.new",
            "microlambda.toml~",
            ".rpi-preseed.toml.swp",
            "._microlambda-join.toml",
            "FSCK0000.REC",
            "config.txt",
            "cmdline.txt",
            "bootcode.bin",
            "start4.elf",
            "initrd.img",
            "bcm2711-rpi-4-b.dtb",
            "overlays",
            "System Volume Information",
            "",
        ];
        assert_eq!(unread(right), []);
    }

    #[test]
    fn a_name_that_is_nearly_ours_is_told_with_the_right_one() {
        for (name, right, is_join) in [
            ("rpi-preseed.toml.txt", "rpi-preseed.toml", false),
            ("rpi-preseed (1).toml", "rpi-preseed.toml", false),
            ("rpi_preseed.toml", "rpi-preseed.toml", false),
            ("rpi-preseeds.toml", "rpi-preseed.toml", false),
            ("rpi-preseed", "rpi-preseed.toml", false),
            ("microlambda.toml.txt", "microlambda.toml", false),
            ("micro-lambda.toml", "microlambda.toml", false),
            ("microlambda - Copy.toml", "microlambda.toml", false),
            ("microlambda-join (1).toml", "microlambda-join.toml", true),
            ("microlambda-join.toml.txt", "microlambda-join.toml", true),
            ("Microlambda_Join.toml", "microlambda-join.toml", true),
            ("microlambda-join-camera.toml.txt", "microlambda-join.toml", true),
            ("Copy of microlambda-join.toml", "microlambda-join.toml", true),
            ("microlambda-join-viewer.toml", "of camera or edge", true),
        ] {
            let found = unread([name]);
            assert!(
                found.len() == 1 && found[0].what.contains(right) && found[0].is_join == is_join,
                "{name}: {found:?}"
            );
        }
    }

    #[test]
    fn what_sets_other_systems_up_is_told() {
        for name in OF_OTHER_SYSTEMS.into_iter().chain(["User-Data", "SSH"]) {
            let found = unread([name]);
            assert!(
                found.len() == 1 && found[0].what.contains("Imager 2.0.11 or newer") && !found[0].is_join,
                "{name}"
            );
        }
        let line = "console=tty1 root=PARTUUID=1 systemd.run=/boot/firstrun.sh systemd.run_success_action=reboot\n";
        assert!(of_command_line(line).is_some_and(|what| what.contains("systemd.unit")));
        assert_eq!(of_command_line("console=tty1 root=LABEL=rootA ro rootwait\n"), None);
    }
}
