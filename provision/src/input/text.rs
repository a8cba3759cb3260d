//! A file's bytes as text, as editors and shells write it.

/// Text in UTF-8, or in UTF-16 behind a byte order mark, as Windows' Notepad and PowerShell may write it. None if it is neither, be it in one place
/// only: what was damaged there may be the end of a password.
pub fn decode(bytes: Vec<u8>) -> Option<String> {
    match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => decode_utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => decode_utf16(rest, u16::from_be_bytes),
        // TOML passes over a mark in front of UTF-8.
        _ => String::from_utf8(bytes).ok(),
    }
}

fn decode_utf16(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    let text = char::decode_utf16(units.iter().map(|&bytes| unit(bytes)));
    if rest.is_empty() { text.collect::<Result<_, _>>().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_the_same_in_each_encoding() {
        let text = "name = \"Zoë 🚪\"\r\n";
        let units: Vec<u16> = text.encode_utf16().collect();
        let with = |mark: [u8; 2], unit: fn(u16) -> [u8; 2]| {
            let bytes: Vec<u8> = units.iter().flat_map(|&half| unit(half)).collect();
            [mark.to_vec(), bytes].concat()
        };
        for bytes in [text.into(), with([0xff, 0xfe], u16::to_le_bytes), with([0xfe, 0xff], u16::to_be_bytes)] {
            assert_eq!(decode(bytes).as_deref(), Some(text));
        }
        assert_eq!(decode(vec![0xff, 0xfe]).as_deref(), Some(""));
    }

    #[test]
    fn what_is_damaged_anywhere_is_no_text() {
        for bytes in [
            &b"na\xe4me"[..],
            b"\xff\xfea",
            b"\xff\xfea\0b",
            // Half of a pair of surrogates.
            b"\xff\xfe\x3d\xd8",
            b"\xfe\xff\xde\xaa\0a",
        ] {
            assert_eq!(decode(bytes.to_vec()), None, "{bytes:x?}");
        }
    }
}
