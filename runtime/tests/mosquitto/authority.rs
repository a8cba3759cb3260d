//! An authority with certificates for brokers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use microlambda_runtime::{BrokerConfig, BrokerUrl};

use super::{Broker, free_port};

pub const USER: &str = "door";
pub const PASSWORD: &str = "what a camera may know";

/// An authority and what it signed; everything is made for one test.
pub struct Authority {
    pub folder: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let authority = Self { folder: tempfile::tempdir().unwrap() };
        let (key, certificate) = (authority.path("ca.key"), authority.ca());
        make_certificate(&["-subj", "/CN=an authority of a test"], &key, &certificate);
        authority
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its own certificate, PEM.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A broker that only takes [`USER`], with a certificate for these `names` (as `DNS:…` or `IP:…`, comma-separated).
    pub fn broker(&self, names: &str) -> Broker {
        let (ca, ca_key) = (self.ca(), self.path("ca.key"));
        let (key, certificate, passwords) = (self.path("broker.key"), self.path("broker.pem"), self.path("passwords"));
        let names = format!("subjectAltName={names}");
        let signed = ["-subj", "/CN=a broker", "-addext", &names, "-CA", utf8(&ca), "-CAkey", utf8(&ca_key)];
        make_certificate(&signed, &key, &certificate);
        let mut command = Command::new("mosquitto_passwd");
        run(command.args(["-b", "-c", utf8(&passwords), USER, PASSWORD]));
        let settings = format!(
            "allow_anonymous false\npassword_file {}\ncertfile {}\nkeyfile {}\n",
            utf8(&passwords),
            utf8(&certificate),
            utf8(&key)
        );
        Broker::start_on(free_port(), &settings)
    }

    /// The settings that let a client in, with the password in a file as an agent has it.
    pub fn settings(&self, host: &str, port: u16) -> BrokerConfig {
        let password_file = self.path("password");
        std::fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
        BrokerConfig {
            url: Some(BrokerUrl { host: host.into(), port, tls: true }),
            username: Some(USER.into()),
            password_file: Some(password_file),
            ca_file: Some(self.ca()),
        }
    }
}

pub fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn run(command: &mut Command) {
    let program = command.get_program().to_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs {program:?} ({error}): run `make setup`"));
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A certificate that is valid for a day, with a new key; `args` say whose, and who signs it.
fn make_certificate(args: &[&str], key: &Path, certificate: &Path) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-days", "1", "-noenc", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    run(command.args(args).args(["-keyout", utf8(key), "-out", utf8(certificate)]));
}
