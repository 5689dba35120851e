//! Makes the first inputs of the corpus anew: `cargo run -p pillar-fuzz --example seeds`, or those of the targets that
//! are named behind it. Keys and certificates are new each time and their private halves are forgotten; the rest is the
//! same each time.
#![allow(clippy::unwrap_used)]

/// The real boot that the verifier's tests use, as a pillar's.
#[allow(dead_code, unreachable_pub)]
#[path = "../../../agent/verify/tests/boot/mod.rs"]
mod boot;

use pillar_measure::hash::hash;
use pillar_measure::tcg::EventLog;
use pillar_model::{
    Action, Bank, Constitution, Digest, Evidence, FirmwareReference, Member, Nonce, OperatorEntry,
    OperatorKey, PcrIndex, RootHash,
};
use pillar_quorum::{Cluster, Envelope, propose_founding};
use pillar_recovery::{Operator, Token, VolumeId, random_bytes_to_make};
use pillar_wire::{Challenge, Identity, proto};
use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const LOG: &[u8] = include_bytes!("../../../agent/measure/tests/data/ovmf-sdboot.eventlog");
const AK_ATTRIBUTES: u32 = pillar_verify::AK_ATTRIBUTES;
const EK_ATTRIBUTES: u32 = 0x0003_00B2;
const POLICY_A: &str = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";

fn keep(target: &str, name: &str, bytes: &[u8]) {
    let mut wanted = std::env::args().skip(1).peekable();
    if wanted.peek().is_some() && !wanted.any(|name| name == target) {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("seed-{name}")), bytes).unwrap();
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn main() {
    event_logs();
    own_logs();
    keys_and_quotes();
    certificates();
    messages();
    frames();
    heartbeats();
    luks();
    gpt();
    superblocks();
    documents();
    decisions();
    evidence();
    time();
}

fn event_logs() {
    let log = EventLog::parse(LOG).unwrap();
    let part = |from: usize, to: usize| {
        let offset = |number: usize| log.events.get(number).map_or(LOG.len(), |event| event.offset);
        [&LOG[..log.events[0].offset], &LOG[offset(from)..offset(to)]].concat()
    };
    // What counts in Secure Boot, whole, without the rest; the header alone; the beginning; the end.
    let secure_boot = log.events.iter().enumerate().filter(|(_, e)| e.pcr.map(PcrIndex::get) == Some(7));
    let secure_boot: Vec<Vec<u8>> =
        secure_boot.map(|(n, _)| part(n, n + 1)[part(0, 0).len()..].to_vec()).collect();
    keep("event-log", "secure-boot", &[part(0, 0), secure_boot.concat()].concat());
    keep("event-log", "header", &part(0, 0));
    keep("event-log", "begin", &part(0, 5));
    keep("event-log", "end", &part(log.events.len() - 12, log.events.len()));
    keep("event-log", "real", LOG);
    // A startup locality in front, as discrete TPMs have it; zero digests in the banks of the header.
    let locality = [&b"StartupLocality\0"[..], &[3]].concat();
    let mut event = [&[0, 0, 0, 0, 3, 0, 0, 0], &(log.algorithms.len() as u32).to_le_bytes()[..]].concat();
    for (id, bytes) in &log.algorithms {
        event.extend(id.to_le_bytes());
        event.extend(vec![0; *bytes]);
    }
    event.extend((locality.len() as u32).to_le_bytes());
    event.extend(locality);
    keep("event-log", "locality", &[part(0, 0), event, part(0, 2)[part(0, 0).len()..].to_vec()].concat());
    // The old form without a header.
    let old = |pcr: u32, kind: u32, data: &[u8]| {
        let digest = hash(Bank::Sha1, &[data]).0;
        let size = u32::try_from(data.len()).unwrap();
        [&pcr.to_le_bytes()[..], &kind.to_le_bytes(), &digest, &size.to_le_bytes(), data].concat()
    };
    let text = b"Calling EFI Application from Boot Option";
    keep("event-log", "sha1", &[old(0, 8, b"v\0"), old(4, 0x8000_0007, text), old(4, 4, &[0; 4])].concat());
}

fn own_logs() {
    let record = |number: u64, pcr: u8, event: &str, text: &str, banks: &[Bank]| {
        let digests: Vec<Value> = banks
            .iter()
            .map(|bank| json!({"hashAlg": bank, "digest": hash(*bank, &[text.as_bytes()])}))
            .collect();
        let record = json!({"recnum": number, "pcr": pcr, "digests": digests, "content_type": "pillar",
            "content": {"event": event, "string": text}});
        format!("\u{1e}{record}\n")
    };
    let both = [Bank::Sha256, Bank::Sha384];
    let log = [
        record(0, 11, "phase", "enter-initrd", &both),
        record(1, 13, "node-settings", r#"{"name":"p1"}"#, &both),
        record(2, 15, "state-volume", "none", &both),
    ];
    keep("cel", "three", log.concat().as_bytes());
    keep("cel", "one", record(0, 11, "phase", "ready", &[Bank::Sha1]).as_bytes());
    keep("cel", "none", b"");
}

fn signing_key() -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).unwrap()
}

/// `TPMT_PUBLIC` of a P-256 key.
fn public(point: &[u8], attributes: u32, policy: &[u8], parameters: &[u8]) -> Vec<u8> {
    [
        &[0, 0x23, 0, 0x0B],
        attributes.to_be_bytes().as_slice(),
        &sized(policy),
        parameters,
        &[0, 3, 0, 0x10],
        &sized(&point[1..33]),
        &sized(&point[33..]),
    ]
    .concat()
}

const ECDSA_SHA256: [u8; 6] = [0, 0x10, 0, 0x18, 0, 0x0B];
/// AES-128-CFB, and no scheme.
const STORAGE: [u8; 8] = [0, 6, 0, 128, 0, 0x43, 0, 0x10];

fn signed(key: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    let rs = key.sign(&SystemRandom::new(), message).unwrap();
    [&[0, 0x18, 0, 0x0B], sized(&rs.as_ref()[..32]).as_slice(), &sized(&rs.as_ref()[32..])].concat()
}

/// The beginning of a `TPMS_ATTEST`.
fn attest_head(kind: u16, signer: &[u8], data: &[u8]) -> Vec<u8> {
    let counters = [0, 0, 0, 0, 0, 0, 0x13, 0x88, 0, 0, 0, 3, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7];
    [&0xFF54_4347_u32.to_be_bytes()[..], &kind.to_be_bytes(), &sized(signer), &sized(data), &counters]
        .concat()
}

fn name(public: &[u8]) -> Vec<u8> {
    [&[0, 0x0B][..], &hash(Bank::Sha256, &[public]).0].concat()
}

fn keys_and_quotes() {
    let ak = signing_key();
    let ak_public = public(ak.public_key().as_ref(), AK_ATTRIBUTES, &[], &ECDSA_SHA256);
    // Qualified by the endorsement hierarchy (TPM_RH_ENDORSEMENT).
    let signer = [&[0, 0x0B][..], &hash(Bank::Sha256, &[&[0x40, 0, 0, 0x0B], &name(&ak_public)]).0].concat();
    let nonce = [0x55; 32];
    for bank in [Bank::Sha256, Bank::Sha384] {
        let attest = [
            attest_head(0x8018, &signer, &nonce),
            pillar_verify::evidence_selection(bank),
            sized(&hash(Bank::Sha256, &[b"PCRs"]).0),
        ]
        .concat();
        let signature = signed(&ak, &attest);
        let parts = [sized(&attest), sized(&signature), sized(&ak_public), sized(&nonce)];
        keep("quote", &bank.to_string(), &parts.concat());
        keep("quote", &format!("{bank}-alone"), &attest);
        keep("signature", "ecdsa", &[&[0], signature.as_slice()].concat());
    }
    keep("key", "ak", &ak_public);
    let policy = hex::decode(POLICY_A).unwrap();
    keep("key", "ek", &public(signing_key().public_key().as_ref(), EK_ATTRIBUTES, &policy, &STORAGE));
    let mut modulus = vec![0xA5; 256];
    modulus[255] = 1;
    let rsa = |attributes: u32, policy: &[u8], parameters: &[u8]| {
        let head = [&[0, 1, 0, 0x0B], &attributes.to_be_bytes()[..], &sized(policy), parameters];
        [head.concat(), vec![8, 0, 0, 0, 0, 0], sized(&modulus)].concat()
    };
    keep("key", "ek-rsa", &rsa(EK_ATTRIBUTES, &policy, &STORAGE));
    keep("key", "ak-rsa", &rsa(AK_ATTRIBUTES, &[], &[0, 0x10, 0, 0x14, 0, 0x0B]));
    keep("signature", "rsassa", &[&[2, 0, 0x14, 0, 0x0B][..], &sized(&modulus)].concat());
    keep("signature", "rsapss", &[&[3, 0, 0x16, 0, 0x0B][..], &sized(&modulus)].concat());
    keep(
        "signature",
        "ecdsa-p384",
        &[&[1, 0, 0x18, 0, 0x0C][..], &sized(&[1; 48]), &sized(&[1; 48])].concat(),
    );

    let attributes = 0x0004_0072;
    for (file, parameters) in [("any", &[0, 0x10, 0, 0x10][..]), ("ecdsa", &ECDSA_SHA256)] {
        let key = public(signing_key().public_key().as_ref(), attributes, &[], parameters);
        let data = pillar_verify::TLS_CERTIFY_DATA;
        let attest =
            [attest_head(0x8017, &signer, data), sized(&name(&key)), sized(&name(b"qualified"))].concat();
        let parts = [sized(&ak_public), sized(&key), sized(&attest), sized(&signed(&ak, &attest))].concat();
        pillar_verify::tls_key(&ak_public, &key, &attest, &signed(&ak, &attest)).unwrap();
        keep("tls-key", file, &parts);
    }
}

fn certificates() {
    let named = |name: &str| {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2045, 1, 1);
        params
    };
    let authority = |name: &str| {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    };
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let root = CertifiedIssuer::self_signed(authority("root"), key()).unwrap();
    let intermediate = CertifiedIssuer::signed_by(authority("intermediate"), key(), &root).unwrap();
    let mut params = named("ek");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.custom_extensions.push(names_a_tpm());
    let ek = params.signed_by(&key(), &intermediate).unwrap();
    keep("certificate", "root", root.der());
    keep("certificate", "intermediate", intermediate.der());
    keep("certificate", "ek", ek.der());
    keep("certificate", "ek-padded", &[ek.der().to_vec(), vec![0xFF; 40]].concat());
}

/// The subject alternative name of EK certificates: a directory name with the TPM's manufacturer, model and version
/// (TCG EK Credential Profile, section 3.2.9).
fn names_a_tpm() -> CustomExtension {
    let der = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
    let named = |(number, text): (u8, &str)| {
        let oid = der(0x06, &[0x67, 0x81, 0x05, 0x02, number]);
        der(0x31, &der(0x30, &[oid, der(0x0C, text.as_bytes())].concat()))
    };
    let names: Vec<u8> =
        [(1, "id:00001014"), (2, "swtpm"), (3, "id:20191023")].into_iter().flat_map(named).collect();
    let mut extension =
        CustomExtension::from_oid_content(&[2, 5, 29, 17], der(0x30, &der(0xA4, &der(0x30, &names))));
    extension.set_criticality(true);
    extension
}

fn frames() {
    // A byte that says which message, and pieces: as they come, one byte at a time, of some sizes with waits.
    let put = |name: &str, which: u8, pieces: [u8; 4], message: Vec<u8>, behind: &[u8]| {
        let len = u32::try_from(message.len()).unwrap().to_be_bytes();
        keep("frame", name, &[&[which], &pieces[..], &len, &message, behind].concat());
    };
    let hello = proto::PeerHello { nonce: vec![9; 32], protocol: 1 }.encode_to_vec();
    put("hello", 0, [255; 4], hello.clone(), b"");
    put("hello-and-more", 0, [1; 4], hello.clone(), b"PRI * HTTP/2.0");
    put("hello-cut", 0, [0, 3, 0, 5], hello[..20].to_vec(), b"");
    let accepted = proto::PeerVerdict { accepted: true, ..proto::PeerVerdict::default() };
    put("accepted", 1, [2, 1, 0, 7], accepted.encode_to_vec(), b"");
    let refused =
        proto::PeerVerdict { accepted: false, check: "replay".into(), reason: "PCR 7 differs".into() };
    put("refused", 1, [1; 4], refused.encode_to_vec(), b"");
    put("empty", 1, [1; 4], Vec::new(), b"");
    let evidence = proto::PeerEvidence {
        attest: vec![1; 145],
        signature: vec![2; 72],
        event_log: vec![3; 300],
        cel: vec![4; 100],
        heartbeat_key: vec![5; 32],
    };
    put("evidence", 2, [64, 0, 200, 9], evidence.encode_to_vec(), b"");
    // A length without the frame.
    keep(
        "frame",
        "promise",
        &[&[2, 255, 255, 255, 255], &0x0010_0000_u32.to_be_bytes()[..], b"few"].concat(),
    );
    keep("frame", "too-large", &[&[2, 1, 1, 1, 1], &u32::MAX.to_be_bytes()[..], b"few"].concat());
}

fn heartbeats() {
    let body = |sequence, reset_count| proto::HeartbeatBody {
        name: "p1".into(),
        sequence,
        uptime_ms: 1,
        wall_unix_ms: 1_800_000_000_005,
        reset_count,
        restart_count: 2,
        serial: 6,
        head: vec![1; 32],
        slot: "a".into(),
        workload: "healthy".into(),
        views: ["p2", "p3"]
            .map(|name| proto::View { name: name.into(), state: "up".into(), verified: true })
            .into(),
    };
    let of = |bodies: &[(u8, proto::HeartbeatBody)]| -> Vec<u8> {
        let one = |(pause, body): &(u8, proto::HeartbeatBody)| {
            [vec![*pause], sized(&body.encode_to_vec())].concat()
        };
        bodies.iter().flat_map(one).collect()
    };
    keep(
        "heartbeat",
        "steady",
        &of(&[(20, body(1, 1)), (20, body(2, 1)), (21, body(3, 1)), (90, body(9, 1))]),
    );
    keep("heartbeat", "replayed", &of(&[(20, body(5, 1)), (20, body(5, 1)), (1, body(4, 1))]));
    keep("heartbeat", "reset", &of(&[(20, body(1, 1)), (20, body(2, 2))]));
    keep("heartbeat", "lapsed", &of(&[1, 2, 3, 4, 5, 6].map(|sequence| (255, body(sequence, 1)))));
    let other = proto::HeartbeatBody { name: "p2".into(), ..body(1, 1) };
    keep("heartbeat", "somebody-else", &of(&[(20, other)]));
}

fn messages() {
    let put = |name: &str, which: u8, message: Vec<u8>| {
        keep("wire", name, &[vec![which], message].concat());
    };
    let status = proto::StatusReply {
        name: "p1".into(),
        version: "1".into(),
        flavour: "virt".into(),
        slot: "a".into(),
        root_hash: RootHash([7; 32]).0.to_vec(),
        kernel: "6.12".into(),
        trial: true,
        phases: vec![proto::Phase { name: "ready".into(), at_us: 5 }],
        tpm: "failed".into(),
        tpm_reason: "locked out".into(),
        workload: Some(proto::Workload {
            name: "hello".into(),
            state: "unhealthy".into(),
            reason: "refused".into(),
            restarts: 2,
        }),
        agent_starts: 1,
        uptime_ms: 1234,
    };
    put("status", 0, status.encode_to_vec());
    let identity = Identity {
        ek_public: vec![1; 4],
        ek_certificate: vec![2; 4],
        ak_public: vec![3; 4],
        tls_public: vec![4; 4],
        tls_attest: vec![5; 4],
        tls_signature: vec![6; 4],
    };
    put("identity", 1, proto::IdentityReply::from(identity).encode_to_vec());
    let challenge = Challenge {
        nonce: Nonce([9; 32]),
        credential_blob: vec![1; 8],
        encrypted_secret: vec![2; 8],
        bank: Bank::Sha384,
        pcrs: [0, 7, 11].into_iter().map(|n| PcrIndex::new(n).unwrap()).collect(),
    };
    put("challenge", 2, proto::EvidenceRequest::from(challenge).encode_to_vec());
    let evidence = Evidence {
        attest: vec![1; 4],
        signature: vec![2; 4],
        ak_public: vec![3; 4],
        ek_public: vec![4; 4],
        ek_certificate: vec![5; 4],
        activated: vec![6; 4],
        event_log: vec![7; 4],
        cel: vec![8; 4],
        ..Evidence::default()
    };
    put("evidence", 3, proto::EvidenceReply::from(evidence).encode_to_vec());
}

fn luks() {
    let salt = "Wi+AxhGGl/PR61WZTLt0wfH9xSJOuh7suIiWqpvNKnY=";
    for integrity in [false, true] {
        let shape = pillar_luks::Shape::state(integrity);
        let keyslot = |at: u64| {
            let offset = pillar_luks::HEADER_BYTES as u64 + at * shape.area_bytes();
            json!({
                "type": "luks2", "key_size": shape.volume_key_bytes,
                "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
                "area": {"type": "raw", "offset": offset.to_string(), "size": shape.area_bytes().to_string(),
                    "encryption": "aes-xts-plain64", "key_size": 64},
                "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": salt},
            })
        };
        let mut segment = json!({"type": "crypt", "offset": shape.data_offset.to_string(), "size": "dynamic",
            "iv_tweak": "0", "encryption": "aes-xts-plain64", "sector_size": 4096});
        if integrity {
            segment["integrity"] =
                json!({"type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none"});
        }
        let text = json!({
            "keyslots": {"0": keyslot(0), "1": keyslot(1)},
            "tokens": {"0": {"type": "pillar-tpm", "keyslots": ["0"], "blob": "00ff"},
                "1": {"type": "pillar-recovery", "keyslots": ["1"], "k": 2}},
            "segments": {"0": segment},
            "digests": {"0": {"type": "pbkdf2", "keyslots": ["0", "1"], "segments": ["0"], "hash": "sha256",
                "iterations": 1000, "salt": salt, "digest": salt}},
            "config": {"json_size": "12288", "keyslots_size": shape.keyslots_bytes.to_string()},
        })
        .to_string();
        let fields = |magic: &[u8; 6], sequence: u64, offset: u64| {
            let mut bytes = vec![0; 512];
            let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
            put(0, magic);
            put(6, &2_u16.to_be_bytes());
            put(8, &(pillar_luks::COPY_BYTES as u64).to_be_bytes());
            put(16, &sequence.to_be_bytes());
            put(24, b"pillar-state");
            put(72, b"sha256");
            put(168, b"ede02953-db66-4f31-bd27-da39718f5133");
            put(208, b"pillar");
            put(256, &offset.to_be_bytes());
            bytes
        };
        let both = |flags: u8, second: u64| {
            let (first, second) = (fields(b"LUKS\xba\xbe", 5, 0), fields(b"SKUL\xba\xbe", second, 16 << 10));
            [&[flags][..], &first, &second, text.as_bytes()].concat()
        };
        keep("luks", &format!("integrity-{integrity}"), &both(0, 5));
        keep("luks", &format!("older-{integrity}"), &both(0, 4));
        keep("luks", &format!("damaged-{integrity}"), &both(2, 5));
    }
}

fn gpt() {
    let guid = |text: &str| text.parse::<pillar_slot::Guid>().unwrap().0;
    for (name, flags, block, entries_bytes) in [("512", 0, 512_u64, 8 * 128_u64), ("4096", 1, 4096, 4096)] {
        let blocks = 200_u64;
        let header = |lba: u64, other: u64, entries: u64| {
            let mut bytes = Vec::new();
            bytes.extend(b"EFI PART");
            bytes.extend(0x0001_0000_u32.to_le_bytes());
            bytes.extend(92_u32.to_le_bytes());
            bytes.extend([0; 8]);
            let usable = entries_bytes.div_ceil(block);
            for value in [lba, other, 2 + usable, blocks - 2 - usable] {
                bytes.extend(value.to_le_bytes());
            }
            bytes.extend([7; 16]);
            bytes.extend(entries.to_le_bytes());
            bytes.extend(((entries_bytes / 128) as u32).to_le_bytes());
            bytes.extend(128_u32.to_le_bytes());
            bytes.extend([0; 4]);
            bytes
        };
        let mut entries = Vec::new();
        let partitions = [
            (pillar_layout::gpt::TYPE_ESP, "esp", 10_u64, 19_u64),
            (pillar_layout::gpt::TYPE_ROOT, "root", 20, 39),
            (pillar_layout::gpt::TYPE_STATE, pillar_layout::gpt::LABEL_STATE, 40, 59),
        ];
        for (number, (kind, label, first, last)) in partitions.into_iter().enumerate() {
            let mut entry = [guid(kind), [number as u8 + 1; 16]].concat();
            entry.extend(first.to_le_bytes());
            entry.extend(last.to_le_bytes());
            entry.extend([0; 8]);
            entry.extend(label.encode_utf16().flat_map(u16::to_le_bytes));
            entry.resize(128, 0);
            entries.extend(entry);
        }
        let usable = entries_bytes.div_ceil(block);
        let (first, second) = (header(1, blocks - 1, 2), header(blocks - 1, 1, blocks - 1 - usable));
        let whole = [&[flags, (blocks - 6) as u8][..], &first, &second, &entries].concat();
        keep("gpt", name, &whole);
        // An image on a larger disk: the backup is not at the end.
        let mut larger = whole.clone();
        larger[1] += 20;
        keep("gpt", &format!("{name}-larger"), &larger);
        // The primary copy damaged.
        let mut damaged = whole;
        damaged[2] ^= 1;
        keep("gpt", &format!("{name}-damaged"), &damaged);
    }
}

fn superblocks() {
    let mut verity = vec![0; 512];
    verity[..8].copy_from_slice(b"verity\0\0");
    (verity[8], verity[12]) = (1, 1);
    verity[16..32].fill(9);
    verity[32..38].copy_from_slice(b"sha256");
    verity[64..68].copy_from_slice(&4096_u32.to_le_bytes());
    verity[68..72].copy_from_slice(&4096_u32.to_le_bytes());
    verity[72..80].copy_from_slice(&1000_u64.to_le_bytes());
    verity[80] = 4;
    verity[88..92].copy_from_slice(&[1, 2, 3, 4]);
    keep("superblock", "verity", &verity);
    let mut erofs = vec![0; 128];
    erofs[..4].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
    (erofs[12], erofs[36]) = (12, 10);
    keep("superblock", "erofs", &erofs);
}

fn time() {
    let record = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &sized(body)].concat();
    let (protocol, algorithm) = (record(0x8001, &[0, 0]), record(0x8004, &[0, 15]));
    let (cookie, end) = (record(5, &[1; 100]), record(0x8000, &[]));
    let exchange = [&[0][..], &protocol, &algorithm, &cookie, &cookie, &end].concat();
    keep("time", "exchange", &exchange);
    let elsewhere = [record(0x8006, b"time.example."), record(7, &[1, 0]), record(99, b"?")].concat();
    keep("time", "exchange-elsewhere", &[&[0][..], &elsewhere, &exchange[1..]].concat());
    keep("time", "exchange-error", &[&[0][..], &record(0x8002, &[0, 1]), &end].concat());
    // Stratum 2; the nonce of the question; received and sent ten milliseconds after it was asked.
    let mut packet = vec![0x24, 2];
    packet.resize(24, 0);
    packet.extend([7; 8]);
    let asked = (1_780_272_000 + 2_208_988_800_u64) & 0xffff_ffff;
    let at = (asked << 32 | 43_000_000).to_be_bytes();
    packet.extend([at, at].concat());
    keep("time", "ntp", &[&[1][..], &packet].concat());
    let field = |kind: u16, value: &[u8]| {
        [&kind.to_be_bytes()[..], &u16::try_from(value.len() + 4).unwrap().to_be_bytes(), value].concat()
    };
    let ours = [packet, field(0x0104, &[7; 32])].concat();
    keep("time", "kiss", &[&[2][..], &ours].concat());
    let proof = [&[0, 16, 0, 16][..], &[5; 32]].concat();
    keep("time", "forged", &[&[2][..], &ours, &field(0x0404, &proof)].concat());
    keep("time", "cookies", &[&[3][..], &field(0x0204, &[1; 100]), &field(0x0204, &[2; 100])].concat());
    keep("time", "no-cookies", &[3]);
}

fn documents() {
    let operators: Vec<Operator> = (1..=3).map(|n| Operator::of_seed(&[n; 32]).unwrap()).collect();
    let random: Vec<u8> = (0..random_bytes_to_make(2, 3)).map(|n| n as u8).collect();
    let token = Token::make(&[0x42; 32], 2, &operators, VolumeId([0x11; 16]), 1, &random).unwrap();
    keep("recovery", "two-of-three", &serde_json::to_vec(&token).unwrap());
    keep("settings", "none", b"{}");
    let settings = json!({
        "name": "p1", "address": "10.0.2.15/24", "gateway": "10.0.2.2", "peers": ["p2=[fd00::2]:7444", "p3.example:7444"],
        "networks": [{"card": "52:54:00:00:00:01", "addresses": ["fd00::1/64"], "dhcp": true, "gateway": "fd00::ff"}],
        "dns": ["10.0.2.3"], "time": ["time.example"],
    });
    keep("settings", "all", settings.to_string().as_bytes());
    let digest = "ab".repeat(32);
    let release = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "pillar.raw", "digest": {"sha256": digest}}],
        "predicateType": pillar_layout::RELEASE_PREDICATE,
        "predicate": {
            "version": "1", "flavour": "virt", "epoch": 1, "root_hash": digest, "kernel": "6.12",
            "cmdline": "roothash=", "sizes_bytes": {"pillar.raw": 4096},
            "boot_applications": [{"name": "uki", "authenticode": {"sha256": digest}}],
            "pcrs": {"sha256": {"fixed": {"4": digest}, "uki_after_phase": {"ready": digest}}},
            "secure_boot": {"pk": digest, "kek": digest, "db": digest},
            "packages": [{"name": "systemd-boot-efi", "version": "257", "architecture": "amd64"}],
        },
    });
    serde_json::from_value::<pillar_model::Release>(release.clone()).unwrap();
    keep("release", "small", release.to_string().as_bytes());
    keep("boot", "trial", b"pillar_1.2.3+2-1.efi");
    keep("boot", "blessed", b"pillar_7~rc1.efi");
    keep("boot", "cmdline", format!("console=ttyS0 roothash={digest} panic=-1").as_bytes());
}

const NOW: u64 = 1_800_000_000;

fn decisions() {
    let pair = |number: u8| Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap();
    let key = |number: u8| OperatorKey(pair(number).public_key().as_ref().try_into().unwrap());
    let constitution = |version: u64| Constitution {
        version,
        cluster: "lab".into(),
        operators: (1..=3).map(|n| OperatorEntry { name: format!("operator-{n}"), key: key(n) }).collect(),
        threshold: 2,
        ek_roots: vec![Digest(vec![0x30; 8])],
        ek_intermediates: Vec::new(),
        ek_allowed: Vec::new(),
        denied_tpm_firmware: Vec::new(),
        dbx_required: Vec::new(),
        expires_unix_s: NOW + 86_400,
    };
    let signed = |mut envelope: Envelope| {
        for number in [1, 2] {
            let signature = pair(number).sign(&envelope.pae()).as_ref().try_into().unwrap();
            envelope.add_signature(&key(number), signature).unwrap();
        }
        envelope
    };
    let image: Vec<OperatorKey> = (1..=3).map(key).collect();
    let founding = signed(propose_founding(constitution(1), &image, NOW).unwrap());
    keep("envelope", "founding", founding.to_json().as_bytes());
    let mut cluster = Cluster::found(&founding, &image, NOW).unwrap();
    let pcrs = [0, 1, 2, 3, 5].into_iter().map(|n| (PcrIndex::new(n).unwrap(), Digest(vec![7; 32])));
    let firmware = FirmwareReference { pcrs: pcrs.collect(), events: Vec::new() };
    let member = Member {
        name: "p1".parse().unwrap(),
        ek_public: Digest(vec![1, 1]),
        ek_certificate: Digest(vec![1; 32]),
        tpm_maker: None,
        ak_public: Digest(vec![1, 2]),
        tls_spki: Digest(vec![1, 3]),
        firmware: [(Bank::Sha256, firmware)].into(),
        state_volume: "none".into(),
        addresses: vec!["[fd00::1]:7444".into()],
    };
    let release = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/release/seed-small")).unwrap();
    let mut release: pillar_model::Release = serde_json::from_slice(&release).unwrap();
    release.predicate.packages.clear();
    let ek = Digest(hash(Bank::Sha256, &[&member.ek_public.0]).0);
    let actions = [
        Action::Admit { member: Box::new(member), replaces: None },
        Action::Run { committed: Box::new(release.predicate), trial: None },
        Action::Revoke { name: "p1".parse().unwrap(), ek, reason: "stolen".into() },
        Action::Amend(Box::new(constitution(2))),
    ];
    let mut payloads = sized(founding.payload());
    for (number, action) in actions.into_iter().enumerate() {
        let envelope = signed(cluster.propose(action, NOW).unwrap());
        cluster = cluster.apply(&envelope, NOW).unwrap();
        payloads.extend(sized(envelope.payload()));
        keep("entries", &format!("{}", number + 2), &payloads);
        keep("envelope", &format!("entry-{}", number + 1), envelope.to_json().as_bytes());
    }
}

fn evidence() {
    let release = pillar_model::Release {
        statement_type: "https://in-toto.io/Statement/v1".into(),
        subject: Vec::new(),
        predicate_type: pillar_layout::RELEASE_PREDICATE.into(),
        predicate: boot::release(),
    };
    keep("release", "booted", &serde_json::to_vec(&release).unwrap());
    let own = boot::own_log(&pillar_layout::phase::ALL, &[boot::NODE_SETTINGS]);
    let none = boot::own_log_with(&pillar_layout::phase::ALL, &[], &["none"]);
    let log = sized(&boot::EVENT_LOG);
    keep("evidence", "good", &[&[2], log.as_slice(), own.as_bytes()].concat());
    keep("evidence", "no-volume", &[&[4], log.as_slice(), none.as_bytes()].concat());
    keep("evidence", "unexplained", &[&[1], log.as_slice(), own.as_bytes()].concat());
}
