//! Makes real development keys with the tools tree and looks at what lies on the disk.

use pillar_keys::{Error, Keys, Made, Variable, certificate_digest, common_name, make};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).expect("file is there").permissions().mode() & 0o7777
}

/// The signature list that must stand at the end of an `.auth` file (UEFI section 32.4.1): one X.509 certificate under
/// our owner GUID.
fn signature_list(der: &[u8]) -> Vec<u8> {
    let x509 = guid_bytes("a5c059a1-94e4-4aa7-87b5-ab155c2bf072");
    let entry = 16 + der.len();
    let mut list = x509.to_vec();
    for number in [28 + entry, 0, entry] {
        list.extend(u32::try_from(number).expect("small").to_le_bytes());
    }
    list.extend(guid_bytes(pillar_layout::SIGNATURE_OWNER));
    list.extend(der);
    list
}

/// A GUID as UEFI writes it: the first three fields little endian.
fn guid_bytes(text: &str) -> [u8; 16] {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hexadecimal");
    [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map(byte)
}

#[test]
fn keys_are_made_once_whole_and_closed() {
    if pillar_tools::Tools::open().is_err() {
        eprintln!("skipped: no tools tree; `./just tools` builds it");
        return;
    }
    let place = tempfile::tempdir().expect("temporary folder");
    let dir = place.path().join("dev");
    let (keys, made) = make(&dir, 2).expect("keys are made");
    assert_eq!((made, keys.operators().len()), (Made::New, 2));

    // Nothing beside the folder, nothing open in it, nothing undeclared.
    assert_eq!(fs::read_dir(place.path()).expect("listed").count(), 1);
    assert_eq!(mode(&dir), 0o700);
    let files: Vec<_> = fs::read_dir(&dir).expect("listed").map(|e| e.expect("entry").path()).collect();
    assert_eq!(files.len(), 3 * 3 + 2 + 2 * 2);
    assert!(files.iter().all(|f| mode(f) == 0o600));

    for variable in Variable::ALL {
        let files = keys.secure_boot(variable);
        assert_eq!(
            common_name(&files.certificate).expect("a name"),
            format!("Pillar development {variable}")
        );
        let pem = fs::read(&files.certificate).expect("certificate");
        let der = CertificateDer::from_pem_slice(&pem).expect("PEM");
        let auth = fs::read(&files.auth).expect("auth");
        assert!(auth.ends_with(&signature_list(&der)), "{variable}.auth ends with the signature list");
        // EFI_TIME, then WIN_CERTIFICATE_UEFI_GUID: revision 0x0200, type EFI_GUID, PKCS#7.
        assert_eq!(auth[20..24], [0x00, 0x02, 0xF1, 0x0E]);
        assert_eq!(auth[24..40], guid_bytes("4aafd29d-68df-49ee-8aa9-347d375665a7"));
    }
    let digests = keys.certificate_digests().expect("digests");
    assert_eq!(digests.db, certificate_digest(&keys.secure_boot(Variable::Db).certificate).expect("digest"));
    assert_eq!(keys.operators_pem().expect("certificates").matches("BEGIN CERTIFICATE").count(), 2);

    // A second run changes nothing; more operators are added to what is there.
    let (_, made) = make(&dir, 2).expect("they exist");
    assert_eq!(made, Made::Existed);
    assert_eq!(keys.certificate_digests().expect("digests"), digests);
    let (keys, made) = make(&dir, 3).expect("one more");
    assert_eq!((made, keys.operators().len()), (Made::Added(1), 3));

    // Open or incomplete folders are refused with the file's name.
    let db = keys.secure_boot(Variable::Db);
    fs::set_permissions(&db.key, fs::Permissions::from_mode(0o640)).expect("chmod");
    let error = Keys::load(&dir).expect_err("open key");
    assert!(
        error.to_string().contains("db.key is open to other users (mode 0640, expected 0600)"),
        "{error}"
    );
    fs::set_permissions(&db.key, fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::remove_file(&db.auth).expect("removed");
    let error = make(&dir, 3).expect_err("incomplete");
    assert!(error.to_string().ends_with("is incomplete: it lacks db.auth"), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("move")), "{error}");
}

#[test]
fn what_an_interrupted_run_left_is_thrown_away() {
    if pillar_tools::Tools::open().is_err() {
        eprintln!("skipped: no tools tree; `./just tools` builds it");
        return;
    }
    let place = tempfile::tempdir().expect("temporary folder");
    let left = place.path().join(".dev.new");
    fs::create_dir(&left).expect("created");
    fs::write(left.join("PK.key"), "half").expect("written");
    make(&place.path().join("dev"), 1).expect("keys are made");
    assert!(!left.exists());
}

#[test]
fn a_missing_folder_and_a_wrong_number_are_refused() {
    let place = tempfile::tempdir().expect("temporary folder");
    assert!(matches!(Keys::load(&place.path().join("dev")), Err(Error::NoFolder(_))));
    assert!(matches!(make(&place.path().join("dev"), 0), Err(Error::Operators(0))));
}
