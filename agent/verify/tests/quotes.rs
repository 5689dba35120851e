//! Quotes made with swtpm, genuine and forged: judged as their list says. The vectors are data beside the repository;
//! without them the test says so and passes.
#![allow(clippy::unwrap_used)]

use pillar_model::Bank;
use pillar_verify::tpm::selection;
use pillar_verify::{QuoteError, TlsKeyError, ak_name, certified_key, check_quote, tls_key};
use std::path::{Path, PathBuf};

const PCRS: [u8; 10] = [0, 1, 2, 3, 4, 5, 7, 11, 14, 15];

struct Vectors {
    folder: PathBuf,
    nonce: Vec<u8>,
}

impl Vectors {
    fn open() -> Option<Self> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root =
            std::env::var_os("PILLAR_VECTORS").map_or(workspace.join("../shared/vectors"), PathBuf::from);
        let folder = root.join("quotes");
        if !folder.is_dir() {
            eprintln!("skipped: no vectors at {} (set PILLAR_VECTORS)", folder.display());
            return None;
        }
        let nonce = std::fs::read_to_string(folder.join("nonce.hex")).unwrap();
        Some(Self { folder, nonce: hex::decode(nonce.trim()).unwrap() })
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// `TPMT_PUBLIC` from a file with its size in front.
    fn public(&self, name: &str) -> Vec<u8> {
        self.read(&format!("{name}.tpm2b_public"))[2..].to_vec()
    }

    /// Judges a vector; a part that the vector does not bring is that of the good ECC quote.
    fn judge(&self, name: &str, key: &str, bank: Bank) -> Result<(), String> {
        let or_good = |suffix: &str| {
            let name = format!("{name}.{suffix}");
            let exists = self.folder.join(&name).exists();
            self.read(&if exists { name } else { format!("02_good_ecc.{suffix}") })
        };
        let wanted = selection(bank, &PCRS);
        check_quote(&or_good("attest"), &or_good("sig"), &self.public(key), &self.nonce, &wanted)
            .map(drop)
            .map_err(|e| e.to_string())
    }
}

// attack: A1 A2 A3 A7
#[test]
fn genuine_quotes_are_accepted_and_forged_ones_refused_for_the_right_reason() {
    let Some(vectors) = Vectors::open() else { return };
    for (name, key, bank) in [
        ("01_good_rsa", "ak_r", Bank::Sha256),
        ("02_good_ecc", "ak_e", Bank::Sha256),
        ("03_good_ecc_sha384bank", "ak_e", Bank::Sha384),
    ] {
        assert_eq!(vectors.judge(name, key, bank), Ok(()), "{name}");
    }
    for (name, key, reason) in [
        ("02_good_ecc", "ak_r", "signature scheme"),
        ("03_good_ecc_sha384bank", "ak_e", "PCR selection"),
        ("04_two_banks", "ak_e", "PCR selection"),
        ("05_dup_bank_selection", "ak_e", "PCR selection"),
        ("06_resettable_pcr16", "ak_e", "PCR selection"),
        ("07_old_nonce", "ak_e", "extraData"),
        ("08_subset_only_pcr0", "ak_e", "PCR selection"),
        ("09_certify_tlskey", "ak_e", "not a quote"),
        ("10_gettime", "ak_e", "not a quote"),
        ("11_forged_by_unrestricted_key", "tlskey", "not restricted"),
        ("11_forged_by_unrestricted_key", "ak_e", "does not verify"),
        ("12_bad_magic_unrestricted_key", "tlskey", "magic"),
        ("13_trailing_byte", "ak_e", "1 bytes behind its end"),
        ("14_truncated", "ak_e", "ends early"),
        ("15_sig_trailing", "ak_e", "1 bytes behind its end"),
        ("16_sig_zero_r_s", "ak_e", "does not verify"),
        ("17_sig_says_sha1", "ak_e", "is not the key's"),
    ] {
        let found = vectors.judge(name, key, Bank::Sha256).expect_err(name);
        assert!(found.contains(reason), "{name}: {found}");
    }
}

// attack: A6
#[test]
fn nonces_are_not_compared_by_prefix() {
    let Some(vectors) = Vectors::open() else { return };
    let (attest, signature) = (vectors.read("02_good_ecc.attest"), vectors.read("02_good_ecc.sig"));
    let (key, wanted) = (vectors.public("ak_e"), selection(Bank::Sha256, &PCRS));
    let nonce = &vectors.nonce;
    for wrong in [&nonce[..31], &[nonce.as_slice(), &[0]].concat(), &[]] {
        let verdict = check_quote(&attest, &signature, &key, wrong, &wanted);
        assert_eq!(verdict, Err(QuoteError::Nonce));
    }
}

/// The name that the quote says is its signer's, qualified by the hierarchy, is over this name.
#[test]
fn a_name_is_the_hash_of_the_public_area() {
    let Some(vectors) = Vectors::open() else { return };
    let key = vectors.public("ak_e");
    let name = ak_name(&key).unwrap();
    let hash = ring::digest::digest(&ring::digest::SHA256, &key);
    assert_eq!(name, [&[0, 0x0B], hash.as_ref()].concat());
}

/// A genuine certification by a TPM, made for another purpose and with an AK below the EK.
// attack: B3
#[test]
fn a_certification_is_believed_for_its_purpose_alone() {
    let Some(vectors) = Vectors::open() else { return };
    let (ak, key) = (vectors.public("ak_e"), vectors.public("tlskey"));
    let (attest, signature) =
        (vectors.read("09_certify_tlskey.attest"), vectors.read("09_certify_tlskey.sig"));
    let spki = certified_key(&ak, &key, &attest, &signature, &DATA).unwrap();
    // The point stands at the end of both.
    assert_eq!((spki.len(), &spki[27..59]), (91, &key[key.len() - 66..key.len() - 34]));
    assert_eq!(tls_key(&ak, &key, &attest, &signature), Err(TlsKeyError::Purpose));
    assert_eq!(certified_key(&ak, &ak, &attest, &signature, &DATA), Err(TlsKeyError::Unfit(RESTRICTED)));
    let quote = (vectors.read("02_good_ecc.attest"), vectors.read("02_good_ecc.sig"));
    let error = certified_key(&ak, &key, &quote.0, &quote.1, &DATA).unwrap_err();
    assert!(error.to_string().contains("not a certification"), "{error}");
}

/// The qualifying data of the vector.
const DATA: [u8; 4] = [0x00, 0xFF, 0x55, 0xAA];
const RESTRICTED: &str = "is restricted: it cannot sign a handshake";
