//! `tests/attacks.md`: every attack with the tests that show its refusal. The table is made from the tests themselves:
//! a comment `// attack: A5 B1` stands above a test that asserts the refusal and its reason.
//!
//! `UPDATE=1 cargo test -p pillar-tidy` writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MARK: &str = "// attack: ";
const TABLE: &str = "tests/attacks.md";

/// Attacks by number, in words. A: evidence and logs. B: identity and channel. C: boot and disk. D: decisions of
/// operators. P: found on the way. Those marked `true` must have a test.
const ATTACKS: &[(&str, bool, &str)] = &[
    (
        "A1",
        true,
        "a quote of other PCRs than were asked for, of a resettable one, of a bank twice, of two banks, of none",
    ),
    (
        "A2",
        true,
        "something else that a TPM signs; a quote cut short, prolonged, with lengths that are not true",
    ),
    ("A3", true, "a statement signed by a key that signs whatever it is given, or that may leave its TPM"),
    ("A4", true, "two quotes at once: one is checked, the other believed"),
    ("A5", true, "log and quote that agree in a weak bank alone"),
    ("A6", true, "an old nonce; one that only begins like ours, or is filled up with zeros"),
    ("A7", true, "signatures of zeros, in another form, of another scheme than the key's"),
    ("A8", true, "counters, clock or firmware version that went back"),
    ("A9", true, "events under another type; remarks that no digest covers, changed: these must not matter"),
    ("A10", true, "an event of a type that nobody knows"),
    ("A11", true, "no log, or one without events, beside PCRs that are not zero"),
    ("A12", true, "a PCR that no event explains"),
    (
        "A13",
        true,
        "a log with digests too few, twice or foreign, with a second header, with sizes beyond all memory, cut or prolonged",
    ),
    ("A14", true, "a separator that tells of an error, is missing or there twice; events behind it"),
    ("A15", true, "events in another order; a log that never left the boot services"),
    ("A16", true, "oddities of real machines: to be accepted"),
    (
        "A17",
        true,
        "something added to the boot from outside: add-on, credential, extension, SMBIOS text, edited command line",
    ),
    (
        "B1",
        true,
        "evidence shown over another connection than it was made for, sent back to its maker, shown again",
    ),
    ("B2", true, "an enrolled TPM under another name; another TPM under an enrolled name"),
    (
        "B3",
        true,
        "a TLS key that may leave its TPM, an AK of another hierarchy, a TPM that was cleared and has new keys",
    ),
    ("B4", true, "a call before the caller is verified; a verification that fails at any of its steps"),
    ("B5", true, "a TPM reset under the running system, and given the good values again"),
    ("B6", true, "somebody on the TPM's bus who listens, or changes what passes"),
    ("B7", true, "a machine without a TPM, without the SHA-256 bank, without an event log"),
    (
        "B8",
        true,
        "an endorsement certificate that proves nothing: expired, of another issuer, for another use, for a weak key",
    ),
    ("C1", false, "one bit flipped in something that boots, or in the disk's tables"),
    ("C2", false, "a UKI without a signature or with a stranger's; Secure Boot off"),
    ("C3", false, "a look-alike of the state volume; a header that says something else than ours"),
    ("C4", false, "an older release of a lower security epoch, genuinely signed"),
    (
        "C5",
        false,
        "the state volume's key, unsealed later, by another image, for another signer, in another machine",
    ),
    ("C6", false, "a start partition that is full or damaged, counters at their end, EFI variables lost"),
    (
        "D1",
        false,
        "too few signatures of operators: one key twice or under two names, a stranger's, over other bytes, by those who decide no more",
    ),
    ("P1", false, "our own log with a phase missing, twice or out of order, or with settings twice"),
    ("P2", false, "parts of two releases; a release that names another root than was measured"),
    ("P3", false, "Secure Boot with somebody else's keys beside ours"),
    ("P4", false, "firmware that changed since it was pinned"),
    ("P5", false, "recovery shares: too few, one twice, wrong, of another volume, opened by a stranger"),
    ("P6", false, "power cut while a state volume or its header is written"),
    ("P7", false, "an installer started to open the state volume, or beside a disk that nobody meant"),
    ("P8", false, "an image changed after its release; writing it cut off at any moment"),
    ("P9", false, "a stranger at the agent's door; an operator who asks for more than the limits"),
    ("P10", false, "hostile bytes for each parser, from a corpus and at random"),
    ("P11", false, "the index of the least epoch deleted, or made again by somebody else"),
    ("P12", false, "two histories of the operators' decisions; entries left out or in another order"),
    (
        "P13",
        false,
        "somebody on the wire between two pillars: older TLS, another protocol, resumption, damaged records, many connections",
    ),
    ("P14", false, "a constitution that expired; clocks that are far off"),
    ("P15", false, "a cluster founded by one operator alone, or by those whom the image does not know"),
    (
        "P16",
        false,
        "an operator's key that others may read, a passphrase that is shown, an ssh-agent that lies",
    ),
    ("P17", false, "a DHCP server that lies, floods, grants what cannot be, or is silent when a lease ends"),
    ("P18", false, "time servers that lie, answer for others, or disagree"),
    ("P19", false, "node settings that are hostile in any field"),
    ("P20", false, "a genuinely signed image that no operators approved; a revoked member that goes on"),
    ("P21", false, "a network that loses, delays, doubles or cuts, so that an honest pillar is distrusted"),
    ("P22", false, "a machine that would still start what was revoked since"),
    ("P23", false, "an operator who was removed and still has his certificate; nobody left who is let in"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace's root exists")
}

/// Rust files that are tracked or would be, in order.
fn rust_files() -> Vec<(String, String)> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(root())
        .output()
        .expect("git runs");
    let names = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let mut names: Vec<&str> =
        names.split_terminator('\0').filter(|name| !name.starts_with("tests/tidy/")).collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .filter_map(|name| fs::read_to_string(root().join(name)).ok().map(|text| (name.to_owned(), text)))
        .collect()
}

/// A test that shows refusals: where it is, its name, the attacks' numbers.
struct Shown {
    file: String,
    test: String,
    numbers: Vec<String>,
}

fn shown() -> Vec<Shown> {
    let mut found = Vec::new();
    for (file, text) in rust_files() {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, numbers) in
            lines.iter().enumerate().filter_map(|(n, line)| Some((n, line.strip_prefix(MARK)?)))
        {
            // Attributes and comments may stand between the mark and the test (or the macro's line that makes it).
            let line = lines[at + 1..].iter().find(|line| !line.starts_with("//") && !line.starts_with('#'));
            let line = line.copied().unwrap_or_default();
            let name = line.split_once("fn ").map_or(line, |(_, name)| name);
            let test: String = name.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            assert!(!test.is_empty(), "{file}:{}: the mark stands above no test", at + 1);
            let numbers =
                numbers.split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect();
            found.push(Shown { file: file.clone(), test, numbers });
        }
    }
    found
}

/// Crate or folder of a test file, for people: `agent/verify`.
fn place(file: &str) -> &str {
    let end = ["/src/", "/tests/"].iter().filter_map(|part| file.rfind(part)).min();
    end.map_or(file, |end| &file[..end])
}

fn table(shown: &[Shown]) -> String {
    let mut tests: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for one in shown {
        for number in &one.numbers {
            let cell = format!("`{}` ({})", one.test, place(&one.file));
            tests.entry(number).or_default().push(cell);
        }
    }
    let mut text = String::from(
        "# Attacks and the tests that show their refusal\n\n\
         Made by `UPDATE=1 cargo test -p pillar-tidy` from the comments `// attack: NUMBER` above the tests; the numbers and\n\
         words are in `tests/tidy/tests/attacks.rs`. What is not here is not tested yet.\n\n\
         | number | attack | tests |\n|---|---|---|\n",
    );
    for (number, _, words) in ATTACKS {
        if let Some(tests) = tests.get(number) {
            writeln!(text, "| {number} | {words} | {} |", tests.join(", ")).expect("memory");
        }
    }
    text
}

#[test]
fn the_table_of_attacks_is_that_of_the_tests() {
    let (path, made) = (root().join(TABLE), table(&shown()));
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &made).expect("the table can be written");
    }
    let found = fs::read_to_string(&path).expect("the table is there");
    let (found, made): (Vec<&str>, Vec<&str>) = (found.lines().collect(), made.lines().collect());
    let gone = found.iter().filter(|line| !made.contains(line)).map(|line| format!("- {line}"));
    let new = made.iter().filter(|line| !found.contains(line)).map(|line| format!("+ {line}"));
    let difference: Vec<String> = gone.chain(new).collect();
    assert!(
        difference.is_empty() && found == made,
        "{TABLE} is not up to date (UPDATE=1 cargo test -p pillar-tidy writes it):\n{}",
        difference.join("\n")
    );
}

#[test]
fn marks_name_attacks_that_are_listed() {
    let wrong: Vec<String> = shown()
        .into_iter()
        .flat_map(|one| one.numbers.into_iter().map(move |number| (one.file.clone(), number)))
        .filter(|(_, number)| !ATTACKS.iter().any(|(known, ..)| known == number))
        .map(|(file, number)| format!("{file}: {number}"))
        .collect();
    assert!(wrong.is_empty(), "attacks that are not in the list:\n  {}", wrong.join("\n  "));
}

#[test]
fn every_attack_on_evidence_identity_and_channel_has_a_test() {
    let shown = shown();
    let missing: Vec<String> = ATTACKS
        .iter()
        .filter(|(number, required, _)| {
            *required && !shown.iter().any(|one| one.numbers.iter().any(|n| n == number))
        })
        .map(|(number, _, words)| format!("{number}: {words}"))
        .collect();
    assert!(missing.is_empty(), "attacks without a test:\n  {}", missing.join("\n  "));
}
