//! Why an entry is refused, in words, and what to do about it.

use crate::limits::{CLOCK_AHEAD_MAX_S, PAYLOAD_MAX_BYTES};
use crate::tally::Count;
use crate::{ConstitutionError, MemberError, ReleaseError, TextError};
use pillar_model::{Digest, PillarId};

/// Why an entry is refused. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The envelope holds something else.
    #[error("the envelope holds {found:?}, not an entry")]
    PayloadType {
        /// What it says.
        found: String,
    },
    /// Larger than an entry may be.
    #[error("the entry has {bytes} bytes, more than {PAYLOAD_MAX_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// No JSON, not the fields of an entry, or one of them twice.
    #[error("the entry cannot be read: {problem}")]
    Unreadable {
        /// What the parser says.
        problem: String,
    },
    /// A chain without entries.
    #[error("there are no entries")]
    NoEntries,
    /// The first entry does not found.
    #[error("the first entry does not found a cluster")]
    NotFounded,
    /// The cluster exists.
    #[error("the cluster {cluster} is founded already")]
    FoundedAlready {
        /// Its name.
        cluster: String,
    },
    /// Another entry has this place, or is missing before it.
    #[error("the entry is number {found}, and number {expected} comes next")]
    Serial {
        /// The next number.
        expected: u64,
        /// What it says.
        found: u64,
    },
    /// Made for another chain.
    #[error("the entry follows {found}, and the last one is {expected}")]
    Previous {
        /// SHA-256 of the last payload.
        expected: Digest,
        /// What it says.
        found: Digest,
    },
    /// Its author's clock was behind.
    #[error("the entry was made at {made_unix_s}, before the one that it follows ({previous_unix_s})")]
    MadeBefore {
        /// When it was made.
        made_unix_s: u64,
        /// When the last one was.
        previous_unix_s: u64,
    },
    /// Its author's clock or ours is wrong.
    #[error("the clocks differ: the entry was made at {made_unix_s}, and here it is {now_unix_s}")]
    Clock {
        /// When it was made.
        made_unix_s: u64,
        /// Our clock.
        now_unix_s: u64,
    },
    /// The constitution is void, and the entry is not its amendment.
    #[error("constitution {version} expired at {expired_unix_s}, and it is {now_unix_s}")]
    Expired {
        /// Which.
        version: u64,
        /// From when on it is void.
        expired_unix_s: u64,
        /// The later of our clock and the entry's.
        now_unix_s: u64,
    },
    /// The new constitution cannot be one.
    #[error("the constitution is refused")]
    Constitution(#[from] ConstitutionError),
    /// Too many of the image's operators have keys that cannot sign.
    #[error(
        "{needed} of the {operators} operators of this machine's image must sign a founding, and only {signers} of them have keys that can (Ed25519)"
    )]
    TooFewSigners {
        /// All of them.
        operators: usize,
        /// Those who can.
        signers: usize,
        /// How many must.
        needed: usize,
    },
    /// A founder whom the sealed image does not know.
    #[error("{name} is not among the operators of this machine's image")]
    Stranger {
        /// The operator.
        name: String,
    },
    /// The machine is not admitted.
    #[error("{name} is not admitted")]
    Admit {
        /// Which.
        name: PillarId,
        /// Why not.
        source: MemberError,
    },
    /// Nobody of that name is there.
    #[error("{0} is not a member")]
    NoMember(PillarId),
    /// Somebody of that name is there, with another TPM.
    #[error("{name} has the endorsement key {present}, and {named} is to be revoked")]
    OtherEk {
        /// Who.
        name: PillarId,
        /// What the entry names.
        named: Digest,
        /// What the member has.
        present: Digest,
    },
    /// A reason that cannot be shown.
    #[error(transparent)]
    Reason(TextError),
    /// The releases cannot be run.
    #[error("the releases are refused")]
    Release(#[from] ReleaseError),
    /// Not enough distinct operators signed.
    #[error("{}", too_few(count, *uncounted))]
    TooFewSignatures {
        /// Who did.
        count: Count,
        /// Signatures that do not count.
        uncounted: usize,
    },
}

impl Refusal {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        let text = match self {
            Self::PayloadType { .. } => "is this the right file?",
            Self::TooLarge { .. } => "leave out what the entry does not need",
            Self::Unreadable { .. } => {
                "it was made by a newer version, or by hand: make it with this version's `pillar`"
            }
            Self::NoEntries | Self::NotFounded => "found the cluster first, with its first constitution",
            Self::FoundedAlready { .. } => "a pillar belongs to one cluster: amend its constitution instead",
            Self::Serial { expected, found } if found < expected => {
                "another entry took its place: make it anew on top of that one"
            }
            Self::Serial { .. } => "entries before it are missing here: give those first",
            Self::Previous { .. } => {
                "it was made for another cluster, or another entry took the place: make it anew"
            }
            Self::MadeBefore { .. } => "check the clock of the machine that made it, and make it anew",
            Self::Clock { .. } => {
                return format!(
                    "set the clock that is wrong; up to {CLOCK_AHEAD_MAX_S} s ahead are taken, and the entry stays good"
                );
            }
            Self::Expired { .. } => {
                "amend the constitution (that is still possible), unless this machine's clock is wrong"
            }
            Self::Constitution(source) => source.hint(),
            Self::Stranger { .. } => {
                "found with operators whose certificates were in the keys folder when the image was built"
            }
            Self::TooFewSigners { .. } => {
                "make Ed25519 keys for the others with `pillar-keys operator`, and build the image with their certificates"
            }
            Self::Admit { source, .. } => source.hint(),
            Self::NoMember(_) => "`pillar status` lists the members",
            Self::OtherEk { .. } => "the member changed meanwhile: make the entry anew",
            Self::Reason(_) => "give the reason in a short line of plain text",
            Self::Release(source) => source.hint(),
            Self::TooFewSignatures { count, .. } => {
                return format!("still to ask: {}", count.missing.join(", "));
            }
        };
        text.to_owned()
    }
}

fn too_few(count: &Count, uncounted: usize) -> String {
    let whose = match count.constitution {
        0 => "the image's operators".to_owned(),
        version => format!("the operators of constitution {version}"),
    };
    let by = match count.signed_by.as_slice() {
        [] => String::new(),
        names => format!(" (by {})", names.join(", ")),
    };
    let rest = match uncounted {
        0 => String::new(),
        1 => "; 1 more signature does not count".to_owned(),
        more => format!("; {more} more signatures do not count"),
    };
    format!("{} of {} signatures of {whose} are there{by}{rest}", count.have(), count.needed)
}
