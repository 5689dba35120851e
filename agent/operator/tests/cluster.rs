//! The commands about a cluster against made-up pillars: what is printed, what is decided, and each kind of bad input
//! with its words and its exit code.

mod fake;

use fake::{Mind, Operators, Serves, chain, chain_called, decided, now, proposal, row, start};
use pillar_model::{Action, Digest};
use pillar_wire::proto;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::{Command, Output};

/// A folder with the keys of three operators, as a checkout has them.
struct Desk {
    dir: tempfile::TempDir,
    operators: Operators,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let operators =
            Operators::write(&dir.path().join("keys/dev"), &["operator-1", "operator-2", "operator-3"]);
        Desk { dir, operators }
    }

    /// A pillar that belongs to a cluster and sees two of its peers.
    fn member(&self) -> Mind {
        let mut mind = Mind::of(&self.operators, chain(&self.operators, now()));
        mind.peers = vec![proto::Peer { self_: true, ..peer("p1", "up") }, peer("p2", "up"), untrusted("p3")];
        mind
    }

    /// A record of a machine that runs: this test's own process.
    fn record(&self, name: &str, agent: SocketAddr) {
        let stat = std::fs::read_to_string("/proc/self/stat").expect("proc");
        let ticks =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).expect("field 22");
        let pid = std::process::id();
        let record = format!(
            r#"{{"agent":"{agent}","processes":{{"qemu":{{"pid":{pid},"started_ticks":{ticks}}}}}}}"#
        );
        let folder = self.dir.path().join("out/run").join(name);
        std::fs::create_dir_all(&folder).expect("created");
        std::fs::write(folder.join("machine.json"), record).expect("written");
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillar"));
        for variable in ["PILLAR_KEY", "PILLAR_CERT", "PILLAR_RUN_DIR", "PILLAR_RELEASE", "PILLAR_EK_CA"] {
            command.env_remove(variable);
        }
        command.args(line.split_whitespace()).current_dir(self.dir.path()).output().expect("it starts")
    }

    /// Runs a line that ends with this code and prints, on either stream, all of these words.
    fn says(&self, line: &str, code: i32, words: &[&str]) -> String {
        let output = self.run(line);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {text}");
        for want in words {
            assert!(text.contains(want), "{line}: {want} in {text}");
        }
        text
    }
}

fn peer(name: &str, state: &str) -> proto::Peer {
    let check = |name: &str| proto::CheckLine {
        name: name.to_owned(),
        verdict: "passed".to_owned(),
        words: "as it must be".to_owned(),
    };
    proto::Peer {
        name: name.to_owned(),
        state: state.to_owned(),
        pcr: -1,
        heard: true,
        verified: true,
        version: "0.1.0".to_owned(),
        slot: "a".to_owned(),
        workload: "healthy".to_owned(),
        vouchers: vec!["p1".to_owned()],
        checks: vec![check("sizes"), check("structures")],
        ..proto::Peer::default()
    }
}

fn untrusted(name: &str) -> proto::Peer {
    proto::Peer {
        verified: false,
        vouchers: Vec::new(),
        check: "firmware".to_owned(),
        pcr: 1,
        event: "the boot order names another disk".to_owned(),
        reason: "PCR 1: is 00, ff is pinned".to_owned(),
        hint: "look at the event".to_owned(),
        ..peer(name, "untrusted")
    }
}

fn serve(mind: Mind) -> SocketAddr {
    start(mind, Serves::Everybody).0
}

#[test]
fn a_cluster_is_a_table_and_each_member_can_be_explained() {
    let desk = Desk::new();
    let at = serve(desk.member());
    desk.says(
        &format!("status --from p1={at}"),
        0,
        &[
            "lab: entry 4, constitution 1 (any 2 operators decide), release 0.1.0  as p1 sees it",
            "\np3      untrusted  0.1.0    a     healthy               0.0 s      none     firmware: PCR 1: is",
        ],
    );
    let json = desk.run(&format!("status --from p1={at} -o json"));
    let value: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!((&value["peers"][2]["pcr"], &value["from"]), (&json!(1), &json!("p1")));
    // One pillar by name is still shown by itself, with a line about its cluster.
    desk.says(&format!("status p1={at}"), 0, &["image      pillar 0.1.0", "cluster    lab: entry 4"]);
    desk.says(&format!("status --addr {at} -o json"), 0, &["\"serial\": 4"]);
    desk.says(
        &format!("explain p3 --from p1={at}"),
        0,
        &["p3 is untrusted, says p1", "PCR        1: the firmware's settings", "event      the boot order"],
    );
    desk.says(
        &format!("explain p9 --from p1={at}"),
        5,
        &["p9 is not a member", "hint: members are p1, p2, p3"],
    );
}

#[test]
fn what_a_member_finds_about_another_is_printed_check_by_check() {
    let desk = Desk::new();
    let (at, mind) = start(desk.member(), Serves::Everybody);
    let line = format!("attest p2 --from p1={at}");
    mind.lock().expect("whole").attested = peer("p2", "up");
    desk.says(&line, 0, &["ok   structures  as it must be", "verified by p1: p2 runs pillar 0.1.0"]);
    desk.says(&format!("{line} -o ear"), 2, &["no attestation result of our own"]);
    mind.lock().expect("whole").attested = untrusted("p2");
    desk.says(&line, 2, &["refused: p2: firmware: PCR 1: is 00", "hint: look at the event"]);
    let down = proto::Peer { verified: false, reason: "no route".to_owned(), ..peer("p2", "down") };
    mind.lock().expect("whole").attested = down;
    desk.says(&line, 3, &["p1 cannot reach p2: no route", "hint: `pillar explain p2"]);
    desk.says(&format!("attest p9 --from p1={at}"), 5, &["p9 is not a member"]);
    desk.says(&format!("attest p1 --from p1={at}"), 1, &["p1 cannot vouch for itself"]);
}

#[test]
fn a_pillar_without_a_cluster_says_so() {
    let desk = Desk::new();
    let at = serve(Mind::default());
    for line in ["explain p2 --from", "attest p2 --from", "status --from", "pending --via", "revoke p2 --via"]
    {
        desk.says(&format!("{line} p1={at}"), 9, &["p1 belongs to no cluster", "hint: `pillar found`"]);
    }
    let text = desk.says(&format!("status p1={at}"), 0, &["image      pillar 0.1.0"]);
    assert!(!text.contains("cluster"), "{text}");
}

// attack: D1
#[test]
fn a_member_leaves_when_two_operators_say_so() {
    let desk = Desk::new();
    let (at, mind) = start(desk.member(), Serves::Everybody);
    let via = format!("--via p1={at}");
    desk.says(&format!("pending {via}"), 0, &["nothing waits for signatures"]);
    desk.says(
        &format!("revoke p3 {via}"),
        1,
        &["nobody proposed to revoke p3", "hint: `pillar revoke p3 --reason"],
    );
    desk.says(&format!("revoke p7 --reason x {via}"), 5, &["p7 is not a member of lab", "p1, p2, p3"]);
    let first = format!("revoke p3 --reason stolen {via}");
    let next = "next: pillar revoke p3 --via p1";
    desk.says(
        &first,
        8,
        &["entry 5 of lab", "revoke p3: stolen", "1 of 2 signatures (operator-1): 1 more", next],
    );
    // The same operator again changes nothing: keys are counted.
    desk.says(&first, 8, &["1 of 2 signatures (operator-1)"]);
    desk.says(&format!("pending {via} -o json"), 0, &["\"signed_by\": [\n        \"operator-1\"\n"]);
    desk.says(
        &format!("revoke p3 --key keys/dev/operator-2.key {via}"),
        0,
        &["2 of 2 signatures (operator-1, operator-2): enough", "in force as entry 5"],
    );
    assert_eq!(mind.lock().expect("whole").envelopes.len(), 6);
    // For programs.
    let said = desk.run(&format!("revoke p2 --reason lost {via} -o json"));
    let value: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!(said.status.code(), Some(8));
    assert_eq!((&value["decision"], &value["in_force"]), (&json!("revoke p2: lost"), &json!(false)));
    assert_eq!(value["signatures"][0]["missing"], json!(["operator-2", "operator-3"]));
    assert!(value["next"].as_str().is_some_and(|next| next.starts_with("pillar revoke p2 --via p1")));
    desk.says(&format!("revoke p3 {via}"), 5, &["p3 is not a member"]);
}

// attack: P12
#[test]
fn one_key_signs_one_decision_for_one_place() {
    let desk = Desk::new();
    let (at, mind) = start(desk.member(), Serves::Everybody);
    let via = format!("--via p1={at}");
    desk.says(&format!("revoke p3 --reason stolen {via}"), 8, &["entry 5 of lab", "1 of 2 signatures"]);
    // The pillar lost it: the same is handed in again.
    let lost = std::mem::take(&mut mind.lock().expect("whole").pending);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    desk.says(&format!("revoke p3 --reason stolen {via}"), 8, &["1 of 2 signatures"]);
    assert_eq!(mind.lock().expect("whole").pending, lost);
    // A pillar hides what is in force already, or two decisions were made at once: the second is not signed.
    mind.lock().expect("whole").pending.clear();
    let other = format!("revoke p2 --reason lost {via}");
    desk.says(&other, 2, &["signed another decision as entry 5", "hint: if the other one is in force"]);
    assert!(mind.lock().expect("whole").pending.is_empty());
    // Another operator is not bound by it, and a decision that was given up can be replaced.
    desk.says(&format!("{other} --key keys/dev/operator-2.key"), 8, &["1 of 2 signatures (operator-2)"]);
    desk.says(&format!("{other} --instead"), 0, &["in force as entry 5"]);
}

// attack: D1 P9
#[test]
fn a_key_that_is_no_operators_signs_nothing() {
    let desk = Desk::new();
    let _stranger = Operators::write(&desk.dir.path().join("other"), &["stranger"]);
    let (at, mind) = start(desk.member(), Serves::Everybody);
    let operators = "--operators keys/dev/operator-1.crt keys/dev/operator-2.crt keys/dev/operator-3.crt";
    let line = format!("revoke p3 --reason x --key other/stranger.key --via p1={at} {operators}");
    desk.says(&line, 4, &["is no operator's of this cluster", "hint: `pillar constitution show`"]);
    assert!(mind.lock().expect("whole").pending.is_empty());
    // And a pillar that does not serve the key at all.
    let (at, _) = start(desk.member(), Serves::Nobody);
    desk.says(
        &format!("status --addr {at}"),
        4,
        &[
            "refused the operator's certificate",
            "hint: a pillar serves the operators of its cluster's constitution",
        ],
    );
}

// attack: P12 P15
#[test]
fn another_ones_chain_is_not_believed() {
    let desk = Desk::new();
    let theirs =
        Operators::write(&desk.dir.path().join("theirs"), &["operator-1", "operator-2", "operator-3"]);
    let at = serve(Mind::of(&theirs, chain(&theirs, now())));
    desk.says(
        &format!("pending --via p1={at}"),
        9,
        &["entry 0 of p1's chain is refused", "hint: the founding is signed by operators whose certificates"],
    );
    let folder = "theirs/operator-1.crt theirs/operator-2.crt theirs/operator-3.crt";
    desk.says(&format!("pending --via p1={at} --operators {folder}"), 0, &["nothing waits"]);
}

// attack: P14
#[test]
fn after_an_expired_constitution_only_its_amendment_is_taken() {
    let desk = Desk::new();
    let (at, _) =
        start(Mind::of(&desk.operators, chain(&desk.operators, now() - 366 * 86_400)), Serves::Everybody);
    let via = format!("--via p1={at}");
    desk.says(&format!("status --from p1={at}"), 0, &["the constitution has expired"]);
    desk.says(
        &format!("revoke p3 --reason x {via}"),
        6,
        &["constitution 1 expired", "hint: amend the constitution"],
    );
    let shown = desk.run(&format!("constitution show {via} -o json"));
    let mut next: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    std::fs::write(desk.dir.path().join("next.json"), next.to_string()).expect("written");
    desk.says(
        &format!("constitution propose next.json {via}"),
        1,
        &["version 1, expected 2", "raise its version"],
    );
    next["version"] = json!(2);
    next["expires_unix_s"] = json!(now() + 86_400 * 400 - 60);
    std::fs::write(desk.dir.path().join("next.json"), next.to_string()).expect("written");
    desk.says(
        &format!("constitution propose next.json {via}"),
        8,
        &[
            "constitution 2\n    expires",
            "next: pillar constitution sign",
            "1 more of operator-2, operator-3",
        ],
    );
    let sign = format!("constitution sign {via} --key keys/dev/operator-3.key");
    desk.says(&sign, 1, &["nobody is there to confirm"]);
    desk.says(&format!("{sign} --yes"), 0, &["enough by constitution 2", "in force as entry 5"]);
    desk.says(&format!("constitution show {via}"), 0, &["lab: constitution 2, expires in 399 d"]);
}

// attack: P23
#[test]
fn operators_come_and_go_by_an_amendment() {
    let desk = Desk::new();
    let _dora = Operators::write(&desk.dir.path().join("keys/new"), &["dora"]);
    let (at, _) = start(desk.member(), Serves::Everybody);
    let propose = format!("constitution propose --via p1={at}");
    desk.says(
        &format!("{propose} --remove-operator bob"),
        5,
        &["no operator is called bob", "hint: operators are operator-1, operator-2, operator-3"],
    );
    desk.says(
        &format!("{propose} --remove-operator operator-2 operator-3"),
        1,
        &["threshold 2 of 1 operators", "hint: of 3 operators choose 2 or 3"],
    );
    desk.says(
        &format!("{propose} --remove-operator operator-3 --add-operator keys/new/dora.crt"),
        8,
        &["+ operator   dora ", "- operator   operator-3 ", "1 more of operator-2, dora by constitution 2"],
    );
    let sign = format!("constitution sign --yes --via p1={at}");
    let dora = "--key keys/new/dora.key --operators keys/dev/operator-1.crt keys/dev/operator-2.crt keys/dev/operator-3.crt";
    desk.says(&format!("{sign} {dora}"), 8, &["1 more of operator-2, operator-3 by constitution 1"]);
    desk.says(&format!("{sign} --key keys/dev/operator-2.key"), 0, &["in force as entry 5"]);
    let shown =
        desk.says(&format!("constitution show --via p1={at}"), 0, &["any 2 of 3 operators decide", "dora "]);
    assert!(!shown.contains("operator-3"), "{shown}");
}

// attack: P14
#[test]
fn with_a_clock_far_off_nothing_is_signed() {
    let desk = Desk::new();
    let mut mind = desk.member();
    mind.date = Some("Thu, 01 Jan 2015 00:00:00 GMT");
    let (at, mind) = start(mind, Serves::Everybody);
    desk.says(
        &format!("revoke p3 --reason x --via p1={at}"),
        7,
        &[
            "p1's clock is ",
            "behind this machine's, so nothing is signed",
            "hint: set the clock that is wrong",
        ],
    );
    assert!(mind.lock().expect("whole").pending.is_empty());
    desk.says(&format!("status --from p1={at}"), 0, &["p1's clock is "]);
}

// attack: D1
#[test]
fn a_machine_is_admitted_by_the_second_operator() {
    let desk = Desk::new();
    let mut mind = desk.member();
    let admit = Action::Admit { member: Box::new(row(5)), replaces: None };
    mind.pending = vec![proposal(&desk.operators, &mind.envelopes, admit)];
    let (at, mind) = start(mind, Serves::Everybody);
    let second = format!("--key keys/dev/operator-2.key --via p1={at}");
    desk.says(&format!("admit p6 {second}"), 5, &["nobody proposed p6", "hint: `pillar enroll p6`"]);
    // Without a look at the machine nothing is signed, unless that is said.
    desk.says(
        &format!("admit p5 {second}"),
        5,
        &["there is no machine p5", "hint: `pillar admit p5=HOST:PORT`"],
    );
    let stranger = serve(Mind::default());
    desk.says(&format!("admit p5={stranger} {second}"), 2, &["p5 gives no evidence"]);
    assert_eq!(mind.lock().expect("whole").envelopes.len(), 5);
    desk.says(&format!("pending --via p1={at}"), 0, &["admit p5\n", "next: pillar admit p5 --via p1"]);
    desk.says(
        &format!("admit p5 --trust-proposal {second}"),
        0,
        &["called at    10.77.0.5:7444", "in force as entry 5"],
    );
    desk.says(&format!("admit p5 {second}"), 0, &["p5 is a member already"]);
}

#[test]
fn an_interrupted_founding_is_taken_up_and_nobody_else_is_let_in() {
    let desk = Desk::new();
    let mut first = desk.member();
    first.peers = vec![peer("p1", "up"), peer("p2", "up"), peer("p3", "up")];
    let envelopes = first.envelopes.clone();
    let p1 = serve(first);
    let bare = |number: u8| Mind { ek: row(number).ek_public.0, ..Mind::of(&desk.operators, Vec::new()) };
    let (p2, mind) = start(bare(2), Serves::Everybody);
    // Its name is a member's, its TPM is not.
    let (p3, impostor) = start(bare(9), Serves::Everybody);
    let (p5, stranger) = start(bare(5), Serves::Everybody);
    let line = format!("found p1={p1} p2={p2} p3={p3} p5={p5}");
    desk.says(
        &line,
        0,
        &[
            "p2 of lab: given the entries that they lacked",
            "p3 has another TPM than the member of that name; `pillar readmit p3`",
            "p5 does not belong to lab; `pillar enroll p5`",
        ],
    );
    assert_eq!(mind.lock().expect("whole").envelopes.len(), envelopes.len());
    for outside in [&impostor, &stranger] {
        assert!(outside.lock().expect("whole").envelopes.is_empty());
    }
    // A second run finds nothing to do.
    desk.says(&line, 0, &["the cluster lab is there, and its entries are with every member that runs"]);
    // A script hears of those outside alone.
    let text = desk.says(&format!("found p1={p1} p2={p2} --if-several"), 0, &[]);
    assert_eq!(text, "");
    // Two clusters are not made one.
    let other = Operators::write(&desk.dir.path().join("theirs"), &["operator-1", "operator-2"]);
    let theirs = serve(Mind::of(&other, chain_called("other", &other, now())));
    desk.says(&format!("found p1={p1} p2={theirs}"), 9, &["p1 belongs to the cluster lab, and p2 to other"]);
}

// attack: B7
#[test]
fn a_machine_that_proves_nothing_is_not_proposed() {
    let desk = Desk::new();
    let at = serve(desk.member());
    let new = serve(Mind::default());
    desk.says(&format!("enroll p5={new} --via p1={at}"), 2, &["p5 gives no evidence"]);
    std::fs::write(desk.dir.path().join("none"), "").expect("written");
    let found = format!("found p5={new} p6={new}");
    desk.says(&found, 1, &["cannot read out/release.json"]);
}

#[test]
fn what_a_member_is_judged_by_is_saved_from_what_its_operators_signed() {
    let desk = Desk::new();
    let at = serve(desk.member());
    desk.says(&format!("policy p2 --via p1={at} -o p2.json"), 5, &["there is no machine p2"]);
    let line = format!("policy p2={at} -o p2.json");
    desk.says(&line, 0, &["saved what p2 is judged by in p2.json, from entry 4 of lab"]);
    desk.says(&line, 1, &["p2.json exists already"]);
    let text = std::fs::read(desk.dir.path().join("p2.json")).expect("read");
    let policy: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(policy["pins"]["firmware"]["sha256"]["pcrs"]["0"], json!("02".repeat(32)));
    assert_eq!((&policy["entry"]["serial"], &policy["releases"][0]["version"]), (&json!(4), &json!("0.1.0")));
    desk.says(&format!("policy p9={at} -o p9.json"), 5, &["p9 is not a member of lab"]);
}

// attack: B8
#[test]
fn whom_an_amendment_costs_is_said_before_it_is_signed() {
    let desk = Desk::new();
    let mut mind = desk.member();
    mind.peers[1].tpm_firmware = "7.62.3126.1".to_owned();
    let (at, mind) = start(mind, Serves::Everybody);
    let via = format!("--via p1={at}");
    let propose = format!("constitution propose {via} --deny-tpm-firmware");
    desk.says(&format!("constitution propose {via}"), 1, &["required", "--deny-tpm-firmware"]);
    desk.says(&format!("{propose} 7.62.3126.1"), 1, &["is no version of TPM firmware", "--help"]);
    desk.says(
        &format!("{propose} IFX:7.0.0.0-8.0.0.0 IFX:7.5.0.0"),
        1,
        &["is not behind IFX (id:49465800) 7.0.0.0 to 8.0.0.0", "hint: put the ranges of one maker"],
    );
    let deny = format!("{propose} IFX:7.0.0.0-7.62.65535.65535 STM:1.0.0.0 --days 400");
    // One is lost, and nobody can say of the others that they are not.
    desk.says(
        &deny,
        2,
        &[
            "it is known of none of the 3 members that it would stay trusted",
            "p2 will be untrusted at once",
            "p3: what becomes of it cannot be told",
            "hint: nothing was signed",
        ],
    );
    assert!(mind.lock().expect("whole").pending.is_empty());
    desk.says(
        &format!("{deny} --even-all"),
        8,
        &[
            "constitution 2\n    + TPM denied IFX (id:49465800) 7.0.0.0 to 7.62.65535.65535\n    + TPM denied STM",
            "p2 will be untrusted at once: TPM firmware 7.62.3126.1 is denied",
            "p3: what becomes of it cannot be told: there is no machine p3",
            "p1: what becomes of it cannot be told: p1 gives no evidence",
            "next: pillar constitution sign",
        ],
    );
    // The next operator is told the same, and the machines have changed: nobody would be left.
    for peer in &mut mind.lock().expect("whole").peers {
        peer.tpm_firmware = "1.0.0.0".to_owned();
    }
    let sign = format!("constitution sign {via} --key keys/dev/operator-2.key --yes");
    let none = [
        "none of the 3 members would be trusted any more",
        "p1 will be untrusted",
        "hint: nothing was signed",
    ];
    desk.says(&sign, 2, &none);
    assert_eq!(mind.lock().expect("whole").envelopes.len(), 5);
    desk.says(&format!("{sign} --even-all"), 0, &["in force as entry 5", "of 3 members 0 stay trusted"]);
    desk.says(
        &format!("constitution show {via}"),
        0,
        &[
            "TPM firmware that is not believed: IFX (id:49465800) 7.0.0.0 to 7.62.65535.65535",
            "release: 0.1.0 (virt), by entry 1, signed by operator-1, operator-2",
            "last decision: entry 5, made",
        ],
    );
    // Whoever judges by the chain (enroll, admit, readmit, attest, verify) has it from there.
    desk.says(&format!("policy p2={at} -o p2.json"), 0, &["from entry 5 of lab"]);
    let policy = std::fs::read(desk.dir.path().join("p2.json")).expect("read");
    let policy: Value = serde_json::from_slice(&policy).expect("JSON");
    assert_eq!(policy["denied_tpm_firmware"][0]["last"], "7.62.65535.65535");
    // It is read back as it is printed; what is taken away again costs nobody anything.
    let shown = desk.run(&format!("constitution show {via} -o json"));
    let mut next: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(next["denied_tpm_firmware"][1]["maker"], "id:53544D20");
    next["denied_tpm_firmware"] = json!([]);
    next["version"] = json!(3);
    std::fs::write(desk.dir.path().join("next.json"), next.to_string()).expect("written");
    let text = desk.says(&format!("constitution propose next.json {via}"), 8, &["- TPM denied STM"]);
    assert!(!text.contains("untrusted"), "{text}");
    for peer in &mut mind.lock().expect("whole").peers[1..] {
        peer.tpm_firmware = "2.0.0.0".to_owned();
    }
    mind.lock().expect("whole").peers[0].tpm_firmware.clear();
    let dbx = format!("image:{}", "5a".repeat(32));
    desk.says(
        &format!("constitution propose --require-dbx {dbx} {via} --instead"),
        8,
        &[&format!("+ in dbx     {dbx}"), "p2: what becomes of it cannot be told"],
    );
}

// attack: P12
#[test]
fn who_signed_two_decisions_for_one_place_is_named() {
    let desk = Desk::new();
    let revoke = |number: u8, reason: &str| {
        let name = format!("p{number}").parse().expect("a name");
        let ek = ring::digest::digest(&ring::digest::SHA256, &row(number).ek_public.0);
        Action::Revoke { name, ek: Digest(ek.as_ref().to_vec()), reason: reason.to_owned() }
    };
    let common = chain(&desk.operators, now());
    let mut mind = Mind::of(&desk.operators, decided(&desk.operators, &common, revoke(3, "stolen")));
    mind.peers = vec![proto::Peer { self_: true, ..peer("p1", "up") }, peer("p2", "up")];
    let p1 = serve(mind);
    let theirs = decided(&desk.operators, &common, revoke(1, "lost"));
    let p2 = serve(Mind::of(&desk.operators, theirs));
    desk.says(
        &format!("admit p2={p2} --via p1={p1}"),
        9,
        &[
            "p2 has another entry 5 than the cluster: entry 5 is \"revoke p3: stolen\" here and \"revoke p1: lost\" there; signed both: operator-1, operator-2",
            "hint: `pillar state erase`",
        ],
    );
    // The same is found by whoever asks why the two do not agree.
    desk.record("p2", p2);
    let explained = desk.says(
        &format!("explain p2 --from p1={p1}"),
        0,
        &["two chains entry 5 is \"revoke p3: stolen\" here", "signed both: operator-1, operator-2"],
    );
    assert!(explained.starts_with("p2 is up"), "{explained}");
    // One that lacks an entry has no other chain, and one that is not signed accuses nobody.
    desk.record("p2", serve(Mind::of(&desk.operators, common.clone())));
    let explained = desk.says(&format!("explain p2 --from p1={p1} -o json"), 0, &["\"fork\": null"]);
    assert!(!explained.contains("signed both"), "{explained}");
}

// attack: P23
#[test]
fn who_would_be_shut_out_founds_nothing() {
    let desk = Desk::new();
    let _image = Operators::write(&desk.dir.path().join("image"), &["visitor"]);
    let none = || start(Mind::of(&desk.operators, Vec::new()), Serves::Everybody);
    let ((p1, mind), (p2, _)) = (none(), none());
    let keys = "keys/dev/operator-1.key keys/dev/operator-2.key";
    let certificates = "keys/dev/operator-1.crt keys/dev/operator-2.crt keys/dev/operator-3.crt";
    desk.says(
        &format!("found p1={p1} p2={p2} --key image/visitor.key {keys} --operators {certificates}"),
        2,
        &[
            "the holder of image/visitor.crt would be no operator of the cluster",
            "hint: nothing was signed; its operators would be operator-1, operator-2, operator-3",
        ],
    );
    assert!(mind.lock().expect("whole").envelopes.is_empty());
    assert!(!desk.dir.path().join("out/run/founding.json").exists());
    // As one of them, the next step is reached.
    desk.says(&format!("found p1={p1} p2={p2} --key {keys} --operators {certificates}"), 1, &["release"]);
}

// attack: P23
#[test]
fn who_would_be_shut_out_amends_only_when_that_is_meant() {
    let desk = Desk::new();
    let (at, mind) = start(desk.member(), Serves::Everybody);
    let via = format!("--via p1={at}");
    let propose = format!("constitution propose --remove-operator operator-1 {via}");
    let shut_out = "no pillar would serve the holder of keys/dev/operator-1.crt any more";
    desk.says(&propose, 2, &[shut_out, "its operators are operator-2, operator-3", "--even-me"]);
    assert!(mind.lock().expect("whole").pending.is_empty());
    desk.says(
        &format!("{propose} --key keys/dev/operator-2.key"),
        8,
        &["- operator   operator-1", "1 of 2 signatures"],
    );
    let sign = format!("constitution sign --yes {via}");
    desk.says(&sign, 2, &[shut_out, "hint: nothing was signed"]);
    assert_eq!(mind.lock().expect("whole").envelopes.len(), 5);
    desk.says(
        &format!("{sign} --even-me"),
        8,
        &["no pillar will serve the holder of keys/dev/operator-1.crt any more", "1 more of operator-3"],
    );
    desk.says(&format!("{sign} --key keys/dev/operator-3.key"), 0, &["in force as entry 5"]);
}

// attack: P12 P23
#[test]
fn an_amendment_and_a_revocation_are_given_to_everybody_they_are_about() {
    let desk = Desk::new();
    let (p1, _) = start(desk.member(), Serves::Everybody);
    let (p2, second) = start(desk.member(), Serves::Everybody);
    let (p3, third) = start(desk.member(), Serves::Everybody);
    let via = format!("--via p1={p1}");
    let has = |mind: &std::sync::Mutex<Mind>| mind.lock().expect("whole").envelopes.len();
    desk.record("p3", p3);
    let revoke = format!("revoke p3 --reason stolen {via}");
    desk.says(&revoke, 8, &["next: pillar revoke p3"]);
    assert_eq!((has(&second), has(&third)), (5, 5), "it is not in force");
    let text = desk.says(
        &format!("{revoke} --key keys/dev/operator-2.key"),
        0,
        &["in force as entry 5", "p3 has it too", "p2 was not given it from here: there is no machine p2"],
    );
    assert!(!text.contains("p1 "), "{text}");
    assert_eq!((has(&second), has(&third)), (5, 6), "the revoked machine has its revocation");
    // Whoever lacks entries is given all of them; a machine that is no member any more is not asked, nor one that belongs
    // to no cluster made a member by its name.
    desk.record("p2", p2);
    let propose = format!("constitution propose --days 400 {via}");
    desk.says(&propose, 8, &["next: pillar constitution sign"]);
    let sign = format!("constitution sign --yes {via} --key keys/dev/operator-2.key -o json");
    let said: Value = serde_json::from_slice(&desk.run(&sign).stdout).expect("JSON");
    assert_eq!(said["members"], json!({ "given": ["p2"], "lacking": [] }));
    assert_eq!((has(&second), has(&third)), (7, 6));
    let (stranger, empty) = start(Mind::of(&desk.operators, Vec::new()), Serves::Everybody);
    desk.record("p2", stranger);
    desk.says(&format!("revoke p2 --reason lost {via}"), 8, &[]);
    desk.says(
        &format!("revoke p2 --reason lost {via} --key keys/dev/operator-3.key"),
        0,
        &["in force as entry 7", "p2 was not given it from here: p2 belongs to no cluster"],
    );
    assert_eq!(has(&empty), 0);
}
