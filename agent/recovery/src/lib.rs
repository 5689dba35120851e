//! The state volume's recovery key: 32 random bytes, split so that any k of n operators can put it together and k − 1
//! know nothing, each share sealed to one operator's key. What the volume's header keeps of it ([`Token`]) opens
//! nothing without the operators' private keys.
//!
//! Sharing is Shamir's over GF(256), byte by byte (`field`); sealing is libsodium's sealed box (`crypto_box_seal`) to
//! the operator's Ed25519 key in its X25519 form, so that libsodium opens it too. A commitment to every share tells a
//! wrong share from a right one *before* a wrong key is tried, and says whose it is.
//!
//! **Invariant:** nothing here draws randomness, reads a file or keeps a secret longer than its value lives: what is
//! random is an argument, what is secret is wiped when dropped.
#![forbid(unsafe_code)]

mod field;
mod seal;
mod share;

pub use seal::{Operator, SealError, open_share, seal_share, seed_of_pkcs8};
pub use share::{CombineError, Commitment, Share, SplitError, combine, random_bytes_to_split, split};

use serde::{Deserialize, Serialize};

/// The recovery key, and so each share of it.
pub const KEY_BYTES: usize = 32;
/// Most shares: what fits into a header's token.
pub const SHARES_MAX: u8 = 16;
/// Type of the token in the volume's header.
pub const TOKEN_TYPE: &str = "pillar-recovery";

/// A volume, by the 16 bytes of its UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VolumeId(pub [u8; 16]);

impl VolumeId {
    /// From the usual text form.
    #[must_use]
    pub fn parse(uuid: &str) -> Option<Self> {
        let digits: String = uuid.split('-').collect();
        let bytes = hex::decode(digits).ok()?;
        (uuid.len() == 36).then(|| bytes.try_into().ok().map(VolumeId)).flatten()
    }
}

/// What the volume's header keeps: who has which share. All hex is lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// [`TOKEN_TYPE`].
    #[serde(rename = "type")]
    pub kind: String,
    /// The key slot that the recovery key opens.
    pub keyslots: Vec<String>,
    /// So many shares are needed.
    pub k: u8,
    /// So many were made.
    pub n: u8,
    /// The shares.
    pub shares: Vec<SealedShare>,
}

/// One share in a [`Token`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedShare {
    /// Whose: SHA-256 of the operator's SubjectPublicKeyInfo, hex.
    pub operator: String,
    /// Number of the share, from 1.
    pub index: u8,
    /// Commitment to the share, hex.
    pub commitment: String,
    /// The sealed box, hex.
    pub sealed: String,
}

impl Token {
    /// Splits `key` for the operators, in their order, and seals each share. `random` are
    /// [`random_bytes_to_make`]`(k, operators)` fresh random bytes, used for nothing else.
    pub fn make(
        key: &[u8; KEY_BYTES],
        k: u8,
        operators: &[Operator],
        volume: VolumeId,
        keyslot: u32,
        random: &[u8],
    ) -> Result<Self, MakeError> {
        let n = u8::try_from(operators.len()).unwrap_or(u8::MAX);
        let needed = random_bytes_to_make(k, operators.len());
        if random.len() != needed {
            return Err(SplitError::Random { needed, found: random.len() }.into());
        }
        for (at, operator) in operators.iter().enumerate() {
            if operators[..at].contains(operator) {
                return Err(MakeError::SameOperator(operator.fingerprint()));
            }
        }
        let (for_split, for_seals) = random.split_at(random_bytes_to_split(k));
        let shares = split(key, k, n, volume, for_split)?;
        let mut sealed = Vec::new();
        for ((share, operator), random) in
            shares.iter().zip(operators).zip(for_seals.chunks_exact(seal::RANDOM_BYTES))
        {
            let mut seed = zeroize::Zeroizing::new([0; seal::RANDOM_BYTES]);
            seed.copy_from_slice(random);
            sealed.push(SealedShare {
                operator: operator.fingerprint(),
                index: share.index(),
                commitment: share.commitment().to_string(),
                sealed: hex::encode(seal_share(share, operator, &seed)?),
            });
        }
        Ok(Token { kind: TOKEN_TYPE.to_owned(), keyslots: vec![keyslot.to_string()], k, n, shares: sealed })
    }

    /// Checks what the types do not say: numbers that fit each other, every share there once.
    pub fn judge(&self) -> Result<(), TokenError> {
        if self.kind != TOKEN_TYPE {
            return Err(TokenError::Kind(self.kind.clone()));
        }
        if self.k == 0 || self.k > self.n || self.n > SHARES_MAX || self.shares.len() != usize::from(self.n) {
            return Err(TokenError::Numbers { k: self.k, n: self.n, shares: self.shares.len() });
        }
        for (share, index) in self.shares.iter().zip(1_u8..) {
            if share.index != index {
                return Err(TokenError::Index { found: share.index, expected: index });
            }
            if share.commitment.parse::<Commitment>().is_err() || hex::decode(&share.sealed).is_err() {
                return Err(TokenError::Hex { index });
            }
        }
        Ok(())
    }

    /// The share that an operator can open.
    pub fn share_of(&self, operator: &Operator) -> Result<&SealedShare, SealError> {
        let fingerprint = operator.fingerprint();
        self.shares.iter().find(|share| share.operator == fingerprint).ok_or_else(|| SealError::NotAmong {
            operator: fingerprint,
            among: self.shares.iter().map(|share| share.operator.clone()).collect(),
        })
    }

    /// Opens the share of the operator whose Ed25519 seed this is.
    pub fn open(&self, seed: &[u8; 32], volume: VolumeId) -> Result<Share, SealError> {
        let sealed = self.share_of(&Operator::of_seed(seed)?)?;
        let bytes = hex::decode(&sealed.sealed).map_err(|_| SealError::Damaged)?;
        let share = open_share(&bytes, seed)?;
        if share.volume() != volume {
            return Err(SealError::OtherVolume);
        }
        if share.index() != sealed.index || share.commitment().to_string() != sealed.commitment {
            return Err(SealError::NotAsCommitted { index: sealed.index });
        }
        Ok(share)
    }

    /// Puts the key together.
    pub fn combine(
        &self,
        shares: &[Share],
        volume: VolumeId,
    ) -> Result<zeroize::Zeroizing<[u8; KEY_BYTES]>, RecoverError> {
        self.judge()?;
        let commitments: Vec<Commitment> =
            self.shares.iter().filter_map(|share| share.commitment.parse().ok()).collect();
        Ok(combine(shares, self.k, volume, &commitments)?)
    }
}

/// Random bytes that [`Token::make`] wants.
#[must_use]
pub fn random_bytes_to_make(k: u8, operators: usize) -> usize {
    random_bytes_to_split(k) + operators * seal::RANDOM_BYTES
}

/// Why no token was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MakeError {
    /// The key cannot be split so.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// A share cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// One operator would have two shares.
    #[error("operator {0} is named twice: k of n would be fewer people than it says")]
    SameOperator(String),
}

/// Why a token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another token.
    #[error("the token's type is {0:?}, expected {TOKEN_TYPE:?}")]
    Kind(String),
    /// Numbers that do not fit.
    #[error("the token says {k} of {n} and has {shares} shares")]
    Numbers {
        /// Needed.
        k: u8,
        /// Made.
        n: u8,
        /// There.
        shares: usize,
    },
    /// A share out of order or twice.
    #[error("the token's share {found} is where share {expected} should be")]
    Index {
        /// What is there.
        found: u8,
        /// What should be.
        expected: u8,
    },
    /// Not hex, or of another length.
    #[error("the token's share {index} is damaged")]
    Hex {
        /// Which share.
        index: u8,
    },
}

/// Why there is no recovery key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// The token.
    #[error("the volume's recovery token is not as it was made")]
    Token(#[from] TokenError),
    /// The shares.
    #[error(transparent)]
    Combine(#[from] CombineError),
}

#[cfg(test)]
mod tests;
