//! Servers with keys that are named and others, and certificates at all times.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PublicKeyData as _,
    date_time_ymd,
};
use rustls::crypto::ring::default_provider;

/// 2026-07-01.
const NOW: u64 = 1_782_864_000;
const YEAR: u64 = 365 * 86_400;

/// The first of January of this year, seconds since 1970 (to two days).
fn year(year: u64) -> u64 {
    (year - 1970) * YEAR + (year - 1969) / 4 * 86_400
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pin: KeyPin,
}

fn pin_of(key: &KeyPair) -> KeyPin {
    KeyPin(digest(&SHA256, &key.subject_public_key_info()).as_ref().try_into().expect("32 bytes"))
}

fn authority() -> Authority {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Dates of authorities are nobody's word: the node settings say for how long the key counts.
    params.not_after = date_time_ymd(2001, 1, 1);
    let (certificate, pin) = (params.self_signed(&key).expect("a certificate").der().clone(), pin_of(&key));
    Authority { issuer: Issuer::new(params, key), certificate, pin }
}

/// Valid from the first of these to the second.
type Years = (i32, i32);

/// A certificate of this authority for `time.lan`, valid in whole years.
fn leaf(
    by: &Authority,
    years: Years,
    change: fn(&mut CertificateParams),
) -> (CertificateDer<'static>, KeyPin) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["time.lan".to_owned()]).expect("parameters");
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    change(&mut params);
    (params.signed_by(&key, &by.issuer).expect("a certificate").der().clone(), pin_of(&key))
}

fn judge(certificates: &[CertificateDer<'_>], keys: &[KeyPin], clock: Clock) -> Result<Chain, TrustError> {
    let name = ServerName::try_from("time.lan").expect("a name");
    let chain = Chain::new(certificates, &name, keys, &Arc::new(default_provider()))?;
    chain.check(clock).map(|()| chain)
}

fn clock(unix_s: u64, is_proven: bool) -> Clock {
    Clock { unix_s, earliest_unix_s: NOW, is_proven }
}

// attack: P18
#[test]
fn a_key_that_is_named_is_enough() {
    let by = authority();
    let (certificate, pin) = leaf(&by, (2001, 2002), |params| params.subject_alt_names.clear());
    // Long expired, for nobody, by nobody: the key counts.
    let chain = judge(std::slice::from_ref(&certificate), &[pin], clock(NOW, true)).expect("trusted");
    assert_eq!(chain.is_valid_at(year(2040)), Ok(()));
    // And any other does not; which there are is told.
    let error =
        judge(&[certificate, by.certificate], &[KeyPin([7; 32])], clock(NOW, false)).expect_err("unknown");
    assert_eq!(error, TrustError::UnknownKey(format!("{pin}, {}", by.pin)));
    assert!(error.to_string().contains("the node settings name none of its keys"));
    assert!(matches!(judge(&[], &[pin], clock(NOW, false)), Err(TrustError::UnknownKey(_))));
}

// attack: P18
#[test]
fn an_authority_vouches_for_a_name_and_a_purpose() {
    let (by, other) = (authority(), authority());
    let good = leaf(&by, (2026, 2028), |_| {}).0;
    assert!(judge(&[good.clone(), by.certificate.clone()], &[by.pin], clock(NOW, true)).is_ok());
    let another_name = leaf(&by, (2026, 2028), |params| {
        params.subject_alt_names =
            CertificateParams::new(vec!["a.lan".to_owned()]).expect("a name").subject_alt_names;
    });
    let another_purpose = leaf(&by, (2026, 2028), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    for (certificate, by, why) in [
        (&another_name.0, &by, "not valid for name"),
        (&another_purpose.0, &by, "extended key usage"),
        // The key that is named is sent along, and signed nothing.
        (&good, &other, "did not sign it"),
    ] {
        let error = judge(&[certificate.clone(), by.certificate.clone()], &[by.pin], clock(NOW, false));
        let error = error.expect_err(why);
        assert!(matches!(&error, TrustError::Certificate(said) if said.contains(why)), "{why}: {error:?}");
    }
    // An authority that the server does not send is not known.
    assert!(matches!(judge(&[good], &[by.pin], clock(NOW, false)), Err(TrustError::UnknownKey(_))));
}

// attack: P18
#[test]
fn dates_are_checked_as_well_as_the_clock_allows() {
    let by = authority();
    let long_ago = year(1990);
    // (valid in these years, our clock, it is proven, what becomes of it)
    let table: [(Years, u64, bool, Result<(), TrustError>); 9] = [
        ((2026, 2028), NOW, false, Ok(())),
        ((2026, 2028), NOW, true, Ok(())),
        // The clock is not set: it stands at the beginning of all time, or far ahead.
        ((2026, 2028), long_ago, false, Ok(())),
        ((2026, 2028), year(2045), false, Ok(())),
        ((2030, 2031), long_ago, false, Ok(())),
        // It is set, and shows that the certificate is not valid.
        ((2026, 2028), year(2045), true, Err(TrustError::Date(year(2045)))),
        ((2030, 2031), NOW, true, Err(TrustError::Date(NOW))),
        // Expired when this software was made.
        ((2020, 2025), NOW, false, Err(TrustError::NoMoment)),
        ((2020, 2025), year(2022), false, Err(TrustError::NoMoment)),
    ];
    for (number, (years, unix_s, is_proven, expected)) in table.into_iter().enumerate() {
        let certificate = leaf(&by, years, |_| {}).0;
        let judged = judge(&[certificate, by.certificate.clone()], &[by.pin], clock(unix_s, is_proven));
        assert_eq!(judged.map(drop), expected, "{number}");
    }
    // Two certificates that are never valid together.
    let between = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (date_time_ymd(2030, 1, 1), date_time_ymd(2031, 1, 1));
    let certificate = params.signed_by(&between, &by.issuer).expect("a certificate").der().clone();
    let middle = Authority { issuer: Issuer::new(params, between), certificate, pin: by.pin };
    let chain = [leaf(&middle, (2026, 2028), |_| {}).0, middle.certificate, by.certificate.clone()];
    let judged = judge(&chain, &[by.pin], clock(NOW, false)).map(drop);
    assert_eq!(judged, Err(TrustError::NoMoment));
    // What the server then proves must be a time at which it could.
    let certificate = leaf(&by, (2026, 2028), |_| {}).0;
    let chain =
        judge(&[certificate, by.certificate.clone()], &[by.pin], clock(long_ago, false)).expect("trusted");
    assert_eq!(chain.is_valid_at(NOW), Ok(()));
    assert_eq!(chain.is_valid_at(year(2030)), Err(TrustError::Date(year(2030))));
    assert_eq!(chain.is_valid_at(year(2025)), Err(TrustError::Date(year(2025))));
}
