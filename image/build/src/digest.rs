//! Names that are derived instead of drawn: GUIDs, salts and serial numbers that are the same in every build of the
//! same input.

use ring::digest::{Context, SHA256};
use std::io;
use std::path::Path;

/// SHA-256 over parts, each preceded by its length so that no two lists of parts collide.
#[must_use]
pub fn of(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// SHA-256 of some bytes.
#[must_use]
pub fn plain(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&SHA256, bytes).as_ref());
    out
}

/// Twelve digits of [`of`], for names in the cache.
#[must_use]
pub fn short(parts: &[&[u8]]) -> String {
    hex::encode(&of(parts)[..6])
}

/// A GUID for a purpose: version 8 (RFC 9562: custom), so that no tool takes it for random.
#[must_use]
pub fn guid(seed: &str, purpose: &str) -> String {
    let mut b = [0; 16];
    b.copy_from_slice(&of(&[b"guid", seed.as_bytes(), purpose.as_bytes()])[..16]);
    b[6] = (b[6] & 0x0f) | 0x80;
    b[8] = (b[8] & 0x3f) | 0x80;
    let h = hex::encode(b);
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}

/// SHA-256 of a file, read in pieces.
pub fn file(path: &Path) -> io::Result<[u8; 32]> {
    pillar_tools::digest_of(path).map(|digest| digest.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
    }

    #[test]
    fn guids_are_stable_and_marked_custom() {
        let guid = guid("seed", "disk");
        assert_eq!(guid, super::guid("seed", "disk"));
        assert_ne!(guid, super::guid("seed", "esp"));
        assert_eq!(&guid[14..15], "8");
        assert!("89ab".contains(&guid[19..20]));
    }
}
