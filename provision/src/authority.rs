//! The site's own authority, and the certificate of its broker.
//!
//! A Pi has no clock of its own: it starts in 1970 or at the time its image was built. So everything is valid from 1970 on, and for
//! so long that no node is shut out while it waits for the time; a broker's certificate is made anew long before its end.

use std::net::IpAddr;

use microlambda_wire::Name;
use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Name};

/// No clock that is right shows less: an earlier one has not been set yet, s since 1970 (1 January 2026).
pub const CLOCK_FLOOR_UNIX_S: i64 = 1_767_225_600;
/// How long a broker's certificate serves, s (20 years).
const SERVES_S: i64 = 20 * 31_557_600;
/// It is made anew when less is left, s (10 years).
const RENEW_S: i64 = 10 * 31_557_600;
/// The first moment of everything, as certificates write it.
const BEGIN: &str = "19700101000000Z";
/// The end of an authority: the last moment that certificates can write, which means that it has none.
const NO_END: &str = "99991231235959Z";
/// Longest common name of a certificate, bytes.
const COMMON_NAME_BYTES_MAX: usize = 64;

/// An authority: whoever holds its key can make brokers of the site.
pub struct Authority {
    key: PKey<Private>,
    certificate: X509,
}

impl Authority {
    /// A new one for `site`.
    ///
    /// # Errors
    /// What OpenSSL says.
    pub fn make(site: &Name) -> Result<Self, ErrorStack> {
        let key = new_key()?;
        let mut builder = begin(&format!("MicroLambda site {site}"), NO_END, &key)?;
        let name = common_name(&format!("MicroLambda site {site}"))?;
        builder.set_issuer_name(&name)?;
        builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
        let id = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
        builder.append_extension(id)?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Self { key, certificate: builder.build() })
    }

    /// Reads what [`to_pem`](Self::to_pem) wrote.
    ///
    /// # Errors
    /// What OpenSSL says, also if key and certificate do not belong together.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let key = PKey::private_key_from_pem(pem).map_err(|error| error.to_string())?;
        let certificate = X509::from_pem(pem).map_err(|error| error.to_string())?;
        let its_key = certificate.public_key().map_err(|error| error.to_string())?;
        if its_key.public_eq(&key) { Ok(Self { key, certificate }) } else { Err("key and certificate differ".into()) }
    }

    /// Key and certificate in one text, so that neither can be there without the other.
    ///
    /// # Errors
    /// What OpenSSL says.
    pub fn to_pem(&self) -> Result<Vec<u8>, ErrorStack> {
        Ok([self.key.private_key_to_pem_pkcs8()?, self.certificate.to_pem()?].concat())
    }

    /// The certificate alone: what others need to know the site's broker by.
    ///
    /// # Errors
    /// What OpenSSL says.
    pub fn certificate_pem(&self) -> Result<Vec<u8>, ErrorStack> {
        self.certificate.to_pem()
    }

    /// A broker's certificate for `names` (DNS names and addresses), with a new key: the certificate, the authority's, the key.
    ///
    /// # Errors
    /// What OpenSSL says.
    pub fn sign_broker(&self, names: &[String], now_unix_s: i64) -> Result<Vec<u8>, ErrorStack> {
        let key = new_key()?;
        let end = Asn1Time::from_unix(now_unix_s.max(CLOCK_FLOOR_UNIX_S).saturating_add(SERVES_S))?;
        let subject = names.first().map_or("broker", String::as_str);
        let mut builder = begin(subject, NO_END, &key)?;
        builder.set_not_after(&end)?;
        builder.set_issuer_name(self.certificate.subject_name())?;
        builder.append_extension(BasicConstraints::new().critical().build()?)?;
        builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
        builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
        let mut alternatives = SubjectAlternativeName::new();
        for name in names {
            if name.parse::<IpAddr>().is_ok() {
                alternatives.ip(name)
            } else {
                alternatives.dns(name)
            };
        }
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let (alternatives, id) = (alternatives.build(&context)?, SubjectKeyIdentifier::new().build(&context)?);
        let authority = AuthorityKeyIdentifier::new().keyid(true).build(&context)?;
        for extension in [alternatives, id, authority] {
            builder.append_extension(extension)?;
        }
        builder.sign(&self.key, MessageDigest::sha256())?;
        let certificate = builder.build();
        Ok([certificate.to_pem()?, self.certificate.to_pem()?, key.private_key_to_pem_pkcs8()?].concat())
    }

    /// Whether the broker's certificate in `pem` is of this authority, for exactly `names`, with its key, and neither over nor near
    /// its end.
    pub fn vouches_for(&self, pem: &[u8], names: &[String], now_unix_s: i64) -> bool {
        let checked = || -> Result<bool, ErrorStack> {
            let (certificate, key) = (X509::from_pem(pem)?, PKey::private_key_from_pem(pem)?);
            let renew = Asn1Time::from_unix(now_unix_s.max(CLOCK_FLOOR_UNIX_S).saturating_add(RENEW_S))?;
            let (mut held, mut wanted) = (names_of(&certificate), names.to_vec());
            held.sort();
            wanted.sort();
            Ok(certificate.verify(&self.key)?
                && certificate.public_key()?.public_eq(&key)
                && certificate.not_after().compare(&renew)?.is_gt()
                && held == wanted)
        };
        checked().unwrap_or(false)
    }
}

/// The names and addresses that a certificate is for.
fn names_of(certificate: &X509) -> Vec<String> {
    let names = certificate.subject_alt_names();
    let name = |name: &openssl::x509::GeneralNameRef| {
        let address = || match name.ipaddress()? {
            bytes if bytes.len() == 4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string()),
            bytes => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()),
        };
        name.dnsname().map(str::to_owned).or_else(address)
    };
    names.iter().flatten().filter_map(name).collect()
}

/// A key on the curve that every TLS library has.
fn new_key() -> Result<PKey<Private>, ErrorStack> {
    PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)?)
}

fn common_name(text: &str) -> Result<X509Name, ErrorStack> {
    let mut name = X509Name::builder()?;
    let text: String = text.chars().take(COMMON_NAME_BYTES_MAX).collect();
    name.append_entry_by_nid(Nid::COMMONNAME, &text)?;
    Ok(name.build())
}

fn begin(subject: &str, end: &str, key: &PKey<Private>) -> Result<X509Builder, ErrorStack> {
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let mut serial = BigNum::new()?;
    serial.rand(126, MsbOption::ONE, false)?;
    builder.set_serial_number(&*Asn1Integer::from_bn(&serial)?)?;
    builder.set_subject_name(&*common_name(subject)?)?;
    builder.set_pubkey(key)?;
    builder.set_not_before(&*Asn1Time::from_str(BEGIN)?)?;
    builder.set_not_after(&*Asn1Time::from_str(end)?)?;
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use openssl::x509::X509StoreContext;
    use openssl::x509::store::X509StoreBuilder;
    use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};

    use super::*;

    fn site() -> Name {
        Name::new("home").unwrap()
    }

    fn names() -> Vec<String> {
        ["hub.local", "hub", "192.168.1.7", "fe80::1"].map(str::to_owned).to_vec()
    }

    /// What OpenSSL's own verification says at a time.
    fn verified(authority: &Authority, pem: &[u8], at_unix_s: i64) -> bool {
        let mut parameters = X509VerifyParam::new().unwrap();
        parameters.set_flags(X509VerifyFlags::X509_STRICT).unwrap();
        parameters.set_time(at_unix_s);
        let mut store = X509StoreBuilder::new().unwrap();
        store.set_param(&parameters).unwrap();
        store.add_cert(X509::from_pem(&authority.certificate_pem().unwrap()).unwrap()).unwrap();
        let (store, chain) = (store.build(), openssl::stack::Stack::new().unwrap());
        let certificate = X509::from_pem(pem).unwrap();
        let mut context = X509StoreContext::new().unwrap();
        context.init(&store, &certificate, &chain, |context| context.verify_cert()).unwrap()
    }

    #[test]
    fn a_certificate_made_by_any_clock_is_valid_from_1970_on_for_decades() {
        let authority = Authority::make(&site()).unwrap();
        for made_at in [0, 3, CLOCK_FLOOR_UNIX_S, CLOCK_FLOOR_UNIX_S + 400_000_000] {
            let pem = authority.sign_broker(&names(), made_at).unwrap();
            for at in [0, 1, CLOCK_FLOOR_UNIX_S, CLOCK_FLOOR_UNIX_S + SERVES_S - 1] {
                assert!(verified(&authority, &pem, at), "made at {made_at}, seen at {at}");
            }
        }
        let pem = authority.sign_broker(&names(), 0).unwrap();
        assert!(!verified(&authority, &pem, CLOCK_FLOOR_UNIX_S + SERVES_S + 1));
        assert!(!verified(&Authority::make(&site()).unwrap(), &pem, CLOCK_FLOOR_UNIX_S));
    }

    #[test]
    fn it_is_made_anew_for_other_names_by_another_authority_and_long_before_its_end() {
        let authority = Authority::make(&site()).unwrap();
        let pem = authority.sign_broker(&names(), 0).unwrap();
        assert!(authority.vouches_for(&pem, &names(), 0));
        assert!(authority.vouches_for(&pem, &names(), CLOCK_FLOOR_UNIX_S + SERVES_S - RENEW_S - 10));
        assert!(!authority.vouches_for(&pem, &names(), CLOCK_FLOOR_UNIX_S + SERVES_S - RENEW_S + 10));
        assert!(!authority.vouches_for(&pem, &names()[1..], 0));
        assert!(!Authority::make(&site()).unwrap().vouches_for(&pem, &names(), 0));
        assert!(!authority.vouches_for(b"", &names(), 0));
        let without_key: Vec<u8> = pem
            .split_inclusive(|&byte| byte == b'\n')
            .take_while(|line| !line.windows(7).any(|w| w == b"PRIVATE"))
            .flatten()
            .copied()
            .collect();
        assert!(!authority.vouches_for(&without_key, &names(), 0));
    }

    #[test]
    fn an_authority_comes_back_from_its_file_and_half_of_it_does_not() {
        let authority = Authority::make(&site()).unwrap();
        let pem = authority.to_pem().unwrap();
        let again = Authority::from_pem(&pem).unwrap();
        assert_eq!(again.certificate_pem().unwrap(), authority.certificate_pem().unwrap());
        assert!(Authority::from_pem(&authority.certificate_pem().unwrap()).is_err());
        let other = Authority::make(&site()).unwrap();
        let mixed = [other.key.private_key_to_pem_pkcs8().unwrap(), authority.certificate_pem().unwrap()].concat();
        assert!(Authority::from_pem(&mixed).is_err());
    }

    #[test]
    fn a_long_site_name_fits_the_certificate() {
        let site = Name::new("s".repeat(64)).unwrap();
        let authority = Authority::make(&site).unwrap();
        let pem = authority.sign_broker(&[format!("{}.local", "h".repeat(63))], 0).unwrap();
        assert!(verified(&authority, &pem, CLOCK_FLOOR_UNIX_S));
    }
}
