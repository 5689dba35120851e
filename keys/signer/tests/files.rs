//! Key files: ours, and those of openssl, where it is installed.

use pillar_signer::{
    Error, KeyFile, Passphrase, PassphraseFrom, Protection, Signer, Source, change_passphrase,
};
use ring::signature::{ED25519, UnparsedPublicKey};
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("closed");
        path
    }

    fn passphrase(&self, text: &str) -> PassphraseFrom {
        PassphraseFrom::File(self.file(&format!("pass-{text}"), format!("{text}\n")))
    }
}

fn secret(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned())
}

/// For keys that ask nobody.
fn nobody() -> PassphraseFrom {
    PassphraseFrom::File("/nonexistent".into())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

fn begins(path: &Path, label: &str) -> bool {
    fs::read_to_string(path).expect("PEM").starts_with(&format!("-----BEGIN {label}-----\n"))
}

#[track_caller]
fn signs(key: &Path, passphrase: &PassphraseFrom) -> Signer {
    let signer = Signer::open(&Source::File(key.to_owned()), passphrase).expect("a key");
    let signature = signer.sign(b"message").expect("a signature");
    UnparsedPublicKey::new(&ED25519, &signer.public().0).verify(b"message", &signature).expect("it verifies");
    signer
}

#[test]
fn a_key_is_made_kept_and_given_other_passphrases() {
    let place = Place::new();
    let (path, right) = (place.path("me.key"), place.passphrase("right"));
    let made = KeyFile::create(&path, Some(&secret("right"))).expect("made");
    assert_eq!((mode(&path), made.protection()), (0o600, Protection::Passphrase));
    assert!(begins(&path, "ENCRYPTED PRIVATE KEY"));
    assert_eq!(signs(&path, &right).public(), made.public());
    assert!(matches!(
        KeyFile::open(&path, &place.passphrase("wrong")),
        Err(Error::WrongPassphrase(of)) if of == path
    ));
    assert!(matches!(KeyFile::create(&path, None), Err(Error::File { operation: "create", .. })));

    change_passphrase(&made, Some(&secret("other"))).expect("changed");
    assert!(matches!(KeyFile::open(&path, &right), Err(Error::WrongPassphrase(_))));
    let other = place.passphrase("other");
    assert_eq!(signs(&path, &other).public(), made.public());

    change_passphrase(&KeyFile::open(&path, &other).expect("opens"), None).expect("removed");
    assert!(begins(&path, "PRIVATE KEY"));
    assert_eq!((mode(&path), signs(&path, &nobody()).public()), (0o600, made.public()));
    assert_eq!(fs::read_dir(place.0.path()).expect("a folder").count(), 4, "nothing is left beside it");
    assert_eq!(*made.plain_pem().expect("PEM"), fs::read_to_string(&path).expect("PEM"));
    assert!(!format!("{made:?}").contains("pkcs8"));
}

#[test]
fn every_key_is_another_one() {
    let place = Place::new();
    let key = |name: &str| KeyFile::create(&place.path(name), None).expect("made").public();
    assert_ne!(key("a"), key("b"));
}

// attack: P16
#[test]
fn a_key_that_others_may_read_is_not_used() {
    let place = Place::new();
    let path = place.path("me.key");
    KeyFile::create(&path, None).expect("made");
    for open in [0o640, 0o604, 0o620, 0o602, 0o610, 0o777] {
        fs::set_permissions(&path, Permissions::from_mode(open)).expect("opened");
        let refused = KeyFile::open(&path, &nobody()).expect_err("others may use it");
        assert!(matches!(refused, Error::Open { mode, .. } if mode == open));
        assert_eq!(refused.hint(), Some(format!("chmod 600 {}", path.display())));
    }
    fs::set_permissions(&path, Permissions::from_mode(0o400)).expect("closed");
    KeyFile::open(&path, &nobody()).expect("read only is good");
    let PassphraseFrom::File(passphrase) = place.passphrase("x") else { panic!("a file") };
    fs::set_permissions(&passphrase, Permissions::from_mode(0o644)).expect("opened");
    assert!(matches!(PassphraseFrom::File(passphrase).ask(""), Err(Error::Open { mode: 0o644, .. })));
}

#[test]
fn what_is_no_key_is_named() {
    let place = Place::new();
    let pem = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
    let certificate = pem("CERTIFICATE", "AAAA");
    for (name, text, words) in [
        ("empty", String::new(), ""),
        ("certificate", certificate, "it holds CERTIFICATE"),
        ("noise", pem("PRIVATE KEY", "AAAA"), ""),
        ("sealed-noise", pem("ENCRYPTED PRIVATE KEY", "AAAA"), ""),
        ("large", "x".repeat(100_000), "larger than 65536 bytes"),
    ] {
        let refused = KeyFile::open(&place.file(name, text), &nobody()).expect_err(name);
        let Error::NotAKey { problem, .. } = &refused else { panic!("{name}: {refused}") };
        assert!(problem.contains(words), "{name}: {problem}");
        assert!(refused.hint().is_some());
    }
    assert!(matches!(
        KeyFile::open(&place.path("nowhere"), &nobody()),
        Err(Error::File { operation: "open", .. })
    ));
}

/// The program, or none and a word about what was not tested.
fn installed(program: &str) -> bool {
    let there = Command::new(program).arg("-?").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("{program} is not installed: what it makes and reads was not tested");
    }
    there
}

fn openssl(arguments: &[&str], files: &[&Path]) {
    let mut command = Command::new("openssl");
    // A file stands where the arguments say {}.
    let mut files = files.iter();
    for argument in arguments {
        match *argument {
            "{}" => command.arg(files.next().expect("one file for each place")),
            other => command.arg(other),
        };
    }
    let output = command.output().expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn openssl_reads_our_files_and_we_read_its() {
    if !installed("openssl") {
        return;
    }
    let place = Place::new();
    let right = place.passphrase("right");
    let pass = format!("file:{}", place.path("pass-right").display());
    let plain = place.file("openssl.key", "");
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "{}"], &[&plain]);
    let public = signs(&plain, &nobody()).public();
    for (name, options) in [
        ("default", &[][..]),
        ("aes-128", &["-v2", "aes-128-cbc"]),
        ("sha512", &["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512"]),
        ("scrypt", &["-scrypt"]),
    ] {
        let sealed = place.file(name, "");
        let head = ["pkcs8", "-topk8", "-in", "{}", "-out", "{}", "-passout", &pass];
        openssl(&[&head[..], options].concat(), &[&plain, &sealed]);
        assert_eq!(signs(&sealed, &right).public(), public, "{name}");
    }
    let ours = place.path("ours.key");
    let made = KeyFile::create(&ours, Some(&secret("right"))).expect("made");
    let opened = place.file("opened.key", "");
    openssl(&["pkcs8", "-in", "{}", "-passin", &pass, "-out", "{}"], &[&ours, &opened]);
    assert_eq!(signs(&opened, &nobody()).public(), made.public());
    // Keys of other kinds.
    let other = place.file("p256.key", "");
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "{}"], &[&other]);
    assert!(matches!(KeyFile::open(&other, &nobody()), Err(Error::NotAKey { .. })));
}

#[test]
fn an_openssh_file_is_refused_with_the_way_to_use_it() {
    if !installed("ssh-keygen") {
        return;
    }
    let place = Place::new();
    let path = place.path("id");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status();
    assert!(made.expect("ssh-keygen runs").success());
    let refused = KeyFile::open(&path, &nobody()).expect_err("not PKCS#8");
    assert!(refused.hint().expect("a hint").contains("ssh-add"), "{refused}");
}

#[test]
fn a_passphrase_comes_through_a_descriptor() {
    // A descriptor of a file that has no name any more stands for a pipe.
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all("geheim ä\nmore".as_bytes()).expect("written");
    std::io::Seek::rewind(&mut file).expect("a file");
    let number = std::os::fd::AsRawFd::as_raw_fd(&file).unsigned_abs();
    assert_eq!(PassphraseFrom::Descriptor(number).ask("").expect("a line").as_str(), "geheim ä");
    assert!(matches!(PassphraseFrom::Descriptor(9999).ask(""), Err(Error::File { operation: "open", .. })));
}
