//! `rpi-preseed.toml`: what Raspberry Pi Imager writes on a card, as far as this appliance applies it.

use super::check::{self, APPLIED};
use super::document::{Document, Given, Section};
use crate::problem::Problems;

/// The file's name on the boot partition.
pub const FILE: &str = "rpi-preseed.toml";
/// Keys whose values are secrets, with their tables.
pub const SECRETS: [&[&str]; 3] = [&["user", "password"], &["wlan", "password"], &["connect", "token"]];
/// The group of a user whose groups are not named.
pub const DEFAULT_GROUP: &str = "sudo";

/// What a right file asks for. What is absent or wrong stays as it is on the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preseed {
    /// The host's name.
    pub host_name: Option<String>,
    /// Who may log in.
    pub user: Option<User>,
    /// How to log in over the network.
    pub ssh: Option<Ssh>,
    /// The wireless network.
    pub wlan: Option<Wlan>,
    /// Keyboard layout.
    pub keymap: Option<String>,
    /// Time zone.
    pub time_zone: Option<String>,
    /// Language of messages.
    pub lang: Option<String>,
    /// Servers to take the time from, and those for when they fail.
    pub time_servers: Option<(Vec<String>, Vec<String>)>,
    /// Whether the user's password is wrong: it stays in the file until it is mended.
    pub wrong_user: bool,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its password, if one is given.
    pub password: Option<Password>,
    /// Whether it becomes root without a password; none if that stays as it is: where the value is wrong, or a mistake may hide it.
    pub passwordless_sudo: Option<bool>,
    /// Groups to join, where they exist; none as above.
    pub groups: Option<Vec<String>>,
}

/// A password.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// As it is typed.
    Plain(String),
    /// Its hash.
    Hash(String),
    /// The one that was applied before.
    AsBefore,
}

/// How SSH is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// Whether it is on.
    pub enabled: bool,
    /// Whether a password is enough; none if that stays as it is: in a file without `[ssh]`, or where the value is wrong.
    pub by_password: Option<bool>,
    /// All public keys of the user. Absent in a file without `[ssh]`, and wrong if a mistake may hide some: then those of before stay.
    pub keys: Given<Vec<String>>,
}

/// A wireless network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wlan {
    /// Its name, bytes.
    pub ssid: Vec<u8>,
    /// What opens it.
    pub key: WlanKey,
    /// Whether it does not announce itself.
    pub hidden: Given<bool>,
    /// The country whose radio rules hold.
    pub country: Given<String>,
}

/// What opens a wireless network.
#[derive(Clone, PartialEq, Eq)]
pub enum WlanKey {
    /// Nothing; `true` encrypts all the same (OWE).
    Open(bool),
    /// WPA2's passphrase, 8 to 63 bytes.
    Passphrase(String),
    /// WPA2's key, 32 bytes.
    Psk(Vec<u8>),
    /// WPA3's password.
    Sae(String),
    /// The one that was applied before, for a network of this kind if the file names one.
    AsBefore(Option<String>),
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(…)",
            Self::Hash(_) => "Hash(…)",
            Self::AsBefore => "AsBefore",
        })
    }
}

impl std::fmt::Debug for WlanKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(encrypts) => write!(f, "Open({encrypts})"),
            Self::Passphrase(_) => f.write_str("Passphrase(…)"),
            Self::Psk(_) => f.write_str("Psk(…)"),
            Self::Sae(_) => f.write_str("Sae(…)"),
            Self::AsBefore(kind) => write!(f, "AsBefore({kind:?})"),
        }
    }
}

impl Preseed {
    /// Reads a document; what is wrong is noted.
    pub fn read(document: &Document<'_>, problems: &mut Problems) -> Self {
        let mut root = document.root();
        let version = root.plain::<String>("config_version", problems);
        if let Given::Right(version) = version
            && version.split('.').next() != Some("1")
        {
            root.blame("config_version", "only version 1 is known; what is known of it was applied", problems);
        }
        let mut found = Self::default();
        let mut system = root.section("system", problems);
        found.host_name = system.get("hostname", problems, check::host_name).right();
        system.finish(problems);
        let before = problems.count();
        let user = root.section("user", problems);
        read_user(user, document.is_clean(), before, &mut found, problems);
        let before = problems.count();
        let ssh = root.section("ssh", problems);
        found.ssh = read_ssh(ssh, document.is_clean(), before, problems);
        read_wlan(root.section("wlan", problems), &mut found, problems);
        read_locale(root.section("locale", problems), &mut found, problems);
        let mut time = root.section("time", problems);
        let servers = time.get("ntp", problems, check::hosts);
        let fallback = time.get("fallback_ntp", problems, check::hosts);
        if !servers.is_wrong() && !fallback.is_wrong() && time.is_there() {
            found.time_servers = Some((servers.right().unwrap_or_default(), fallback.right().unwrap_or_default()));
        }
        time.finish(problems);
        for key in ["ethernet", "ca_certificates", "mounts", "interfaces", "boot", "runcmd", "debug"] {
            root.not_here(key, "this appliance has no such setting. Change it over SSH", problems);
        }
        for key in ["connect", "packages"] {
            root.not_here(key, "this appliance's system is not added to", problems);
        }
        root.finish(problems);
        // Whoever made a mistake needs a way in to mend it.
        if !problems.is_empty()
            && let Some(ssh) = &mut found.ssh
        {
            ssh.enabled = true;
        }
        found
    }
}

/// What a key asks for; `default` without it. None, so that it stays as it is, if it is wrong or a mistake may hide it.
fn asked<T>(given: Given<T>, is_sound: bool, default: impl FnOnce() -> T) -> Option<T> {
    match given {
        Given::Right(value) => Some(value),
        Given::Absent if is_sound => Some(default()),
        Given::Absent | Given::Wrong => None,
    }
}

/// `clean` is whether the file's syntax is right, `before` the number of problems that are not the table's.
fn read_user(mut user: Section<'_, '_>, clean: bool, before: usize, found: &mut Preseed, problems: &mut Problems) {
    let name = user.get("name", problems, check::user_name);
    let encrypted = user.plain::<bool>("password_encrypted", problems);
    let is_hash = encrypted.clone().right().unwrap_or(false);
    let password = user.get("password", problems, |text: String| match text {
        text if text == APPLIED => Ok(Password::AsBefore),
        text if is_hash => check::password_hash(text).map(Password::Hash),
        // Taken as typed, it would let in whoever reads it, and not who knows the password.
        text if check::password_hash(text.clone()).is_ok() => {
            Err("this looks like a hash: set `password_encrypted = true`".into())
        }
        text => check::password(text).map(Password::Plain),
    });
    let passwordless_sudo = user.plain::<bool>("passwordless_sudo", problems);
    let groups = user.get("groups", problems, check::groups);
    if matches!(name, Given::Absent) && user.is_there() {
        user.blame("name", "a user needs a name; nobody was added", problems);
    }
    user.finish(problems);
    let is_sound = clean && problems.count() == before;
    let usable = !password.is_wrong() && !encrypted.is_wrong();
    found.wrong_user = !usable;
    if let Given::Right(name) = name {
        // A wrong password costs the password alone: with a key one gets in all the same.
        found.user = Some(User {
            name,
            password: password.right().filter(|_| usable),
            passwordless_sudo: asked(passwordless_sudo, is_sound, || false),
            groups: asked(groups, is_sound, || vec![DEFAULT_GROUP.to_owned()]),
        });
    }
}

/// A file without the table means its defaults, as Raspberry Pi Imager leaves it out; none if a mistake may have cost the table. `clean` is whether
/// the file's syntax is right, `before` the number of problems that are not the table's.
fn read_ssh(mut ssh: Section<'_, '_>, clean: bool, before: usize, problems: &mut Problems) -> Option<Ssh> {
    let enabled = ssh.plain::<bool>("enabled", problems);
    let by_password = ssh.plain::<bool>("password_authentication", problems);
    let keys = ssh.each("authorized_keys", check::KEYS_MAX, problems, check::key);
    ssh.not_here("ssh_import_id", "keys are not fetched from the network. Write them in `authorized_keys`", problems);
    let is_there = ssh.is_there();
    ssh.finish(problems);
    let is_sound = clean && problems.count() == before;
    let keys = match keys {
        Given::Right(keys) => Given::Right(keys.into_iter().flatten().collect()),
        Given::Absent if is_there && is_sound => Given::Right(Vec::new()),
        Given::Absent if is_sound => Given::Absent,
        Given::Absent | Given::Wrong => Given::Wrong,
    };
    let by_password = asked(by_password, is_there && is_sound, || false);
    (is_there || is_sound).then(|| Ssh { enabled: enabled.right().unwrap_or(true), by_password, keys })
}

fn read_wlan(mut wlan: Section<'_, '_>, found: &mut Preseed, problems: &mut Problems) {
    let plain = wlan.get("ssid", problems, check::ssid);
    let hex = wlan.get("ssid_hex", problems, check::ssid_hex);
    let kind = wlan.get("key_mgmt", problems, |kind: String| match kind.as_str() {
        "none" | "owe" | "wpa-psk" | "sae" => Ok(kind),
        _ => Err(format!("{kind:?} is not known: use none, owe, wpa-psk or sae, or leave it out")),
    });
    let _is_hash = wlan.plain::<bool>("password_encrypted", problems);
    let password = wlan.plain::<String>("password", problems);
    let hidden = wlan.plain::<bool>("hidden", problems);
    let country = wlan.get("country", problems, check::country);
    let broken = plain.is_wrong() || hex.is_wrong() || kind.is_wrong() || password.is_wrong();
    let ssid = hex.right().or(plain.right());
    if ssid.is_none() && !broken && wlan.is_there() && password.clone().right().is_some() {
        wlan.blame("ssid", "a password needs the network's name", problems);
    }
    if let Some(ssid) = ssid
        && !broken
    {
        match wlan_key(kind.right().as_deref(), password.right()) {
            Ok(key) => found.wlan = Some(Wlan { ssid, key, hidden, country }),
            Err(why) => wlan.blame("password", why, problems),
        }
    }
    wlan.finish(problems);
}

/// The key, or why these do not go together. No message repeats a password.
fn wlan_key(kind: Option<&str>, password: Option<String>) -> Result<WlanKey, String> {
    let password = password.filter(|password| !password.is_empty());
    match (kind, password) {
        (Some("none" | "owe"), Some(_)) => Err("an open network has no password: leave it or `key_mgmt` out".into()),
        (Some("owe"), None) => Ok(WlanKey::Open(true)),
        (None | Some("none"), None) => Ok(WlanKey::Open(false)),
        (Some(kind), None) => Err(format!("a network of kind {kind} needs a password")),
        (kind, Some(password)) if password == APPLIED => Ok(WlanKey::AsBefore(kind.map(str::to_owned))),
        (_, Some(password)) if password.chars().any(char::is_control) => {
            Err("it holds a character that cannot be typed".into())
        }
        (Some("sae"), Some(password)) => match password.len() {
            1..=128 => Ok(WlanKey::Sae(password)),
            _ => Err("it is longer than 128 bytes".into()),
        },
        (_, Some(password)) => match (password.len(), check::from_hex(&password)) {
            (64, Some(psk)) => Ok(WlanKey::Psk(psk)),
            (8..=63, _) => Ok(WlanKey::Passphrase(password)),
            (length, _) => {
                Err(format!("a Wi-Fi password has 8 to 63 bytes, or 64 hexadecimal digits; this has {length}"))
            }
        },
    }
}

fn read_locale(mut locale: Section<'_, '_>, found: &mut Preseed, problems: &mut Problems) {
    found.keymap = locale.get("keymap", problems, check::keymap).right();
    found.time_zone = locale.get("timezone", problems, check::time_zone).right();
    found.lang = locale.get("lang", problems, check::locale).right();
    for key in ["locales", "lc_time", "lc_measurement", "keymap_model", "keymap_variant", "keymap_options"] {
        locale.not_here(key, "this appliance has no such setting", problems);
    }
    locale.finish(problems);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Preseed, String) {
        let mut problems = Problems::default();
        let document = Document::read(FILE, text, &mut problems);
        let found = Preseed::read(&document, &mut problems);
        (found, problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn the_commented_example_is_right_as_it_is_and_with_every_line_live() {
        let example = include_str!("../../examples/rpi-preseed.toml");
        assert_eq!(read(example).1, "");
        let is_setting =
            |line: &str| line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let live: Vec<&str> = example
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if is_setting(setting) => setting,
                _ => line,
            })
            .collect();
        let (found, told) = read(&live.join("\n"));
        assert_eq!(told, "");
        assert!(found.host_name.is_some() && found.user.is_some() && found.ssh.is_some() && found.wlan.is_some());
        assert!(
            found.keymap.is_some() && found.time_zone.is_some() && found.lang.is_some() && found.time_servers.is_some()
        );
    }

    #[test]
    fn what_raspberry_pi_imager_writes_is_taken_without_a_word() {
        let (found, told) = read(
            "config_version = \"1.0\"\n\n[system]\nhostname = \"door\"\n\n[user]\nname = \"ann\"\n\
             password = \"$y$j9T$aaaa$bbbbbbbb\"\npassword_encrypted = true\ngroups = [\"sudo\"]\n\n\
             [ssh]\nenabled = true\npassword_authentication = true\n\n[wlan]\nssid = \"Home\"\npassword = \
             \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"\npassword_encrypted = true\nhidden = false\n\
             country = \"GB\"\n\n[locale]\nkeymap = \"gb\"\ntimezone = \"Europe/London\"\n",
        );
        assert_eq!(told, "");
        assert_eq!(found.user.unwrap().password, Some(Password::Hash("$y$j9T$aaaa$bbbbbbbb".into())));
        assert!(matches!(found.wlan.unwrap().key, WlanKey::Psk(key) if key.len() == 32));
    }

    #[test]
    fn a_mistake_in_one_part_leaves_the_others() {
        let (found, told) =
            read("[system]\nhostname = \"no good\"\n[user]\nname = \"ann\"\npassword = \"\"\n[ssh]\nenabled = false\n");
        assert_eq!(found.host_name, None);
        assert_eq!(found.user.as_ref().unwrap().password, None);
        assert!(found.wrong_user);
        assert!(found.ssh.unwrap().enabled, "with a mistake in the file, SSH stays on");
        assert!(told.contains("line 2: `system.hostname`") && told.contains("line 5: `user.password`"), "{told}");
    }

    #[test]
    fn a_hash_that_is_not_called_one_becomes_no_password() {
        let hash = "$y$j9T$aaaa$bbbbbbbb";
        for flag in ["", "password_encrypted = false\n"] {
            let (found, told) = read(&format!("[user]\nname = \"ann\"\npassword = \"{hash}\"\n{flag}"));
            assert_eq!(found.user.unwrap().password, None, "{flag}");
            assert!(found.wrong_user, "it stays in the file until it is mended");
            let expected = "line 3: `user.password`: this looks like a hash: set `password_encrypted = true`";
            assert!(told.contains(expected) && !told.contains(hash), "{told}");
        }
        let typed = read("[user]\nname = \"ann\"\npassword = \"$5 and $6 and $7!\"\n").0.user.unwrap();
        assert_eq!(typed.password, Some(Password::Plain("$5 and $6 and $7!".into())));
    }

    #[test]
    fn rights_and_groups_stay_as_they_are_where_a_mistake_may_hide_what_is_asked_for() {
        let rights = |text: &str| {
            let user = read(&format!("[user]\nname = \"ann\"\n{text}\n")).0.user.unwrap();
            (user.passwordless_sudo, user.groups)
        };
        let default = Some(vec![DEFAULT_GROUP.to_owned()]);
        assert_eq!(rights(""), (Some(false), default.clone()));
        assert_eq!(rights("passwordless_sudo = true\ngroups = []"), (Some(true), Some(vec![])));
        // What is written rightly holds beside any mistake.
        assert_eq!(rights("passwordless_sudo = false\ngroups = 3"), (Some(false), None));
        assert_eq!(rights("passwordless_sudo = \"yes\"\ngroups = [\"video\"]"), (None, Some(vec!["video".into()])));
        for wrong in ["passwordles_sudo = true", "password = \"\"", "[wlan]\nssid = \"x"] {
            assert_eq!(rights(wrong), (None, None), "{wrong}");
        }
        assert_eq!(rights("[sytem]"), (Some(false), default), "another table's mistake hides nothing of this one");
    }

    #[test]
    fn a_file_without_ssh_means_its_defaults_and_a_mistake_that_may_hide_keys_leaves_those_of_before() {
        let keys = |text: &str| read(text).0.ssh.map(|ssh| ssh.keys);
        let defaults = Ssh { enabled: true, by_password: None, keys: Given::Absent };
        assert_eq!(read("[user]\nname = \"ann\"\n").0.ssh, Some(defaults));
        for none in ["[ssh]\n", "[ssh]\nauthorized_keys = []\n", "[ssh]\n[sytem]\nhostname = \"x\"\n"] {
            assert_eq!(keys(none), Some(Given::Right(vec![])), "{none}");
        }
        for wrong in [
            "[ssh]\nauthorized_keys = [\"x\"]\n",
            "[ssh]\nauthorised_keys = [\"x\"]\n",
            "[ssh]\nssh_import_id = [\"x\"]\n",
            "[ssh]\nauthorized_keys = [\"x\n",
            "[ssh]\n[wlan]\nssid = \"x\n",
        ] {
            assert_eq!(keys(wrong), Some(Given::Wrong), "{wrong}");
        }
        for lost in ["ssh = 3\n", "[shh\nenabled = false\n"] {
            assert_eq!(keys(lost), None, "{lost}");
        }
    }

    #[test]
    fn a_damaged_public_key_costs_no_other() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ann@laptop";
        let (found, told) = read(&format!("[ssh]\nauthorized_keys = [\n\"{}\",\n\"{key}\"]\n", &key[..40]));
        assert_eq!(found.ssh.unwrap().keys, Given::Right(vec![key.to_owned()]));
        assert!(
            told.contains("line 3: `ssh.authorized_keys`, number 1: the text behind ssh-ed25519 is damaged"),
            "{told}"
        );
    }

    #[test]
    fn wireless_keys_fit_their_kind_and_are_not_repeated() {
        let key = |kind: &str, password: &str| {
            read(&format!("[wlan]\nssid = \"n\"\nkey_mgmt = \"{kind}\"\npassword = \"{password}\"\n"))
        };
        assert!(matches!(key("wpa-psk", "eightchr").0.wlan.unwrap().key, WlanKey::Passphrase(_)));
        assert!(matches!(key("sae", "short").0.wlan.unwrap().key, WlanKey::Sae(_)));
        assert!(matches!(key("owe", "").0.wlan.unwrap().key, WlanKey::Open(true)));
        for (kind, password) in [("wpa-psk", "shorty7"), ("none", "eightchr"), ("wep", "eightchr"), ("sae", "")] {
            let (found, told) = key(kind, password);
            assert!(found.wlan.is_none() && !told.is_empty(), "{kind} {password}");
            assert!(password.is_empty() || !told.contains(password), "{told}");
        }
    }

    #[test]
    fn what_is_not_applied_here_is_told_and_not_called_unknown() {
        let (_, told) = read("[packages]\ninstall = [\"vim\"]\n[sytem]\nhostname = \"x\"\n");
        assert!(told.contains("line 1: `packages` is not applied") && !told.contains("SSH"), "{told}");
        assert!(told.contains("`sytem` is not known: did you mean `system`?"), "{told}");
    }
}
