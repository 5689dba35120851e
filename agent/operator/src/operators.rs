//! The operators as certificates name them. What counts of a certificate is its key; the name is for people.

use crate::failure::{Failure, Outcome};
use crate::file;
use pillar_model::{OperatorEntry, OperatorKey, PillarId};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::fs;
use std::path::{Path, PathBuf};

/// No certificate file is larger.
const PEM_MAX_BYTES: u64 = 256 * 1024;
/// Ed25519 (RFC 8410).
const ED25519: &str = "1.3.101.112";
/// `SubjectPublicKeyInfo` of such a key, without the key.
const ED25519_SPKI: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The operators in these files; without any, those of `operator-*.crt` in the folder of `beside`.
pub fn load(named: &[PathBuf], beside: &Path) -> Outcome<Vec<OperatorEntry>> {
    let found;
    let paths = if named.is_empty() {
        found = in_folder(beside, "crt");
        &found
    } else {
        named
    };
    let mut operators: Vec<OperatorEntry> = Vec::new();
    for path in paths {
        for operator in read(path)? {
            if operators.iter().all(|known| known.key != operator.key) {
                operators.push(operator);
            }
        }
    }
    if operators.is_empty() {
        let folder = beside.parent().unwrap_or(Path::new("")).display();
        return Err(Failure::new(format!("no operators' certificates (operator-*.crt) are in {folder}"))
            .hint("--operators FILE… names the certificates that the image was built with"));
    }
    Ok(operators)
}

/// Whether pillars whose constitution names these operators serve who connects with this key (`SubjectPublicKeyInfo`).
pub fn serve(operators: &[OperatorEntry], spki: &[u8]) -> bool {
    spki.strip_prefix(ED25519_SPKI).is_some_and(|key| operators.iter().any(|operator| operator.key.0 == key))
}

/// `operator-*.EXTENSION` in the folder of a file, by name.
pub fn in_folder(beside: &Path, extension: &str) -> Vec<PathBuf> {
    let folder = beside.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let ours = |path: &PathBuf| {
        path.extension().is_some_and(|e| e == extension)
            && path.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with("operator-"))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(ours).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Outcome<Vec<OperatorEntry>> {
    let bytes = file::read(path, PEM_MAX_BYTES)?;
    let unusable = |problem: &dyn std::error::Error| {
        Failure::because(format!("{} does not hold PEM certificates", path.display()), problem)
    };
    let mut operators = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let der = certificate.map_err(|error| unusable(&error))?;
        operators.push(operator(path, &der)?);
    }
    if operators.is_empty() {
        return Err(Failure::new(format!("{} holds no PEM certificate", path.display())));
    }
    Ok(operators)
}

fn operator(path: &Path, der: &[u8]) -> Outcome<OperatorEntry> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der)
        .map_err(|error| Failure::because(format!("{} holds no certificate", path.display()), &error))?;
    let spki = parsed.public_key();
    let key = <[u8; 32]>::try_from(spki.subject_public_key.data.as_ref())
        .ok()
        .filter(|_| spki.algorithm.algorithm.to_id_string() == ED25519)
        .ok_or_else(|| {
            Failure::new(format!("the key in {} is not an Ed25519 key", path.display()))
                .hint("operators of a cluster sign with Ed25519; `./just keys` makes such keys")
        })?;
    let common_name = parsed.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok());
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name =
        common_name.map(str::to_owned).into_iter().chain(stem).find(|name| name.parse::<PillarId>().is_ok());
    let name = name.ok_or_else(|| {
        Failure::new(format!("the operator in {} has no usable name", path.display()))
            .hint("the certificate's common name or the file's name must be 1 to 63 of a-z, 0-9 and -")
    })?;
    Ok(OperatorEntry { name, key: OperatorKey(key) })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Writes a key and its certificate, as `./just keys` does.
    pub fn write_operator(folder: &Path, name: &str, common_name: &str) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
        let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        let certificate = parameters.self_signed(&key).expect("certificate");
        fs::write(folder.join(format!("{name}.crt")), certificate.pem()).expect("written");
        let path = folder.join(format!("{name}.key"));
        file::create(&path, key.serialize_pem().as_bytes()).expect("written");
    }

    // attack: P23
    #[test]
    fn who_is_served_is_told_by_the_key_of_the_connection() {
        let operators = [OperatorEntry { name: "alice".to_owned(), key: OperatorKey([7; 32]) }];
        let spki = |key: [u8; 32]| [ED25519_SPKI, &key].concat();
        assert!(serve(&operators, &spki([7; 32])));
        assert!(!serve(&operators, &spki([8; 32])));
        assert!(!serve(&[], &spki([7; 32])));
        // A key of another kind may be in the image, and in no constitution.
        assert!(!serve(&operators, &[7; 91]));
        assert!(!serve(&operators, &spki([7; 32])[..43]));
    }

    #[test]
    fn operators_are_those_beside_the_key_or_those_named() {
        let dir = tempfile::tempdir().expect("folder");
        let key = dir.path().join("operator-1.key");
        let none = load(&[], &key).expect_err("none").to_string();
        assert!(none.contains("no operators' certificates") && none.contains("hint: --operators"), "{none}");
        write_operator(dir.path(), "operator-2", "operator-2");
        write_operator(dir.path(), "operator-1", "A Person");
        write_operator(dir.path(), "other", "other");
        let names: Vec<String> = load(&[], &key).expect("two").into_iter().map(|o| o.name).collect();
        // No label: the file's name is taken.
        assert_eq!(names, ["operator-1", "operator-2"]);
        let named = load(&[dir.path().join("other.crt"), dir.path().join("other.crt")], &key).expect("one");
        assert_eq!((named.len(), named[0].name.as_str()), (1, "other"));
    }
}
