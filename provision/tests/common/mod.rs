//! A machine of a test's own: a boot partition and a root, and what can be done with them.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use microlambda_provision::apply::{Options, Report, apply};
use tempfile::TempDir;

pub mod hub;

/// A clock that is right, s since 1970 (2026).
pub const NOW: i64 = 1_780_000_000;
/// A key that is sound.
pub const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ann@laptop";

/// A root with what the image has: users, a time zone, the SSH server's keys; and an empty boot partition.
pub struct Machine {
    dir: TempDir,
    pub now_unix_s: i64,
}

/// Whether this test may give files away.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata)).unwrap() == 0
}

impl Machine {
    pub fn new() -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap(), now_unix_s: NOW };
        let users = "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nmosquitto:x:104:108::/:/bin/false\n";
        let groups = "root:x:0:\nsudo:x:27:\nvideo:x:44:\nmosquitto:x:108:\nmicrolambda-camera:x:990:\n";
        for (path, content) in [
            ("etc/passwd", users),
            ("etc/shadow", "root:*:1::::::\n"),
            ("etc/group", groups),
            ("etc/gshadow", "root:*::\n"),
            ("etc/hostname", "microlambda\n"),
            ("etc/hosts", "127.0.0.1 localhost\n"),
            ("etc/ssh/ssh_host_ed25519_key", "a key\n"),
            ("usr/share/zoneinfo/Europe/London", "TZif"),
        ] {
            machine.write_root(path, content);
        }
        fs::create_dir(machine.root().join("home")).unwrap();
        fs::create_dir(machine.boot()).unwrap();
        machine
    }

    /// One whose host has another name than the others'.
    pub fn named(host: &str) -> Self {
        let machine = Self::new();
        machine.write_root("etc/hostname", &format!("{host}\n"));
        machine
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn boot(&self) -> PathBuf {
        self.dir.path().join("boot")
    }

    pub fn write_root(&self, path: &str, content: &str) {
        let at = self.root().join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, content).unwrap();
    }

    pub fn write_boot(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.boot().join(name), content).unwrap();
    }

    pub fn boot_text(&self, name: &str) -> String {
        fs::read_to_string(self.boot().join(name)).unwrap()
    }

    /// The text of a file of the root, which is there.
    pub fn text(&self, path: &str) -> String {
        let at = self.root().join(path.trim_start_matches('/'));
        fs::read_to_string(&at).unwrap_or_else(|error| panic!("{}: {error}", at.display()))
    }

    pub fn has(&self, path: &str) -> bool {
        self.root().join(path.trim_start_matches('/')).exists()
    }

    pub fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.root().join(path.trim_start_matches('/'))).unwrap().permissions().mode() & 0o7777
    }

    /// One start of the machine.
    pub fn start(&self) -> Report {
        self.start_with(false)
    }

    pub fn start_with(&self, dry_run: bool) -> Report {
        let options = Options { boot: self.boot(), root: self.root(), dry_run, now_unix_s: self.now_unix_s };
        apply(&options).unwrap()
    }

    /// What is told to be wrong, on the boot partition; empty if nothing is.
    pub fn problems(&self) -> String {
        fs::read_to_string(self.boot().join("microlambda-problems.txt")).unwrap_or_default()
    }

    /// Every file and link below the root and the boot partition, with content and mode.
    pub fn everything(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut found = BTreeMap::new();
        collect(self.dir.path(), &mut found);
        found
    }
}

fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            collect(&path, found);
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
            found.insert(path, (0, target));
        } else {
            found.insert(path.clone(), (metadata.permissions().mode(), fs::read(&path).unwrap()));
        }
    }
}
