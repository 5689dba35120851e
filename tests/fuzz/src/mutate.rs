//! Mutations of known inputs from a fixed seed: what the short run in `cargo test` feeds, the same on every machine.

/// SplitMix64 (Steele, Lea, Flood, 2014): small, fast, and its sequence is fixed by its definition.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when there is none.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }
}

/// Numbers that lengths and counts are compared with, or overflow at.
const INTERESTING: [u64; 16] =
    [0, 1, 2, 7, 8, 16, 20, 32, 48, 64, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, u64::MAX];

/// Up to four changes to one of the inputs, the result at most `limit` bytes.
pub fn mutated(random: &mut Random, inputs: &[Vec<u8>], limit: usize) -> Vec<u8> {
    let mut bytes = inputs.get(random.below(inputs.len())).cloned().unwrap_or_default();
    for _ in 0..=random.below(4) {
        mutate(random, &mut bytes, inputs);
    }
    bytes.truncate(limit);
    bytes
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
    let at = random.below(bytes.len());
    let rest = bytes.len() - at;
    match random.below(10) {
        0 if rest > 0 => bytes[at] ^= 1 << random.below(8),
        1 if rest > 0 => bytes[at] = random.next() as u8,
        2 if rest > 0 => bytes[at] = bytes[at].wrapping_add(if random.below(2) == 0 { 1 } else { 0xFF }),
        3 => write_number(random, &mut bytes[at..]),
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..at + random.below(rest.min(40) + 1))),
        6 => {
            let len = 1 + random.below(16);
            let new: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            drop(bytes.splice(at..at, new));
        }
        7 => {
            // A piece of the same input once more, or in another's place.
            let piece = bytes[at..at + random.below(rest.min(200) + 1)].to_vec();
            let to = random.below(bytes.len());
            let end = if random.below(2) == 0 { to } else { (to + piece.len()).min(bytes.len()) };
            drop(bytes.splice(to..end, piece));
        }
        8 => {
            // The end of another input.
            if let Some(other) = inputs.get(random.below(inputs.len())) {
                let from = random.below(other.len());
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
        }
        _ => bytes.extend((0..random.below(8)).map(|_| 0)),
    }
}

/// Overwrites one, two, four or eight bytes with an interesting number, in either order of bytes.
fn write_number(random: &mut Random, place: &mut [u8]) {
    let value = INTERESTING[random.below(INTERESTING.len())].wrapping_sub(random.below(2) as u64);
    let width = 1 << random.below(4);
    let Some(place) = place.get_mut(..width) else { return };
    place.copy_from_slice(&value.to_le_bytes()[..width]);
    if random.below(2) == 0 {
        place.reverse();
    }
}
