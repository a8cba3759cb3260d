//! The image's start on its data partition, as the script of the initial RAM disk does it: real file systems and their real check, which are
//! copied out where the script mounts them.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

const SCRIPT: &str =
    include_str!("../../image-build/recipe/overlay/etc/initramfs-tools/scripts/init-bottom/microlambda");
const NOTE: &str = include_str!("../../image-build/recipe/overlay/usr/libexec/microlambda/data-lost");
/// What the initial RAM disk has of its own.
const FUNCTIONS: &str =
    "resolve_device() { echo \"$ROOT\"; }\nwait_for_udev() { :; }\nlog_warning_msg() { echo \"$@\"; }\n";
/// What needs root, the hardware, or the whole computer's disks.
const STAND_INS: [(&str, &str); 4] = [
    ("mount", "[ \"$2\" != ext4 ] || debugfs -R \"rdump / $6\" \"$5\" 2>/dev/null"),
    ("umount", "find \"$1\" -mindepth 1 -delete"),
    ("fsck.fat", ":"),
    ("sync", ":"),
];
const PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

struct Device {
    dir: TempDir,
}

impl Device {
    /// One with these files on its data partition, which hold their names; a name that ends in `/` is a folder.
    fn with(files: &[&str]) -> Self {
        let device = Self { dir: tempfile::tempdir().unwrap() };
        for folder in ["root/usr/share/factory/var/lib/factory", "root/var", "run", "boot", "bin"] {
            fs::create_dir_all(device.at(folder)).unwrap();
        }
        fs::write(device.at("functions"), FUNCTIONS).unwrap();
        for (name, script) in STAND_INS {
            let at = device.at("bin").join(name);
            fs::write(&at, format!("#!/bin/sh\n{script}\n")).unwrap();
            sh(&format!("chmod 755 '{}'", at.display()));
        }
        device.flash(files);
        device
    }

    fn flash(&self, files: &[&str]) {
        let content = self.at("content");
        fs::create_dir_all(&content).unwrap();
        for file in files {
            let at = content.join(file);
            fs::create_dir_all(if file.ends_with('/') { &at } else { at.parent().unwrap() }).unwrap();
            if !file.ends_with('/') {
                fs::write(at, file).unwrap();
            }
        }
        sh(&format!("mke2fs -q -F -t ext4 -d '{}' '{}' 8M", content.display(), self.data().display()));
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn data(&self) -> PathBuf {
        self.at("disk4")
    }

    /// Damages what `request` says, as the kernel leaves it when it comes upon it: the next check looks at everything.
    fn damage(&self, request: &str) {
        for request in [request, "set_super_value state 2"] {
            sh(&format!("debugfs -w -R '{request}' '{}'", self.data().display()));
        }
    }

    /// A script of the image, at work in this folder instead of the running system.
    fn run(&self, script: &str) {
        let dir = self.dir.path().display();
        let script = script
            .replace("/scripts/functions", &format!("{dir}/functions"))
            .replace("/run/microlambda", &format!("{dir}/run"))
            .replace("/boot/firmware/microlambda-", &format!("{dir}/boot/microlambda-"))
            .replace("[ -b ", "[ -e ");
        fs::write(self.at("script"), script).unwrap();
        sh(&format!("ROOT={dir}/disk2 rootmnt={dir}/root PATH={dir}/bin:$PATH sh {dir}/script"));
    }

    fn start(&self) {
        self.run(SCRIPT);
    }

    fn var_has(&self, path: &str) -> bool {
        self.at("root/var").join(path).exists()
    }

    /// Why the data are lost, if they are.
    fn lost(&self) -> Option<String> {
        fs::read_to_string(self.at("run/data-lost")).ok()
    }
}

fn sh(line: &str) {
    let output = Command::new("sh").args(["-c", line]).env("PATH", PATH).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

const STARTED: [&str; 3] = [".microlambda", "lib/microlambda-etc/changes/hostname", "lib/microlambda/edge/node.db"];

#[test]
fn a_new_card_is_filled_and_marked_and_a_start_that_was_cut_off_is_done_again() {
    for files in [&[".microlambda-fresh"][..], &[".microlambda-fresh", "lib/microlambda-etc/changes/"]] {
        let device = Device::with(files);
        device.start();
        assert_eq!(device.lost(), None);
        assert!(device.var_has("lib/factory") && device.var_has("lib/microlambda-etc/work"));
        assert!(device.var_has(".microlambda") && !device.var_has(".microlambda-fresh"));
        assert!(!device.at("run/data-repaired").exists());
    }
}

#[test]
fn a_device_goes_on_with_what_it_has() {
    let device = Device::with(&STARTED);
    device.start();
    assert_eq!(device.lost(), None);
    assert!(STARTED.into_iter().all(|file| device.var_has(file)));
    assert!(!device.var_has("lib/factory"), "what it has is not covered by a new /var");
}

#[test]
fn a_data_partition_that_a_repair_has_emptied_is_lost_and_not_new() {
    let device = Device::with(&STARTED);
    device.damage("clri <2>");
    device.start();
    let why = device.lost().unwrap();
    assert!(why.contains("is not there any more"), "{why}");
    assert!(device.var_has("lib/factory") && !device.var_has(".microlambda"), "it runs from memory");
    device.run(NOTE);
    let note = fs::read_to_string(device.at("boot/microlambda-data-lost.txt")).unwrap();
    assert!(note.contains("without its data") && note.contains("lost+found") && !note.contains("rased"), "{note}");
    assert!(note.contains("Root inode is not a directory"), "the check's own words: {note}");
    // The next start finds a sound file system, and the data are lost still.
    fs::remove_dir_all(device.at("root/var")).unwrap();
    fs::create_dir(device.at("root/var")).unwrap();
    fs::remove_file(device.at("run/data-lost")).unwrap();
    device.start();
    assert!(device.lost().is_some());
}

#[test]
fn one_without_a_mark_or_without_settings_or_that_is_no_file_system_is_lost() {
    for files in [&[][..], &["lib/microlambda-etc/changes/"], &[".microlambda", "log/journal"]] {
        let device = Device::with(files);
        device.start();
        assert!(device.lost().unwrap().contains("is not there any more"), "{files:?}");
    }
    let device = Device::with(&STARTED);
    fs::write(device.data(), [0xa5; 4096]).unwrap();
    device.start();
    assert!(device.lost().unwrap().contains("damaged beyond repair"));
    fs::remove_file(device.data()).unwrap();
    device.start();
    assert!(device.lost().unwrap().contains("there is no data partition"));
}

#[test]
fn a_repair_that_the_device_survives_is_told() {
    let device = Device::with(&STARTED);
    device.damage("clri lib/microlambda/edge");
    device.start();
    assert_eq!(device.lost(), None);
    assert!(device.at("run/data-repaired").exists());
    device.run(NOTE);
    let note = fs::read_to_string(device.at("boot/microlambda-data-repaired.txt")).unwrap();
    assert!(note.contains("has been repaired") && note.contains("lost+found"), "{note}");
    assert!(!device.at("boot/microlambda-data-lost.txt").exists());
}
