//! What evidence is compared with: the release, the roots of endorsement keys, the clock.

use crate::cli::Judge;
use crate::failure::{Failure, Outcome};
use crate::file;
use crate::target::Files;
use pillar_model::{DbxEntry, DeniedTpmFirmware, Digest, Release, ReleasePredicate};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A release names some hundred packages; this is ten times that.
const RELEASE_MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Every TPM maker's roots together are under 1 MiB.
const EK_CA_MAX_BYTES: u64 = 1024 * 1024;
/// in-toto Statement v1.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// What to compare with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reference {
    /// The releases that may run.
    pub releases: Vec<ReleasePredicate>,
    /// Trusted authorities, DER.
    pub ek_roots: Vec<Vec<u8>>,
    /// Authorities that need a root above them, DER.
    pub ek_intermediates: Vec<Vec<u8>>,
    /// Endorsement keys that alone are trusted (SHA-256 of `TPMT_PUBLIC`); empty: every one with a good certificate.
    pub ek_allowed: Vec<Digest>,
    /// Firmware of TPMs that is not believed.
    pub denied_tpm_firmware: Vec<DeniedTpmFirmware>,
    /// What each machine's dbx must hold.
    pub dbx_required: Vec<DbxEntry>,
}

impl Reference {
    /// Reads the files that the arguments or the machine's record name.
    pub fn load(files: &Files, judge: &Judge) -> Outcome<Self> {
        let releases = vec![release(&files.release(judge))?];
        let (ek_roots, ek_intermediates) = authorities(&files.ek_ca(judge)?)?;
        Ok(Self { releases, ek_roots, ek_intermediates, ..Self::default() })
    }
}

fn release(path: &Path) -> Outcome<ReleasePredicate> {
    let hint = "`./just image` writes out/release.json; --release names another one";
    let bytes = file::read(path, RELEASE_MAX_BYTES).map_err(|failure| failure.hint(hint))?;
    let release: Release = serde_json::from_slice(&bytes).map_err(|error| {
        Failure::because(format!("{} is not a release", path.display()), &error).hint(hint)
    })?;
    let known =
        release.statement_type == STATEMENT && release.predicate_type == pillar_layout::RELEASE_PREDICATE;
    if !known {
        let found =
            crate::paint::harmless(&format!("{} / {}", release.statement_type, release.predicate_type));
        return Err(
            Failure::new(format!("{} is a statement of another kind: {found}", path.display())).hint(hint)
        );
    }
    // The command line is what the PCRs cover; the field beside it is what we print.
    let named = pillar_layout::cmdline::ROOT_HASH.to_owned() + "=" + &release.predicate.root_hash.to_string();
    if !release.predicate.cmdline.split_whitespace().any(|word| word == named) {
        let problem =
            format!("{} contradicts itself: its command line does not have {named}", path.display());
        return Err(Failure::new(problem).hint(hint));
    }
    Ok(release.predicate)
}

/// A certificate as DER.
type Der = Vec<u8>;

/// Roots are the certificates that name themselves as their issuer; when none does, every one was given to be trusted.
fn authorities(path: &Path) -> Outcome<(Vec<Der>, Vec<Der>)> {
    let bytes = file::read(path, EK_CA_MAX_BYTES)?;
    let unusable = |problem: &dyn std::error::Error| {
        Failure::because(format!("{} does not hold PEM certificates", path.display()), problem)
    };
    let mut all = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let der = certificate.map_err(|error| unusable(&error))?.to_vec();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| unusable(&error))?;
        let is_root = parsed.subject() == parsed.issuer();
        all.push((is_root, der));
    }
    if all.is_empty() {
        return Err(Failure::new(format!("{} holds no PEM certificate", path.display())));
    }
    let (mut roots, mut others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(is_root, _)| *is_root);
    if roots.is_empty() {
        std::mem::swap(&mut roots, &mut others);
    }
    let der = |list: Vec<(bool, Der)>| list.into_iter().map(|(_, der)| der).collect();
    Ok((der(roots), der(others)))
}

/// The wall clock, in seconds since 1970: for the dates in certificates alone.
pub fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn other_files_are_refused_by_what_they_lack() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("file");
        let check = |text: &str, read: &dyn Fn() -> Option<String>, want: &str| {
            fs::write(&path, text).expect("written");
            let error = read().expect(want);
            assert!(error.contains(want), "{error}");
        };
        let release = || release(&path).err().map(|f| f.to_string());
        let hash = "ab".repeat(32);
        let other = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","predicateType":"urn:pillar:release:v1","subject":[],
            "predicate":{{"version":"1","flavour":"virt","epoch":1,"root_hash":"{hash}","kernel":"6","cmdline":"roothash=00",
            "sizes_bytes":{{}},"boot_applications":[],"pcrs":{{}},"packages":[],
            "secure_boot":{{"pk":"{hash}","kek":"{hash}","db":"{hash}"}}}}}}"#
        );
        check(&other, &release, "contradicts itself: its command line does not have roothash=abab");
        check(&other.replace("release:v1", "release:v2"), &release, "is a statement of another kind");
        check("{}", &release, "is not a release\n  caused by: missing field `_type`");
        let authorities = || authorities(&path).err().map(|f| f.to_string());
        check("", &authorities, "holds no PEM certificate");
        check(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &authorities,
            "does not hold PEM certificates",
        );
    }
}
