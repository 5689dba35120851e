//! Whether a row may stand beside the others.

use crate::constitution::allows;
use crate::limits::{
    ADDRESS_MAX_BYTES, ADDRESSES_MAX, EVENT_KIND_MAX_BYTES, FIRMWARE_EVENTS_MAX, MEMBERS_MAX,
    PUBLIC_KEY_MAX_BYTES, TEXT_MAX_BYTES,
};
use crate::text::{TextError, present, printable};
use crate::{Cluster, sha256};
use pillar_model::{Bank, Digest, FirmwareReference, Member, PcrIndex, PillarId};

/// PCRs that a row pins, all of them: a row without one would let that firmware be anything.
const FIRMWARE_PCRS: [u8; 5] = [0, 1, 2, 3, 5];

/// Why a machine is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// No room.
    #[error("the cluster has {MEMBERS_MAX} members already")]
    Full,
    /// The name belongs to another machine.
    #[error("a member of that name is there, with the endorsement key {0}")]
    NameTaken(Digest),
    /// A row is to be replaced that is not there.
    #[error("there is no member of that name to be replaced")]
    NothingToReplace,
    /// A row is to be replaced, and it holds another key.
    #[error("it replaces the endorsement key {named}, and the member's is {present}")]
    ReplacesOther {
        /// What the entry names.
        named: Digest,
        /// What the member has.
        present: Digest,
    },
    /// One key in two rows.
    #[error("its {what} is that of the member {other}")]
    InUse {
        /// Which key.
        what: &'static str,
        /// Whose it is.
        other: PillarId,
    },
    /// One key for two purposes.
    #[error("its endorsement, attestation and TLS keys are not three different ones")]
    SameKeys,
    /// The machine was revoked.
    #[error("its endorsement key {ek} was revoked by entry {serial}")]
    Revoked {
        /// Which.
        ek: Digest,
        /// By which entry.
        serial: u64,
    },
    /// The constitution has a list, and this machine is not on it.
    #[error("its endorsement key {0} is not on the constitution's list")]
    NotAllowed(Digest),
    /// The constitution denies firmware of TPM makers, and the row names none.
    #[error("its row does not say who made its TPM, and the constitution denies some TPM firmware by maker")]
    NoMaker,
    /// A key of no possible size.
    #[error("its {what} has {bytes} bytes; 1 to {PUBLIC_KEY_MAX_BYTES} are possible")]
    Key {
        /// Which.
        what: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// The EK's certificate is not named by a SHA-256.
    #[error("its certificate is named by {0} bytes, not by a SHA-256")]
    Certificate(usize),
    /// No bank, or one that is not trusted.
    #[error("its firmware is pinned in {0}; SHA-256, SHA-384 or both are possible")]
    Bank(String),
    /// The PCRs are not those that are pinned.
    #[error("its firmware in the {0} bank is not pinned by exactly PCR 0, 1, 2, 3 and 5")]
    Pcrs(Bank),
    /// A digest of another length than its bank's.
    #[error("a digest of its firmware in the {bank} bank has {bytes} bytes")]
    Digest {
        /// The bank.
        bank: Bank,
        /// The digest's length.
        bytes: usize,
    },
    /// Too many events.
    #[error("{0} firmware events are named, more than {FIRMWARE_EVENTS_MAX}")]
    Events(usize),
    /// Too many addresses.
    #[error("it has {0} addresses, more than {ADDRESSES_MAX}")]
    Addresses(usize),
    /// An address that cannot be called.
    #[error("{0:?} is not HOST:PORT")]
    Address(String),
    /// A text that cannot be shown.
    #[error(transparent)]
    Text(#[from] TextError),
}

impl MemberError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Full => "revoke a member that is gone",
            Self::NameTaken(_) => {
                "choose another name, or name the endorsement key whose row it replaces if that is meant"
            }
            Self::NothingToReplace => "admit it as a new member",
            Self::ReplacesOther { .. } => "the member changed meanwhile: make the entry anew",
            Self::InUse { .. } => "one machine is one row: revoke the other one, or replace it",
            Self::NoMaker => "let the machine ask anew, by this version's `pillar`",
            Self::SameKeys | Self::Key { .. } | Self::Certificate(_) => {
                "let the machine ask anew, and take its row as it comes"
            }
            Self::Revoked { .. } => "a revoked machine does not come back; replace its TPM",
            Self::NotAllowed(_) => "amend the constitution's list first",
            Self::Bank(_) | Self::Pcrs(_) | Self::Digest { .. } | Self::Events(_) | Self::Text(_) => {
                "take the firmware's values from evidence that was verified"
            }
            Self::Addresses(_) | Self::Address(_) => {
                "name up to 8 addresses such as 10.0.0.7:7444 or p1.example:7444"
            }
        }
    }
}

/// Checks a row against the cluster it shall join. `replaces` is the SHA-256 of the EK whose row it takes.
pub(crate) fn check(
    cluster: &Cluster,
    member: &Member,
    replaces: Option<&Digest>,
) -> Result<(), MemberError> {
    check_shape(member)?;
    check_place(cluster, member, replaces)?;
    let others = cluster.members().values().filter(|other| other.name != member.name);
    for other in others {
        for (what, mine, theirs) in [
            ("endorsement key", &member.ek_public, &other.ek_public),
            ("attestation key", &member.ak_public, &other.ak_public),
            ("TLS key", &member.tls_spki, &other.tls_spki),
        ] {
            if mine == theirs {
                return Err(MemberError::InUse { what, other: other.name.clone() });
            }
        }
    }
    let ek = ek_digest(member);
    if let Some(revoked) = cluster.revoked().get(&ek) {
        return Err(MemberError::Revoked { ek, serial: revoked.serial });
    }
    if !allows(cluster.constitution(), &ek) {
        return Err(MemberError::NotAllowed(ek));
    }
    if member.tpm_maker.is_none() && !cluster.constitution().denied_tpm_firmware.is_empty() {
        return Err(MemberError::NoMaker);
    }
    Ok(())
}

/// SHA-256 of the `TPMT_PUBLIC` of the member's EK.
pub(crate) fn ek_digest(member: &Member) -> Digest {
    sha256(&member.ek_public.0)
}

fn check_place(cluster: &Cluster, member: &Member, replaces: Option<&Digest>) -> Result<(), MemberError> {
    match (cluster.members().get(&member.name).map(ek_digest), replaces) {
        (None, None) if cluster.members().len() == MEMBERS_MAX => Err(MemberError::Full),
        (None, None) => Ok(()),
        (None, Some(_)) => Err(MemberError::NothingToReplace),
        (Some(present), None) => Err(MemberError::NameTaken(present)),
        (Some(present), Some(named)) if present != *named => {
            Err(MemberError::ReplacesOther { named: named.clone(), present })
        }
        (Some(_), Some(_)) => Ok(()),
    }
}

fn check_shape(member: &Member) -> Result<(), MemberError> {
    let keys = [
        ("endorsement key", &member.ek_public),
        ("attestation key", &member.ak_public),
        ("TLS key", &member.tls_spki),
    ];
    for (what, key) in keys {
        let bytes = key.0.len();
        if !(1..=PUBLIC_KEY_MAX_BYTES).contains(&bytes) {
            return Err(MemberError::Key { what, bytes });
        }
    }
    let [(_, ek), (_, ak), (_, tls)] = keys;
    if ek == ak || ak == tls || ek == tls {
        return Err(MemberError::SameKeys);
    }
    if member.ek_certificate.0.len() != 32 {
        return Err(MemberError::Certificate(member.ek_certificate.0.len()));
    }
    check_banks(member)?;
    present("the state volume", &member.state_volume, TEXT_MAX_BYTES)?;
    if member.addresses.len() > ADDRESSES_MAX {
        return Err(MemberError::Addresses(member.addresses.len()));
    }
    match member.addresses.iter().find(|address| !is_address(address)) {
        Some(bad) => Err(MemberError::Address(bad.chars().take(80).collect())),
        None => Ok(()),
    }
}

fn check_banks(member: &Member) -> Result<(), MemberError> {
    if member.firmware.is_empty() {
        return Err(MemberError::Bank("no bank".to_owned()));
    }
    for (bank, firmware) in &member.firmware {
        if !matches!(bank, Bank::Sha256 | Bank::Sha384) {
            return Err(MemberError::Bank(bank.to_string()));
        }
        check_firmware(*bank, firmware)?;
    }
    Ok(())
}

fn check_firmware(bank: Bank, firmware: &FirmwareReference) -> Result<(), MemberError> {
    if !firmware.pcrs.keys().map(|pcr| pcr.get()).eq(FIRMWARE_PCRS) {
        return Err(MemberError::Pcrs(bank));
    }
    if firmware.events.len() > FIRMWARE_EVENTS_MAX {
        return Err(MemberError::Events(firmware.events.len()));
    }
    let digests = firmware.pcrs.values().chain(firmware.events.iter().map(|event| &event.digest));
    if let Some(bytes) = digests.map(|digest| digest.0.len()).find(|bytes| *bytes != bank.digest_bytes()) {
        return Err(MemberError::Digest { bank, bytes });
    }
    for event in &firmware.events {
        if !FIRMWARE_PCRS.map(PcrIndex::new).contains(&Ok(event.pcr)) {
            return Err(MemberError::Pcrs(bank));
        }
        present("the type of a firmware event", &event.kind, EVENT_KIND_MAX_BYTES)?;
        printable("a firmware event", &event.words, TEXT_MAX_BYTES)?;
    }
    Ok(())
}

/// HOST:PORT, where HOST is a name, an IPv4 address or an IPv6 address in brackets.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'.' || c == b'_';
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_is_good = match inner {
        // A zone (`%eth0`) means something on one machine only.
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(plain),
    };
    let port_is_good = port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p != 0);
    text.len() <= ADDRESS_MAX_BYTES && host_is_good && port_is_good
}
