//! Splitting, commitments, putting together.

use crate::{KEY_BYTES, SHARES_MAX, VolumeId, field};
use ring::digest;
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// What a commitment is a hash of begins with this.
const COMMITMENT_LABEL: &[u8] = b"pillar recovery share v1\0";

/// One share.
#[derive(Clone, PartialEq, Eq)]
pub struct Share {
    volume: VolumeId,
    index: u8,
    value: Zeroizing<[u8; KEY_BYTES]>,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share")
            .field("volume", &self.volume)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl Share {
    /// From its parts, as one that was opened; none when the index is not one.
    #[must_use]
    pub fn new(volume: VolumeId, index: u8, value: Zeroizing<[u8; KEY_BYTES]>) -> Option<Self> {
        (1..=SHARES_MAX).contains(&index).then_some(Share { volume, index, value })
    }

    /// Of which volume.
    #[must_use]
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Its number, from 1.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// The secret.
    #[must_use]
    pub fn value(&self) -> &[u8; KEY_BYTES] {
        &self.value
    }

    /// SHA-256 over label, volume, index and value. The value has 256 random bits, so this hides it.
    #[must_use]
    pub fn commitment(&self) -> Commitment {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(COMMITMENT_LABEL);
        context.update(&self.volume.0);
        context.update(&[self.index]);
        context.update(&*self.value);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Commitment(bytes)
    }
}

/// What a share must hash to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commitment(pub [u8; 32]);

impl fmt::Display for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Commitment {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Commitment(bytes))
    }
}

/// Why a key cannot be split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// No sensible k of n.
    #[error(
        "{k} of {n} shares is not possible: at least 1, at most {SHARES_MAX}, and not more needed than there are"
    )]
    Numbers {
        /// Needed.
        k: u8,
        /// Made.
        n: u8,
    },
    /// Too little or too much randomness.
    #[error("splitting needs {needed} random bytes, got {found}")]
    Random {
        /// Needed.
        needed: usize,
        /// Given.
        found: usize,
    },
}

/// Random bytes that [`split`] wants: the coefficients but the constant ones.
#[must_use]
pub fn random_bytes_to_split(k: u8) -> usize {
    KEY_BYTES * usize::from(k.saturating_sub(1))
}

/// Splits `key` into n shares, any k of which are enough.
pub fn split(
    key: &[u8; KEY_BYTES],
    k: u8,
    n: u8,
    volume: VolumeId,
    random: &[u8],
) -> Result<Vec<Share>, SplitError> {
    if k == 0 || k > n || n > SHARES_MAX {
        return Err(SplitError::Numbers { k, n });
    }
    let needed = random_bytes_to_split(k);
    if random.len() != needed {
        return Err(SplitError::Random { needed, found: random.len() });
    }
    let share = |index: u8| {
        let mut value = Zeroizing::new([0; KEY_BYTES]);
        for (at, (byte, secret)) in value.iter_mut().zip(key).enumerate() {
            let above = random.iter().skip(at).step_by(KEY_BYTES);
            let coefficients: Zeroizing<Vec<u8>> =
                Zeroizing::new(std::iter::once(secret).chain(above).copied().collect());
            *byte = field::evaluate(coefficients.iter().copied(), index);
        }
        Share { volume, index, value }
    };
    Ok((1..=n).map(share).collect())
}

/// Why shares do not give the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CombineError {
    /// Too few.
    #[error(
        "too few shares: {found} given, {needed} needed\n  hint: another operator opens their share with their own key"
    )]
    TooFew {
        /// Given.
        found: usize,
        /// Needed.
        needed: u8,
    },
    /// One twice.
    #[error("share {0} is given twice\n  hint: each operator has a share of their own")]
    Twice(u8),
    /// One of another volume.
    #[error(
        "share {0} belongs to another volume\n  hint: it was made for another machine, or before this one was erased"
    )]
    OtherVolume(u8),
    /// One that is not what was made.
    #[error("share {0} does not belong to this volume: it is not what was made for it")]
    Wrong(u8),
    /// A number that nobody has.
    #[error("there is no share {index}: this volume has {made}")]
    NoSuch {
        /// Which.
        index: u8,
        /// How many there are.
        made: usize,
    },
}

/// Puts the key together from at least k shares; `commitments` are those of all shares, in order. Every share given
/// must be right, also those that would not be needed.
pub fn combine(
    shares: &[Share],
    k: u8,
    volume: VolumeId,
    commitments: &[Commitment],
) -> Result<Zeroizing<[u8; KEY_BYTES]>, CombineError> {
    for (at, share) in shares.iter().enumerate() {
        let index = share.index;
        if share.volume != volume {
            return Err(CombineError::OtherVolume(index));
        }
        if shares[..at].iter().any(|other| other.index == index) {
            return Err(CombineError::Twice(index));
        }
        match index.checked_sub(1).and_then(|at| commitments.get(usize::from(at))) {
            None => return Err(CombineError::NoSuch { index, made: commitments.len() }),
            Some(commitment) if *commitment != share.commitment() => return Err(CombineError::Wrong(index)),
            Some(_) => {}
        }
    }
    let needed = usize::from(k);
    let Some(shares) = shares.get(..needed).filter(|_| k > 0) else {
        return Err(CombineError::TooFew { found: shares.len(), needed: k });
    };
    let xs: Vec<u8> = shares.iter().map(|share| share.index).collect();
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    for (of, share) in shares.iter().enumerate() {
        let weight = field::weight(&xs, of);
        for (byte, value) in key.iter_mut().zip(share.value.iter()) {
            *byte ^= field::mul(*value, weight);
        }
    }
    Ok(key)
}
