//! GF(256) with the polynomial of AES, without tables and branches: how long it takes says nothing about the numbers.
//!
//! Own code, because the kept crates for it either look up tables by secret bytes or bring a field of their own with a
//! dozen dependencies; the whole of it is this page and is tested against every pair of elements.

/// x⁸ = x⁴ + x³ + x + 1.
const REDUCE: u8 = 0x1b;

/// Product.
pub fn mul(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    for _ in 0..8 {
        product ^= a & 0_u8.wrapping_sub(b & 1);
        let carry = 0_u8.wrapping_sub(a >> 7);
        a = (a << 1) ^ (REDUCE & carry);
        b >>= 1;
    }
    product
}

/// Inverse, a²⁵⁴; that of 0 is 0.
pub fn inverse(a: u8) -> u8 {
    // 254 = 2 + 4 + … + 128.
    let mut square = a;
    let mut product = 1;
    for _ in 0..7 {
        square = mul(square, square);
        product = mul(product, square);
    }
    product
}

/// The polynomial with these coefficients (the constant first) at `x`.
pub fn evaluate(coefficients: impl DoubleEndedIterator<Item = u8>, x: u8) -> u8 {
    coefficients.rev().fold(0, |sum, coefficient| mul(sum, x) ^ coefficient)
}

/// What the value at `xs[of]` counts for when a polynomial is interpolated at 0. The `xs` differ and are not 0.
pub fn weight(xs: &[u8], of: usize) -> u8 {
    let x = xs[of];
    let others = xs.iter().enumerate().filter(|(at, _)| *at != of);
    others.fold(1, |product, (_, other)| mul(product, mul(*other, inverse(*other ^ x))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the book: multiply the polynomials, then reduce.
    fn slow(a: u8, b: u8) -> u8 {
        let wide = (0..8).filter(|bit| b >> bit & 1 == 1).fold(0_u16, |sum, bit| sum ^ (u16::from(a) << bit));
        let reduced = (8..15)
            .rev()
            .fold(wide, |wide, bit| if wide >> bit & 1 == 1 { wide ^ (0x11b << (bit - 8)) } else { wide });
        reduced as u8
    }

    #[test]
    fn products_and_inverses_of_all_elements() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(mul(a, b), slow(a, b), "{a} × {b}");
            }
            assert_eq!(mul(a, inverse(a)), u8::from(a != 0), "1/{a}");
        }
        // FIPS 197, section 4.2.
        assert_eq!(mul(0x57, 0x83), 0xc1);
    }

    #[test]
    fn a_polynomial_is_found_again() {
        let coefficients = [17, 200, 3];
        let xs = [1, 5, 250];
        let sum =
            (0..3).fold(0, |sum, at| sum ^ mul(evaluate(coefficients.into_iter(), xs[at]), weight(&xs, at)));
        assert_eq!(sum, 17);
    }
}
