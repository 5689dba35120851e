//! The program as a script sees it: exit codes, error form, JSON, and nothing verified by default.

use ciborium::value::Value as Cbor;
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder in which the program runs, with an operator's key, a release, an authority and saved evidence.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Desk { dir: tempfile::tempdir().expect("folder") };
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
        let parameters = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
        let certificate = parameters.self_signed(&key).expect("certificate");
        fs::create_dir_all(desk.path("keys/dev")).expect("folder");
        desk.write("keys/dev/operator-1.key", key.serialize_pem());
        desk.write("keys/dev/operator-1.crt", certificate.pem());
        desk.write("ca.pem", certificate.pem());
        desk.write("release.json", release().to_string());
        desk.write("saved.cbor", saved());
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("written");
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillar"));
        for variable in ["PILLAR_KEY", "PILLAR_CERT", "PILLAR_RUN_DIR", "PILLAR_RELEASE", "PILLAR_EK_CA"] {
            command.env_remove(variable);
        }
        command.args(line.split_whitespace()).current_dir(self.dir.path()).output().expect("it starts")
    }

    /// Runs a line and expects this exit code and these words on standard error.
    fn fails(&self, line: &str, code: i32, words: &str) {
        let output = self.run(line);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {errors}");
        assert!(errors.starts_with("error: ") && errors.contains(words), "{line}: {errors}");
        assert!(!errors.contains('\x1b'), "no colours in a pipe: {errors:?}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn release() -> Value {
    let hash = "ab".repeat(32);
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": pillar_layout::RELEASE_PREDICATE,
        "subject": [],
        "predicate": {
            "version": "0.1.0", "flavour": "virt", "epoch": 1, "root_hash": hash, "kernel": "6.12",
            "cmdline": format!("roothash={hash}"),
            "sizes_bytes": {}, "boot_applications": [], "pcrs": {}, "packages": [],
            "secure_boot": { "pk": hash, "kek": hash, "db": hash },
        },
    })
}

fn saved() -> Vec<u8> {
    let word = |text: &str| Cbor::Text(text.to_owned());
    let bytes = |length| Cbor::Bytes(vec![7; length]);
    let map = |fields: &[(&str, Cbor)]| Cbor::Map(fields.iter().map(|(k, v)| (word(k), v.clone())).collect());
    let binding = map(&[
        ("role", word("server")),
        ("nonce", bytes(32)),
        ("exporter", bytes(32)),
        ("attester_spki", bytes(91)),
        ("verifier_spki", bytes(44)),
    ]);
    let names = ["attest", "signature", "ak_public", "ek_public", "ek_certificate", "event_log", "cel"];
    let evidence = map(&names.map(|name| (name, bytes(100))));
    let file = map(&[
        ("format", word("pillar-evidence-v1")),
        ("name", word("p1")),
        ("binding", binding),
        ("evidence", evidence),
    ]);
    let mut cbor = Vec::new();
    ciborium::into_writer(&file, &mut cbor).expect("CBOR");
    cbor
}

fn pins(path: &Path) {
    let value = "cd".repeat(32);
    let firmware = json!({ "0": value, "1": value, "2": value, "3": value, "5": value });
    let counters =
        json!({ "clock_ms": 1, "reset_count": 1, "restart_count": 0, "safe": true, "firmware_version": 1 });
    let pins = json!({ "ak_name": format!("000b{value}"), "firmware": { "sha256": firmware }, "counters": counters });
    fs::write(path, pins.to_string()).expect("written");
}

#[test]
fn each_kind_of_failure_has_its_exit_code_and_words() {
    let desk = Desk::new();
    desk.fails("sell", 1, "unrecognized subcommand");
    desk.fails("status", 3, "no machine runs\n  hint: `./just up`");
    desk.fails("status p9", 5, "there is no machine p9");
    desk.fails("status P9", 5, "\"P9\" is not a machine's name");
    desk.fails(
        "status p1 --from p2",
        1,
        "--from shows the whole cluster as one pillar sees it\n  hint: `pillar explain",
    );
    desk.fails("explain p3", 3, "no machine runs\n  hint: `./just up` starts one; --from or --via");
    desk.fails("attest p3 --from p9", 5, "there is no machine p9");
    desk.fails(
        "enroll 192.0.2.7:7443",
        1,
        "which pillar is at 192.0.2.7:7443?\n  hint: say NAME=192.0.2.7:7443",
    );
    desk.fails("revoke P3", 5, "\"P3\" is not a pillar's name");
    desk.fails("pending --operators ca.pem none.pem", 1, "cannot read none.pem");
    desk.fails("found p1=127.0.0.1:1 p1=127.0.0.1:2", 1, "p1 is named twice");
    desk.fails("found p1=127.0.0.1:1 p2=127.0.0.1:2 --peer p1", 1, "\"p1\" is not NAME=HOST:PORT");
    desk.fails("verify saved.cbor --policy release.json", 1, "release.json is not a policy\n  caused by: ");
    desk.fails("eventlog saved.cbor", 2, "saved.cbor is not a well-formed event log");
    desk.fails("reboot", 1, "reboot wants to know which pillar");
    desk.fails("verify nothing.cbor", 1, "cannot read nothing.cbor\n  caused by: No such file");
    desk.fails("verify release.json", 1, "release.json is not saved evidence\n  caused by: ");
    desk.fails("attest --addr 127.0.0.1:1", 1, "cannot read out/release.json");
    desk.fails(
        "attest --addr 127.0.0.1:1 --release release.json",
        1,
        "no TPM can be believed\n  hint: --ek-ca",
    );
    desk.fails("status --addr 127.0.0.1:1 --key none", 1, "cannot read none");
    desk.fails("status --addr 127.0.0.1:1 --key ca.pem", 1, "cannot use the operator's key");
}

#[test]
fn nobody_there_is_unreachable() {
    let desk = Desk::new();
    let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    desk.fails(
        &format!("status {free}"),
        3,
        &format!("cannot reach {free}\n  caused by: cannot connect to {free}"),
    );
    let attest = format!("attest --addr {free} --release release.json --ek-ca ca.pem --pins p.json");
    desk.fails(&attest, 3, "cannot reach");
    desk.fails(&format!("evidence {free} -o p.cbor"), 3, "cannot reach");
    assert!(!desk.path("p.json").exists() && !desk.path("p.cbor").exists());
}

#[test]
fn saved_evidence_is_refused_without_a_pinned_key() {
    let desk = Desk::new();
    let output = desk.run("verify saved.cbor --release release.json --ek-ca ca.pem");
    assert_eq!(output.status.code(), Some(2));
    let text = text(&output.stdout);
    assert!(text.contains("refused: p1: AK in this TPM: AK not proven to share a TPM with the EK"), "{text}");
    assert!(text.contains("hint: attest online once"), "{text}");
}

#[test]
fn saved_nonsense_is_refused_by_the_verifier_and_leaves_the_pins_alone() {
    let desk = Desk::new();
    pins(&desk.path("pins.json"));
    let before = fs::read(desk.path("pins.json")).expect("pins");
    let output = desk.run("verify saved.cbor --release release.json --ek-ca ca.pem --pins pins.json -o json");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["verified"], json!(false));
    assert_eq!(report["refused"]["check"], json!("structures"), "{report:#}");
    let verdicts: Vec<&str> =
        report["checks"].as_array().expect("checks").iter().filter_map(|c| c["verdict"].as_str()).collect();
    assert_eq!(verdicts[..3], ["pass", "fail", "skip"]);
    assert_eq!(fs::read(desk.path("pins.json")).expect("pins"), before);
    let output = desk.run("verify saved.cbor --release release.json --ek-ca ca.pem --pins pins.json -o ear");
    let ear: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(ear["submods"]["p1"]["ear.status"], json!("contraindicated"), "{ear:#}");
}

#[test]
fn a_result_is_signed_by_an_operator() {
    let desk = Desk::new();
    pins(&desk.path("pins.json"));
    let key = desk.path("keys/dev/operator-1.key");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("private");
    let judge = "verify saved.cbor --release release.json --ek-ca ca.pem --pins pins.json";
    let output = desk.run(&format!("{judge} -o ear --sign-with keys/dev/operator-1.key"));
    let jws = text(&output.stdout);
    assert_eq!((output.status.code(), jws.trim_end().split('.').count()), (Some(2), 3), "{jws}");
    let wrong = desk.run(&format!("{judge} --sign-with keys/dev/operator-1.key"));
    assert_eq!(wrong.status.code(), Some(1), "only an attestation result is signed: {wrong:?}");
}

#[test]
fn fewer_than_two_machines_found_nothing() {
    let desk = Desk::new();
    let output = desk.run("found");
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).starts_with("fewer than two machines run"), "{output:?}");
    let output = desk.run("found --if-several");
    assert!(output.status.success() && output.stdout.is_empty(), "a script is not told: {output:?}");
}

#[test]
fn help_completions_and_the_manual_go_to_standard_output() {
    let desk = Desk::new();
    for (line, want) in [
        ("--help", "Exit codes:"),
        ("attest --help", "--forget"),
        ("--version", "pillar "),
        ("completions bash", "_pillar()"),
        ("completions zsh", "#compdef pillar"),
        ("man", ".SH \"PILLAR ATTEST\""),
        ("man", ".SH \"PILLAR CONSTITUTION PROPOSE\""),
        ("--help", "8  unsigned"),
        ("completions fish", "constitution"),
    ] {
        let output = desk.run(line);
        assert!(output.status.success() && text(&output.stdout).contains(want), "{line}: {output:?}");
    }
}
