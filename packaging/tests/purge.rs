//! What a purge of the package for a device of its own takes away, below another root.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::path::Path;
use std::process::Command;

/// Everything that lets somebody into the site, as `microlambda-provision` writes it.
const SECRETS: [&str; 7] = [
    "etc/microlambda/authority/authority.pem",
    "etc/microlambda/authority/credentials.json",
    "etc/mosquitto/conf.d/microlambda.conf",
    "etc/mosquitto/microlambda.passwords",
    "etc/mosquitto/microlambda-broker.pem",
    "var/lib/microlambda-join/edge.toml",
    "var/lib/microlambda-provision/state.json",
];
const OTHERS: [&str; 4] = [
    "etc/mosquitto/mosquitto.conf",
    "etc/mosquitto/conf.d/mine.conf",
    "etc/microlambda/edge.toml",
    "etc/microlambda/site-ca.pem",
];

fn is_there(root: &Path, path: &str) -> bool {
    root.join(path).exists()
}

/// A root on which the device was set up.
fn set_up() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for path in SECRETS.into_iter().chain(OTHERS) {
        let at = root.path().join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, "").unwrap();
    }
    root
}

fn postrm(package: &str, what: &str, root: &Path) {
    let script = format!("{}/debian/{package}/postrm", env!("CARGO_MANIFEST_DIR"));
    let status = Command::new("sh").args([&script, what]).env("DPKG_ROOT", root).status().unwrap();
    assert!(status.success(), "{package} {what}");
}

#[test]
fn a_purge_leaves_no_key_of_the_site_and_a_removal_all_of_them() {
    let root = set_up();
    let root = root.path();
    postrm("appliance", "remove", root);
    assert!(SECRETS.into_iter().all(|path| is_there(root, path)));
    postrm("appliance", "purge", root);
    assert_eq!(SECRETS.into_iter().find(|path| is_there(root, path)), None);
    assert!(OTHERS.into_iter().all(|path| is_there(root, path)));
}

#[test]
fn a_purge_of_everything_leaves_nothing_of_the_site_in_any_order() {
    for packages in [
        ["appliance", "camera-agent", "edge-agent"],
        ["edge-agent", "appliance", "camera-agent"],
        ["camera-agent", "edge-agent", "appliance"],
    ] {
        let root = set_up();
        let root = root.path();
        fs::write(root.join("etc/microlambda/camera.toml"), "").unwrap();
        for (at, package) in packages.into_iter().enumerate() {
            assert!(is_there(root, "etc/microlambda/site-ca.pem"), "{package} is the {at}. of {packages:?}");
            postrm(package, "purge", root);
        }
        assert!(!is_there(root, "etc/microlambda"), "{packages:?}");
        assert!(is_there(root, "etc/mosquitto/conf.d/mine.conf"), "{packages:?}");
    }
}

#[test]
fn the_login_message_of_a_removed_package_is_empty() {
    if Path::new("/usr/sbin/microlambda-provision").exists() {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../provision/package/20-microlambda-welcome");
    let output = Command::new("sh").arg(script).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
}
