//! What a single value may be. Each check returns the value in its one form, or what is wrong and what to do.

use std::net::IpAddr;

/// Text that stands in the place of a secret once it was applied. Left there, it means: as it was.
pub const APPLIED: &str = "(applied)";
/// Longest host name that can be a label of a DNS name, bytes.
const HOST_BYTES_MAX: usize = 63;
/// Longest name of a user, bytes: what useradd takes.
const USER_BYTES_MAX: usize = 32;
/// Longest password, bytes: more than a person types, less than what a hash function minds.
const PASSWORD_BYTES_MAX: usize = 256;
/// Most public keys of a user.
pub const KEYS_MAX: usize = 64;
/// Longest public key with options and comment, bytes.
const KEY_BYTES_MAX: usize = 16 << 10;
/// Longest network name, bytes: what the standard allows.
const SSID_BYTES_MAX: usize = 32;
/// Kinds of public keys that OpenSSH knows.
const KEY_KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// What a check returns.
pub type Checked<T> = Result<T, String>;

/// A text as it is told in a note: as it is written, or only that it is meant, if it may be an address with a password.
pub fn told(text: &str) -> String {
    if text.contains('@') { "this".to_owned() } else { format!("{text:?}") }
}

/// A host name: one label, in lower case.
pub fn host_name(text: String) -> Checked<String> {
    let name = text.trim().to_ascii_lowercase();
    let name = name.strip_suffix(".local").unwrap_or(&name);
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > HOST_BYTES_MAX || !name.chars().all(allowed) {
        return Err(format!("{text:?} is not a host name: use 1 to {HOST_BYTES_MAX} characters out of a-z, 0-9 and -"));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(format!("{text:?} is not a host name: it may not begin or end with -"));
    }
    if name == "localhost" {
        return Err("every computer is localhost to itself: choose another name".into());
    }
    Ok(name.to_owned())
}

/// A user's name.
pub fn user_name(text: String) -> Checked<String> {
    let begins = |c: char| c.is_ascii_lowercase() || c == '_';
    let allowed = |c: char| begins(c) || c.is_ascii_digit() || c == '-';
    if text == "root" {
        return Err("root does not log in: choose another name, who becomes root with sudo".into());
    }
    if text.len() > USER_BYTES_MAX || !text.starts_with(begins) || !text.chars().all(allowed) {
        let max = USER_BYTES_MAX;
        return Err(format!("{text:?} is not a user's name: use a-z, 0-9, _ and -, a letter first, at most {max}"));
    }
    Ok(text)
}

/// A group's name: the same characters.
pub fn groups(names: Vec<String>) -> Checked<Vec<String>> {
    if names.len() > 32 {
        return Err(format!("{} groups are too many: at most 32", names.len()));
    }
    names.into_iter().map(|name| if name == "root" { Ok(name) } else { user_name(name) }).collect()
}

/// A password as it is typed. The text is not repeated.
pub fn password(text: String) -> Checked<String> {
    if text.is_empty() {
        return Err("an empty password would let everybody in: write one, or leave the key out".into());
    }
    if text.len() > PASSWORD_BYTES_MAX {
        return Err(format!("it is longer than {PASSWORD_BYTES_MAX} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("it holds a character that cannot be typed".into());
    }
    Ok(text)
}

/// A password's hash, as `mkpasswd` or `openssl passwd -6` make it. The text is not repeated.
pub fn password_hash(text: String) -> Checked<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "./$=,-_".contains(c);
    let sound = text.starts_with('$') && text.matches('$').count() >= 3 && text.chars().all(allowed);
    if text == APPLIED {
        return Ok(text);
    }
    if !sound || text.len() > PASSWORD_BYTES_MAX {
        return Err(
            "with `password_encrypted = true` it is a hash that begins with $: make one with `openssl passwd -6`, \
                    or set `password_encrypted = false`"
                .into(),
        );
    }
    Ok(text)
}

/// A public SSH key on a line of its own; none on a line that is empty or a comment.
pub fn key(line: &str) -> Checked<Option<String>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if line.contains("PRIVATE KEY") {
        return Err(
            "this is a private key. Nobody else may have it: write the public one, of the file that ends in .pub"
                .into(),
        );
    }
    if line.len() > KEY_BYTES_MAX || line.chars().any(char::is_control) {
        return Err(format!("a public key is one line of at most {KEY_BYTES_MAX} bytes"));
    }
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let kind = words.by_ref().find(|word| KEY_KINDS.contains(word));
    let Some(kind) = kind else {
        return Err(
            "it names no kind of key that is known, such as ssh-ed25519: copy the whole line of the .pub file".into()
        );
    };
    let blob = words.next().and_then(decode_base64).unwrap_or_default();
    // The blob is fields behind their lengths, the kind first: a text that was cut ends inside one.
    let fields = fields_of(&blob).unwrap_or_default();
    if fields.len() < 2 || fields[0] != kind.as_bytes() {
        return Err(format!("the text behind {kind} is damaged: copy the whole line of the .pub file"));
    }
    Ok(Some(line.to_owned()))
}

/// Fields, each behind four bytes of length; none if the last is cut.
fn fields_of(mut blob: &[u8]) -> Option<Vec<&[u8]>> {
    let mut fields = Vec::new();
    while !blob.is_empty() {
        let (length, rest) = blob.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        fields.push(rest.get(..length)?);
        blob = &rest[length..];
    }
    Some(fields)
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    openssl::base64::decode_block(text).ok()
}

/// A network's name as bytes.
pub fn ssid(text: String) -> Checked<Vec<u8>> {
    if text.is_empty() || text.len() > SSID_BYTES_MAX {
        return Err(format!("a network's name has 1 to {SSID_BYTES_MAX} bytes, this has {}", text.len()));
    }
    Ok(text.into_bytes())
}

/// A network's name as hexadecimal digits.
pub fn ssid_hex(text: String) -> Checked<Vec<u8>> {
    let bytes = from_hex(&text).filter(|bytes| (1..=SSID_BYTES_MAX).contains(&bytes.len()));
    bytes
        .ok_or_else(|| format!("{text:?} is not a network's name in hexadecimal digits, two for each of 1 to 32 bytes"))
}

/// Bytes of an even run of hexadecimal digits.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Bytes as hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A country of ISO 3166, whose radio rules hold.
pub fn country(text: String) -> Checked<String> {
    let code = text.to_ascii_uppercase();
    if code.len() != 2 || !code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("{text:?} is not a country: write its two letters, such as GB"));
    }
    Ok(code)
}

/// A keyboard layout of XKB.
pub fn keymap(text: String) -> Checked<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-,".contains(c);
    if text.is_empty() || text.len() > 32 || !text.chars().all(allowed) {
        return Err(format!("{text:?} is not a keyboard layout: write its letters, such as gb, us or de"));
    }
    Ok(text)
}

/// A time zone's name; whether the system knows it is checked later.
pub fn time_zone(text: String) -> Checked<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-+/".contains(c);
    let levels_sound = text.split('/').all(|level| !level.is_empty());
    if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) || !levels_sound {
        return Err(format!("{text:?} is not a time zone: write its name, such as Europe/London"));
    }
    Ok(text)
}

/// A locale's name; whether the system has it is checked later.
pub fn locale(text: String) -> Checked<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.@".contains(c);
    if text.is_empty()
        || text.len() > 32
        || !text.starts_with(|c: char| c.is_ascii_alphabetic())
        || !text.chars().all(allowed)
    {
        return Err(format!("{text:?} is not a locale: write its name, such as C.UTF-8"));
    }
    Ok(text)
}

/// Host names or addresses, at most 16.
pub fn hosts(names: Vec<String>) -> Checked<Vec<String>> {
    if names.len() > 16 {
        return Err(format!("{} hosts are too many: at most 16", names.len()));
    }
    names.into_iter().map(host).collect()
}

/// One host: a DNS name or an address.
pub fn host(text: String) -> Checked<String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text);
    }
    let name = text.to_ascii_lowercase();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(format!(
            "{} is not a host: write a name such as hub.local, or an address such as 192.168.1.7",
            told(&text)
        ));
    }
    Ok(name)
}

/// A number within bounds.
pub fn within(value: u64, min: u64, max: u64) -> Checked<u64> {
    if (min..=max).contains(&value) { Ok(value) } else { Err(format!("{value} is outside {min} to {max}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@laptop";

    #[test]
    fn a_host_name_is_one_label_in_lower_case() {
        assert_eq!(host_name("Door-Pi".into()).unwrap(), "door-pi");
        assert_eq!(host_name("hub.local".into()).unwrap(), "hub");
        for wrong in ["", "-a", "a-", "a.b", "a b", "ä", "localhost", &"a".repeat(64)] {
            assert!(host_name(wrong.into()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_users_name_can_be_no_option_and_no_field() {
        assert_eq!(user_name("ann_2-x".into()).unwrap(), "ann_2-x");
        for wrong in ["", "root", "-x", "2a", "a:b", "a/b", "Ann", "a b", "a\n", &"a".repeat(33)] {
            assert!(user_name(wrong.into()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_public_key_is_taken_whole_and_a_damaged_or_private_one_refused() {
        assert_eq!(key(&format!("  {KEY}\n")).unwrap().as_deref(), Some(KEY));
        assert_eq!((key(""), key("# ann's")), (Ok(None), Ok(None)));
        let with_option = format!("from=\"192.168.1.*\" {KEY}");
        assert_eq!(key(&with_option).unwrap(), Some(with_option));
        for wrong in [&KEY[..40], "ssh-ed25519", "hello", &KEY.replace("AAAAC3", "BAAAC3"), &format!("{KEY}\nroot")] {
            assert!(key(wrong).is_err(), "{wrong:?}");
        }
        let private = "-----BEGIN OPENSSH PRIVATE KEY-----";
        assert!(key(private).unwrap_err().contains("write the public one"));
    }

    #[test]
    fn no_message_repeats_a_password() {
        let secrets = ["hunter2\n".to_owned(), format!("hunter2{}", "x".repeat(300))];
        for secret in secrets {
            assert!(!password(secret.clone()).unwrap_err().contains("hunter2"));
            assert!(!password_hash(secret).unwrap_err().contains("hunter2"));
        }
        assert!(password(String::new()).is_err());
        assert!(password_hash("$y$j9T$abc$def".into()).is_ok());
        assert!(password_hash("$y$j9T$abc:def".into()).is_err());
    }

    #[test]
    fn a_time_zone_cannot_leave_its_folder() {
        assert!(time_zone("America/Argentina/Buenos_Aires".into()).is_ok());
        for wrong in ["", "../../etc/passwd", "/etc/passwd", "Europe//London", "Europe/"] {
            assert!(time_zone(wrong.into()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for right in ["hub.local", "192.168.1.7", "fe80::1", "Broker.Example"] {
            assert!(host(right.into()).is_ok(), "{right}");
        }
        for wrong in ["", "a b", "a..b", "-a", "a/b", "mqtts://a", "a:1883"] {
            assert!(host(wrong.into()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hexadecimal_digits_are_read_and_written_alike() {
        assert_eq!(from_hex("00ff7a").unwrap(), [0, 255, 122]);
        assert_eq!(to_hex(&[0, 255, 122]), "00ff7a");
        for wrong in ["0", "0g", "+1", "äb"] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }
}
