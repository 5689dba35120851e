//! The one header that our image makes.

/// A key slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyslot {
    /// Its number.
    pub number: u32,
    /// PBKDF2 rounds. Few: what opens a slot is 32 random bytes, not a person's passphrase.
    pub iterations: u32,
}

/// A token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Its number.
    pub number: u32,
    /// Its type.
    pub kind: &'static str,
    /// The one key slot that it is about.
    pub keyslot: u32,
}

/// What a header must be. All of it: what is not here must not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Label.
    pub label: &'static str,
    /// Subsystem.
    pub subsystem: &'static str,
    /// Encryption of the data.
    pub encryption: &'static str,
    /// Integrity of the data, as the header spells it, or none.
    pub integrity: Option<&'static str>,
    /// The whole volume key: encryption and, with integrity, HMAC.
    pub volume_key_bytes: u32,
    /// Encryption sector.
    pub sector_bytes: u32,
    /// Where the data begins.
    pub data_offset: u64,
    /// Area of all key slots, behind both copies of the header.
    pub keyslots_bytes: u64,
    /// Encryption of a key slot's area.
    pub keyslot_encryption: &'static str,
    /// Its key.
    pub keyslot_key_bytes: u32,
    /// Stripes of the anti-forensic splitter.
    pub stripes: u32,
    /// Rounds of the volume key's digest.
    pub digest_iterations: u32,
    /// The key slots, by number.
    pub keyslots: &'static [Keyslot],
    /// The tokens, by number.
    pub tokens: &'static [Token],
}

/// Rounds of PBKDF2 everywhere: libcryptsetup's own minimum.
const ITERATIONS: u32 = 1000;

impl Shape {
    /// The state volume's: AES-256-XTS over sectors of 4096 bytes; key slot 0 is the TPM's, 1 the operators'.
    #[must_use]
    pub const fn state(integrity: bool) -> Self {
        Shape {
            label: "pillar-state",
            subsystem: "pillar",
            encryption: "aes-xts-plain64",
            integrity: if integrity { Some("hmac(sha256)") } else { None },
            volume_key_bytes: if integrity { 64 + 32 } else { 64 },
            sector_bytes: 4096,
            data_offset: 4 << 20,
            keyslots_bytes: (4 << 20) - crate::HEADER_BYTES as u64,
            keyslot_encryption: "aes-xts-plain64",
            keyslot_key_bytes: 64,
            stripes: 4000,
            digest_iterations: ITERATIONS,
            keyslots: &[
                Keyslot { number: 0, iterations: ITERATIONS },
                Keyslot { number: 1, iterations: ITERATIONS },
            ],
            tokens: &[
                Token { number: 0, kind: "pillar-tpm", keyslot: 0 },
                Token { number: 1, kind: "pillar-recovery", keyslot: 1 },
            ],
        }
    }

    /// Area of one key slot: the split key, in whole blocks.
    #[must_use]
    pub const fn area_bytes(&self) -> u64 {
        (self.volume_key_bytes as u64 * self.stripes as u64).next_multiple_of(4096)
    }
}
