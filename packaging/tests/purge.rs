//! What a purge of the package for a device of its own takes away, below another root.

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

#[test]
fn a_purge_leaves_no_key_of_the_site_and_a_removal_all_of_them() {
    let root = tempfile::tempdir().unwrap();
    for path in SECRETS.into_iter().chain(OTHERS) {
        let at = root.path().join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, "").unwrap();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/debian/appliance/postrm");
    let run = |what: &str| {
        let status = Command::new("sh").args([script, what]).env("DPKG_ROOT", root.path()).status().unwrap();
        assert!(status.success(), "{what}");
    };
    run("remove");
    assert!(SECRETS.into_iter().all(|path| is_there(root.path(), path)));
    run("purge");
    assert_eq!(SECRETS.into_iter().find(|path| is_there(root.path(), path)), None);
    assert!(OTHERS.into_iter().all(|path| is_there(root.path(), path)));
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
