//! Operators' keys and certificates, as the library makes them and as the program is used.

use pillar_keys::{common_name, new_operator};
use pillar_signer::{KeyFile, PassphraseFrom, Protection};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pillar-keys");

fn keys(dir: &Path, arguments: &[&str]) -> Output {
    // No terminal to ask on: a session of its own has none.
    Command::new("setsid")
        .args(["-w", PROGRAM])
        .args(arguments)
        .current_dir(dir)
        .env_remove("SSH_AUTH_SOCK")
        .stdin(Stdio::null())
        .output()
        .expect("it runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("closed");
}

#[test]
fn a_certificate_carries_the_key_and_the_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("alice.key");
    let (public, certificate) = new_operator("alice", &file, None).expect("made");
    assert_eq!(certificate, dir.path().join("alice.crt"));
    assert_eq!(common_name(&certificate).expect("a name"), "alice");
    for path in [&file, &certificate] {
        assert_eq!(fs::metadata(path).expect("there").permissions().mode() & 0o7777, 0o600);
    }
    let der = CertificateDer::from_pem_slice(&fs::read(&certificate).expect("there")).expect("PEM");
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("X.509");
    assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), public.0);
    let signature: &[u8] = &parsed.signature_value.data;
    let signed = parsed.tbs_certificate.as_ref();
    ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public.0)
        .verify(signed, signature)
        .expect("self-signed");
    // Nothing is written over, and no half of a pair is left.
    new_operator("alice", &file, None).expect_err("it is there");
    fs::remove_file(&file).expect("removed");
    new_operator("alice", &file, None).expect_err("its certificate is there");
    assert!(!file.exists());
    new_operator("Alice", &dir.path().join("b.key"), None).expect_err("no label");
}

#[test]
fn the_program_makes_keys_and_changes_passphrases() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    private(&path("right"), "right\n");
    private(&path("other"), "other\n");
    let open = |secret: &str| KeyFile::open(&path("me.key"), &PassphraseFrom::File(path(secret)));

    let made =
        keys(dir.path(), &["operator", "me", "--encrypt", "--passphrase-from", "right", "-o", "me.key"]);
    assert!(made.status.success(), "{}", said(&made));
    let public = open("right").expect("opens").public();
    assert!(said(&made).contains(&format!("public key of me: {public}")));
    let again = keys(dir.path(), &["operator", "me", "-o", "me.key"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("cannot create me.key"), "{}", said(&again));

    let change = |arguments: &[&str]| keys(dir.path(), &[&["passphrase", "me.key"], arguments].concat());
    let wrong = change(&["--passphrase-from", "other", "--remove"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(said(&wrong).contains("the passphrase does not open me.key"), "{}", said(&wrong));
    let asked = change(&["--remove"]);
    assert!(said(&asked).contains("no terminal"), "{}", said(&asked));
    assert!(said(&asked).contains("hint: give the passphrase in a file"), "{}", said(&asked));
    let changed = change(&["--passphrase-from", "right", "--new-passphrase-from", "other"]);
    assert!(changed.status.success(), "{}", said(&changed));
    assert_eq!(open("other").expect("opens").public(), public);
    let removed = change(&["--passphrase-from", "other", "--remove"]);
    assert!(removed.status.success(), "{}", said(&removed));
    assert_eq!(open("other").expect("opens").protection(), Protection::Plain);

    let certified = keys(dir.path(), &["certificate", "me", "--key", "me.key", "-o", "again.crt"]);
    assert!(certified.status.success(), "{}", said(&certified));
    assert_eq!(common_name(&path("again.crt")).expect("a name"), "me");
    let agent = keys(dir.path(), &["certificate", "me", "--key", "agent", "-o", "no.crt"]);
    assert!(said(&agent).contains("there is no ssh-agent"), "{}", said(&agent));
}

/// The program on a terminal of its own, made by util-linux' `script`.
struct Typist {
    child: Child,
    seen: String,
}

impl Typist {
    fn start(dir: &Path, command: &str) -> Option<Self> {
        let child = Command::new("script")
            .args(["-qec", command, "/dev/null"])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        match child {
            Ok(child) => Some(Self { child, seen: String::new() }),
            Err(_) => {
                eprintln!("script is not installed: what is typed on a terminal was not tested");
                None
            }
        }
    }

    /// Waits for a prompt that was not answered yet, then types.
    fn answer(&mut self, prompt: &str, text: &str) {
        let from = self.seen.len();
        let output = self.child.stdout.as_mut().expect("piped");
        let mut byte = [0];
        while !self.seen[from..].ends_with(prompt) {
            assert_eq!(
                output.read(&mut byte).expect("readable"),
                1,
                "ended without {prompt:?}: {}",
                self.seen
            );
            self.seen.push(byte[0].into());
        }
        self.child.stdin.as_mut().expect("piped").write_all(text.as_bytes()).expect("typed");
    }

    fn end(mut self) -> (Option<i32>, String) {
        self.child.stdout.take().expect("piped").read_to_string(&mut self.seen).expect("text");
        (self.child.wait().expect("it ends").code(), self.seen)
    }
}

// attack: P16
#[test]
fn what_is_typed_is_not_shown() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("me.key");
    private(&dir.path().join("secret"), "geheim\n");
    let from = PassphraseFrom::File(dir.path().join("secret"));

    let command = format!("{PROGRAM} operator me --encrypt -o me.key");
    let Some(mut typist) = Typist::start(dir.path(), &command) else { return };
    typist.answer("New passphrase: ", "gehx\u{7f}eim\r");
    typist.answer("The same again: ", "falsch\u{15}geheim\r");
    let (code, seen) = typist.end();
    assert_eq!(code, Some(0), "{seen}");
    assert!(!seen.contains("geh") && !seen.contains("falsch"), "{seen}");
    assert_eq!(KeyFile::open(&file, &from).expect("opens").protection(), Protection::Passphrase);

    // Two that differ; and a question that is given up leaves the terminal with its echo.
    let command = format!("{PROGRAM} passphrase me.key; stty -a");
    let mut typist = Typist::start(dir.path(), &command).expect("it ran before");
    typist.answer("Passphrase of me.key: ", "geheim\r");
    typist.answer("New passphrase: ", "a\r");
    typist.answer("The same again: ", "b\r");
    let (_, seen) = typist.end();
    assert!(seen.contains("the two passphrases are not the same"), "{seen}");
    let mut typist = Typist::start(dir.path(), &command).expect("it ran before");
    typist.answer("Passphrase of me.key: ", "geh\u{3}");
    let (_, seen) = typist.end();
    assert!(seen.contains("no passphrase was given"), "{seen}");
    assert!(seen.contains("isig icanon iexten echo "), "{seen}");
    KeyFile::open(&file, &from).expect("as it was");
}
