//! The real boot whose log `agent/measure` keeps, as a pillar's: with init's records behind it, and the release that
//! predicts it.

use pillar_layout::phase;
use pillar_measure::hash::{extend, hash};
use pillar_measure::tcg::EventLog;
use pillar_model::{
    Bank, Binding, BootApplication, Digest, Nonce, PcrIndex, PcrPrediction, ReleasePredicate, Role, RootHash,
    SecureBootKeys,
};
use std::collections::BTreeMap;
use std::sync::LazyLock;

const LOGGED: &[u8] = include_bytes!("../../../measure/tests/data/ovmf-sdboot.eventlog");
/// The command line of that boot, which had no sealed root to name...
const BOOTED: &str = "console=ttyS0 loglevel=4 panic=-1 rdinit=/init";
/// ...and what a pillar's adds to it.
const ROOT_HASH: [u8; 32] = [7; 32];

/// The log, with the digest of a pillar's command line in the place of the other one.
pub static EVENT_LOG: LazyLock<&'static [u8]> = LazyLock::new(|| {
    let mut log = LOGGED.to_vec();
    for bank in [Bank::Sha256, Bank::Sha384] {
        let digest = |text: &str| {
            let options: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
            hash(bank, &[&options]).0
        };
        let (old, new) = (digest(BOOTED), digest(&cmdline()));
        if let Some(at) = log.windows(old.len()).position(|w| w == old) {
            log[at..at + new.len()].copy_from_slice(&new);
        }
    }
    assert_ne!(log, LOGGED);
    log.leak()
});

fn cmdline() -> String {
    format!("{BOOTED} roothash={}", RootHash(ROOT_HASH))
}
const PCRS: &str = include_str!("../../../measure/tests/data/ovmf-sdboot.pcrs");

#[allow(dead_code)] // Not by every user of this module.
pub const NODE_SETTINGS: &str = r#"{"name":"p1"}"#;

/// UUID and HMAC of the key, as init measures them.
pub const STATE_VOLUME: &str =
    "0c5c2a3e-8a5e-4b8e-9a55-6d1f6f1f6c11 abababababababababababababababababababababababababababababababab";

pub fn digest(text: &str) -> Digest {
    Digest(hex::decode(text).unwrap())
}

pub fn pcr(index: u8) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

/// A PCR (SHA-256) as the TPM had it when the kernel started.
pub fn at_kernel_start(index: u8) -> Digest {
    let line = PCRS.lines().find_map(|l| l.strip_prefix(&format!("sha256 {index} "))).unwrap();
    digest(line)
}

fn record(number: usize, pcr: u8, event: &str, text: &str) -> String {
    let (digest, text) = (hash(Bank::Sha256, &[text.as_bytes()]), serde_json::Value::from(text).to_string());
    format!(
        "\u{1e}{{\"recnum\":{number},\"pcr\":{pcr},\"digests\":[{{\"hashAlg\":\"sha256\",\"digest\":\"{digest}\"}}],\
         \"content_type\":\"pillar\",\"content\":{{\"event\":\"{event}\",\"string\":{text}}}}}\n"
    )
}

/// What init logs on its way through these phases; with node settings before `sysinit`.
pub fn own_log(phases: &[&str], settings: &[&str]) -> String {
    own_log_with(phases, settings, &[STATE_VOLUME])
}

/// As [`own_log`], with these texts about the state volume before `ready`.
pub fn own_log_with(phases: &[&str], settings: &[&str], volumes: &[&str]) -> String {
    let mut log = String::new();
    let mut number = 0;
    for phase in phases {
        if *phase == phase::SYSINIT {
            for text in settings {
                log += &record(number, 13, "node-settings", text);
                number += 1;
            }
        }
        if *phase == phase::READY {
            for text in volumes {
                log += &record(number, 15, "state-volume", text);
                number += 1;
            }
        }
        log += &record(number, 11, "phase", phase);
        number += 1;
    }
    log
}

pub fn release() -> ReleasePredicate {
    let mut value = at_kernel_start(11);
    let uki_after_phase = phase::ALL
        .iter()
        .map(|name| {
            extend(Bank::Sha256, &mut value, &hash(Bank::Sha256, &[name.as_bytes()]));
            ((*name).to_owned(), value.clone())
        })
        .collect();
    let replayed = EventLog::parse(&EVENT_LOG).unwrap().replay(Bank::Sha256).unwrap();
    let fixed = BTreeMap::from([(pcr(4), at_kernel_start(4)), (pcr(9), replayed[&pcr(9)].clone())]);
    let application = |name: &str, value| BootApplication {
        name: name.into(),
        authenticode: BTreeMap::from([(Bank::Sha256, digest(value))]),
    };
    ReleasePredicate {
        version: "1".into(),
        flavour: "virt".into(),
        epoch: 1,
        root_hash: RootHash(ROOT_HASH),
        kernel: "6.12".into(),
        cmdline: cmdline(),
        sizes_bytes: BTreeMap::new(),
        boot_applications: vec![
            application("loader", "937f1f3b0b3fed2034f1fddcc68c835f3e4ba190143f79693816e5a9d1718da5"),
            application("uki", "83143265d1c35a9770a6c3a3a8bed95b3f471a9d19fee81a3775386559bd4a0a"),
        ],
        pcrs: BTreeMap::from([(Bank::Sha256, PcrPrediction { fixed, uki_after_phase })]),
        secure_boot: SecureBootKeys {
            pk: digest("07c1d68447b737b4fcd719151d8864848c7c4b978ec295d96a39f97ea7624b10"),
            kek: digest("5e782c83138fb68562dececcc4ab860b97bda21d1cd9168a647d43fefd725ae0"),
            db: digest("95de43eeb10a81fc779e427bc9c4ecaf5140671603a0c2880a77cd00c5c6fab8"),
        },
        packages: Vec::new(),
    }
}

pub fn binding() -> Binding {
    Binding {
        role: Role::Server,
        nonce: Nonce([0x5a; 32]),
        exporter: vec![0xe1; 32],
        attester_spki: b"attester's key".to_vec(),
        verifier_spki: b"verifier's key".to_vec(),
    }
}
