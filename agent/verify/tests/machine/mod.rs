//! A TPM in memory: an AK and PCRs that lead to evidence as a real one would sign it. Shared with the benchmarks.

use crate::boot::{EVENT_LOG, own_log, pcr};
use pillar_layout::{pcr::QUOTED, phase};
use pillar_measure::cel::CelLog;
use pillar_measure::hash::hash;
use pillar_measure::tcg::EventLog;
use pillar_model::{Bank, Binding, Digest, Evidence};
use pillar_verify::{AK_ATTRIBUTES, Counters, ak_name, evidence_selection, qualifying_data, tpm};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use std::collections::BTreeMap;

/// What an activated credential held.
pub const SECRET: [u8; 32] = [0x33; 32];

pub fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// `TPMT_PUBLIC` of a P-256 key; `storage` has AES-128-CFB, otherwise ECDSA with SHA-256.
pub fn public(point: &[u8], attributes: u32, storage: bool) -> Vec<u8> {
    let parameters: &[u8] = if storage {
        &[0, 6, 0, 128, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10]
    } else {
        &[0, 0x10, 0, 0x18, 0, 0x0B, 0, 3, 0, 0x10]
    };
    let policy = if storage { hex::decode(POLICY_A).unwrap() } else { Vec::new() };
    [
        &[0, 0x23, 0, 0x0B],
        attributes.to_be_bytes().as_slice(),
        &sized(&policy),
        parameters,
        &sized(&point[1..33]),
        &sized(&point[33..]),
    ]
    .concat()
}

/// What authorises the use of an EK by the default template.
const POLICY_A: &str = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";
/// Attributes of an EK by the default template.
const EK_ATTRIBUTES: u32 = 0x0003_00B2;

/// The machine.
pub struct Machine {
    pub ak: EcdsaKeyPair,
    pub ak_public: Vec<u8>,
    pub ek_public: Vec<u8>,
    pub pcrs: BTreeMap<u8, Digest>,
    pub event_log: Vec<u8>,
    pub cel: Vec<u8>,
    pub counters: Counters,
    pub heartbeat_key: Vec<u8>,
}

impl Machine {
    /// With the EK of this point (uncompressed).
    pub fn new(ek_point: &[u8]) -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ak = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).unwrap();
        let ak_public = public(ak.public_key().as_ref(), AK_ATTRIBUTES, false);
        let mut machine = Self {
            ak,
            ak_public,
            ek_public: public(ek_point, EK_ATTRIBUTES, true),
            pcrs: BTreeMap::new(),
            event_log: EVENT_LOG.to_vec(),
            cel: own_log(&phase::ALL, &[]).into_bytes(),
            heartbeat_key: vec![0x77; 32],
            counters: Counters {
                clock_ms: 5000,
                reset_count: 3,
                restart_count: 0,
                safe: true,
                firmware_version: 7,
            },
        };
        machine.measure_again();
        machine
    }

    /// Sets the PCRs to what the logs lead to, as a machine that did exactly that would have them.
    pub fn measure_again(&mut self) {
        let mut pcrs = EventLog::parse(&self.event_log).unwrap().replay(Bank::Sha256).unwrap();
        assert!(CelLog::parse(&self.cel).unwrap().replay_onto(Bank::Sha256, &mut pcrs));
        let zero = || Digest(vec![0; 32]);
        self.pcrs = QUOTED.map(|i| (i, pcrs.get(&pcr(i)).cloned().unwrap_or_else(zero))).into();
    }

    /// The AK's name below the endorsement hierarchy.
    pub fn qualified_signer(&self) -> Vec<u8> {
        let name = ak_name(&self.ak_public).unwrap();
        [&[0, 0x0B][..], &hash(Bank::Sha256, &[&[0x40, 0, 0, 0x0B], &name]).0].concat()
    }

    /// A `TPMS_ATTEST` of any kind (`TPMI_ST_ATTEST`), with what stands behind its head.
    pub fn attest(&self, kind: u16, extra_data: &[u8], body: &[u8]) -> Vec<u8> {
        let counters = &self.counters;
        [
            tpm::MAGIC.to_be_bytes().as_slice(),
            &kind.to_be_bytes(),
            &sized(&self.qualified_signer()),
            &sized(extra_data),
            &counters.clock_ms.to_be_bytes(),
            &counters.reset_count.to_be_bytes(),
            &counters.restart_count.to_be_bytes(),
            &[u8::from(counters.safe)],
            &counters.firmware_version.to_be_bytes(),
            body,
        ]
        .concat()
    }

    /// A `TPMT_SIGNATURE` by the AK.
    pub fn sign(&self, attest: &[u8]) -> Vec<u8> {
        let rs = self.ak.sign(&SystemRandom::new(), attest).unwrap();
        [&[0, 0x18, 0, 0x0B], sized(&rs.as_ref()[..32]).as_slice(), &sized(&rs.as_ref()[32..])].concat()
    }

    /// What stands behind the head of a quote of the PCRs.
    pub fn quoted(&self) -> Vec<u8> {
        let values: Vec<&[u8]> = self.pcrs.values().map(|v| v.0.as_slice()).collect();
        [evidence_selection(Bank::Sha256), sized(&hash(Bank::Sha256, &values).0)].concat()
    }

    /// The evidence for a challenge, as the machine's own TPM would sign it.
    pub fn evidence(&self, binding: &Binding, certificate: Vec<u8>) -> Evidence {
        let nonce = qualifying_data(binding, &self.event_log, &self.cel, &self.heartbeat_key);
        let attest = self.attest(tpm::ST_QUOTE, &nonce, &self.quoted());
        Evidence {
            signature: self.sign(&attest),
            attest,
            ak_public: self.ak_public.clone(),
            ek_public: self.ek_public.clone(),
            ek_certificate: certificate,
            activated: SECRET.to_vec(),
            event_log: self.event_log.clone(),
            cel: self.cel.clone(),
            heartbeat_key: self.heartbeat_key.clone(),
        }
    }
}

/// A log with one event more at the end of those of a PCR: (PCR, type, data), measured as its data.
pub fn with_event(log: &[u8], pcr: u32, event_type: u32, data: &[u8]) -> Vec<u8> {
    let event = [
        pcr.to_le_bytes().as_slice(),
        &event_type.to_le_bytes(),
        &3u32.to_le_bytes(),
        &0x0004u16.to_le_bytes(),
        &hash(Bank::Sha1, &[data]).0,
        &0x000Bu16.to_le_bytes(),
        &hash(Bank::Sha256, &[data]).0,
        &0x000Cu16.to_le_bytes(),
        &hash(Bank::Sha384, &[data]).0,
        &(data.len() as u32).to_le_bytes(),
        data,
    ]
    .concat();
    // Before the last event, which ends the boot services.
    let last = EventLog::parse(log).unwrap().events.last().unwrap().offset;
    [&log[..last], &event, &log[last..]].concat()
}
