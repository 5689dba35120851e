//! Whether a constitution can be one, and can follow another.

use crate::limits::{
    CERTIFICATE_MAX_BYTES, DBX_REQUIRED_MAX, DENIED_TPM_FIRMWARE_MAX, EK_ALLOWED_MAX, EK_INTERMEDIATES_MAX,
    EK_ROOTS_MAX, OPERATORS_MAX,
};
use curve25519_dalek::edwards::CompressedEdwardsY;
use pillar_model::{Constitution, DbxEntry, DeniedTpmFirmware, Digest, OperatorKey, PillarId};
use std::collections::BTreeSet;

/// Why a constitution is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstitutionError {
    /// Its number is not the next one.
    #[error("it has version {found}, expected {expected}")]
    Version {
        /// The next number.
        expected: u64,
        /// What it says.
        found: u64,
    },
    /// The cluster's name is no label.
    #[error("{0:?} is not a cluster's name")]
    ClusterName(String),
    /// It is for another cluster.
    #[error("it is for the cluster {found:?}, and this is {expected:?}")]
    OtherCluster {
        /// The cluster's name.
        expected: String,
        /// The name in the document.
        found: String,
    },
    /// None, or more than [`OPERATORS_MAX`].
    #[error("it has {0} operators; 1 to {OPERATORS_MAX} are possible")]
    Operators(usize),
    /// An operator's name is no label.
    #[error("{0:?} is not an operator's name")]
    OperatorName(String),
    /// Two operators have one name.
    #[error("two operators are called {0}")]
    SameName(String),
    /// One key under two names.
    #[error("{first} and {second} have the same key")]
    SameKey {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A key that anybody can sign for, or that can be written in two ways.
    #[error("the key of {0} is not a sound Ed25519 key")]
    Key(String),
    /// Not more than half, or more than there are.
    #[error("threshold {threshold} of {operators} operators: more than half must sign, and at most all")]
    Threshold {
        /// How many must sign.
        threshold: u32,
        /// How many there are.
        operators: usize,
    },
    /// It would be void from the beginning.
    #[error("it expires at {expires_unix_s}, and it is {now_unix_s} already (seconds since 1970)")]
    Expired {
        /// From when on it is void.
        expires_unix_s: u64,
        /// What time it is.
        now_unix_s: u64,
    },
    /// Too many entries of a list.
    #[error("it has {found} {what}, more than {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// Their limit.
        max: usize,
    },
    /// A certificate that is empty or too large.
    #[error("one of its {what} has {bytes} bytes; 1 to {CERTIFICATE_MAX_BYTES} are possible")]
    Certificate {
        /// In which list.
        what: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// An allowed EK is not named by a SHA-256.
    #[error("an allowed endorsement key is named by {0} bytes, not by a SHA-256")]
    AllowedDigest(usize),
    /// A range of TPM firmware that holds nothing.
    #[error("no TPM firmware is in the range {0}")]
    EmptyRange(Box<DeniedTpmFirmware>),
    /// Two ranges of one maker's firmware overlap, or stand in another order.
    #[error("the denied TPM firmware {after} is not behind {before}")]
    Ranges {
        /// One.
        before: Box<DeniedTpmFirmware>,
        /// The next one.
        after: Box<DeniedTpmFirmware>,
    },
    /// What dbx must hold is there twice, or in another order.
    #[error("what dbx must hold is not in ascending order: {0} is out of place or there twice")]
    DbxOrder(DbxEntry),
    /// A member's EK is not on the new list.
    #[error("its list of endorsement keys leaves out that of the member {0}")]
    LeavesOut(PillarId),
}

impl ConstitutionError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Version { .. } => {
                "take the constitution in force as it is now and raise its version by one"
            }
            Self::ClusterName(_) | Self::OperatorName(_) => {
                "a name is 1 to 63 of a-z, 0-9 and -, no - at either end"
            }
            Self::OtherCluster { .. } => "a cluster keeps its name; is this the right cluster?",
            Self::Operators(_) => "name at least one operator",
            Self::SameName(_) | Self::SameKey { .. } => {
                "each operator is there once, with a key of their own"
            }
            Self::Key(_) => "make the key anew with `pillar-keys operator`, ssh-keygen or openssl",
            Self::Threshold { .. } => "of 3 operators choose 2 or 3, of 5 choose 3, 4 or 5",
            Self::Expired { .. } => "choose a later date, and check this machine's clock",
            Self::TooMany { .. } | Self::Certificate { .. } => {
                "name what your machines need, and nothing else"
            }
            Self::AllowedDigest(_) => "name an endorsement key by the SHA-256 of its TPMT_PUBLIC",
            Self::EmptyRange(_) => "name the older version first, then the newer one",
            Self::Ranges { .. } => {
                "put the ranges of one maker into ascending order, and make one of two that overlap"
            }
            Self::DbxOrder(_) => "sort the list: certificates before images, each by its digest and once",
            Self::LeavesOut(_) => "revoke the member first, or leave its endorsement key on the list",
        }
    }
}

/// An operator's key must be a point of the curve, written in the one canonical way, outside the small subgroups:
/// otherwise anybody could sign for it, or one private key could sign for two public ones.
#[must_use]
pub fn check_operator_key(key: &OperatorKey) -> bool {
    let compressed = CompressedEdwardsY(key.0);
    compressed.decompress().is_some_and(|point| {
        point.compress() == compressed && !point.is_small_order() && point.is_torsion_free()
    })
}

/// Checks the document itself. `now_unix_s` is the later of our clock and the author's.
pub(crate) fn check(
    constitution: &Constitution,
    version: u64,
    now_unix_s: u64,
) -> Result<(), ConstitutionError> {
    let Constitution { cluster, expires_unix_s, .. } = constitution;
    if constitution.version != version {
        return Err(ConstitutionError::Version { expected: version, found: constitution.version });
    }
    if cluster.parse::<PillarId>().is_err() {
        return Err(ConstitutionError::ClusterName(cluster.chars().take(80).collect()));
    }
    check_operators(constitution)?;
    if *expires_unix_s <= now_unix_s {
        return Err(ConstitutionError::Expired { expires_unix_s: *expires_unix_s, now_unix_s });
    }
    check_certificates("EK roots", &constitution.ek_roots, EK_ROOTS_MAX)?;
    check_certificates("EK intermediates", &constitution.ek_intermediates, EK_INTERMEDIATES_MAX)?;
    check_allowed(&constitution.ek_allowed)?;
    check_denied(&constitution.denied_tpm_firmware)?;
    check_dbx(&constitution.dbx_required)
}

fn check_operators(constitution: &Constitution) -> Result<(), ConstitutionError> {
    let operators = &constitution.operators;
    if !(1..=OPERATORS_MAX).contains(&operators.len()) {
        return Err(ConstitutionError::Operators(operators.len()));
    }
    for (at, operator) in operators.iter().enumerate() {
        let name = || operator.name.clone();
        // Operators are named like pillars: one label.
        if operator.name.parse::<PillarId>().is_err() {
            return Err(ConstitutionError::OperatorName(operator.name.chars().take(80).collect()));
        }
        if !check_operator_key(&operator.key) {
            return Err(ConstitutionError::Key(name()));
        }
        for earlier in &operators[..at] {
            if earlier.name == operator.name {
                return Err(ConstitutionError::SameName(name()));
            }
            if earlier.key == operator.key {
                return Err(ConstitutionError::SameKey { first: earlier.name.clone(), second: name() });
            }
        }
    }
    let threshold = constitution.threshold;
    let needed = usize::try_from(threshold).unwrap_or(usize::MAX);
    if needed > operators.len() || needed <= operators.len() / 2 {
        return Err(ConstitutionError::Threshold { threshold, operators: operators.len() });
    }
    Ok(())
}

fn check_certificates(
    what: &'static str,
    certificates: &[Digest],
    max: usize,
) -> Result<(), ConstitutionError> {
    if certificates.len() > max {
        return Err(ConstitutionError::TooMany { what, found: certificates.len(), max });
    }
    match certificates.iter().map(|c| c.0.len()).find(|bytes| !(1..=CERTIFICATE_MAX_BYTES).contains(bytes)) {
        Some(bytes) => Err(ConstitutionError::Certificate { what, bytes }),
        None => Ok(()),
    }
}

fn check_allowed(allowed: &[Digest]) -> Result<(), ConstitutionError> {
    if allowed.len() > EK_ALLOWED_MAX {
        let found = allowed.len();
        return Err(ConstitutionError::TooMany { what: "allowed EKs", found, max: EK_ALLOWED_MAX });
    }
    match allowed.iter().map(|digest| digest.0.len()).find(|bytes| *bytes != 32) {
        Some(bytes) => Err(ConstitutionError::AllowedDigest(bytes)),
        None => Ok(()),
    }
}

/// Ascending and apart, so that one list says one thing.
fn check_denied(denied: &[DeniedTpmFirmware]) -> Result<(), ConstitutionError> {
    if denied.len() > DENIED_TPM_FIRMWARE_MAX {
        let (found, max) = (denied.len(), DENIED_TPM_FIRMWARE_MAX);
        return Err(ConstitutionError::TooMany { what: "ranges of denied TPM firmware", found, max });
    }
    if let Some(empty) = denied.iter().find(|range| range.first > range.last) {
        return Err(ConstitutionError::EmptyRange(Box::new(*empty)));
    }
    let apart = |before: &DeniedTpmFirmware, after: &DeniedTpmFirmware| {
        (before.maker, before.last) < (after.maker, after.first)
    };
    match denied.windows(2).find(|pair| !apart(&pair[0], &pair[1])) {
        Some(pair) => Err(ConstitutionError::Ranges { before: Box::new(pair[0]), after: Box::new(pair[1]) }),
        None => Ok(()),
    }
}

fn check_dbx(required: &[DbxEntry]) -> Result<(), ConstitutionError> {
    if required.len() > DBX_REQUIRED_MAX {
        let (found, max) = (required.len(), DBX_REQUIRED_MAX);
        return Err(ConstitutionError::TooMany { what: "entries that dbx must hold", found, max });
    }
    match required.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => Err(ConstitutionError::DbxOrder(pair[1])),
        None => Ok(()),
    }
}

/// Whether the list of allowed endorsement keys lets this one pass. An empty list lets every one pass.
pub(crate) fn allows(constitution: &Constitution, ek: &Digest) -> bool {
    let allowed: BTreeSet<&Digest> = constitution.ek_allowed.iter().collect();
    allowed.is_empty() || allowed.contains(ek)
}
