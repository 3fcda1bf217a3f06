//! The irreducible polynomial that a repository's configuration must name.
//!
//! Levee's chunker doesn't use it; restic refuses a repository without a good one. Algorithm: Ben-Or's
//! test, as in restic's chunker.

use crate::Result;
use crate::crypto::random;

/// The degree that restic uses.
const DEGREE: u32 = 53;

/// A random irreducible polynomial over GF(2), its coefficients as bits.
pub(crate) fn random_irreducible() -> Result<u64> {
    loop {
        let mut bytes = [0; 8];
        random(&mut bytes)?;
        let candidate = (u64::from_le_bytes(bytes) & ((1 << (DEGREE + 1)) - 1)) | (1 << DEGREE) | 1;
        if is_irreducible(candidate) {
            return Ok(candidate);
        }
    }
}

pub(crate) fn is_irreducible(polynomial: u64) -> bool {
    let Some(degree) = degree(polynomial) else { return false };
    (1..=degree / 2).all(|power| gcd(polynomial, frobenius_minus_x(power, polynomial)) == 1)
}

fn degree(polynomial: u64) -> Option<u32> {
    polynomial.checked_ilog2()
}

fn remainder(mut dividend: u64, divisor: u64) -> u64 {
    let Some(divisor_degree) = degree(divisor) else { return dividend };
    while let Some(difference) = degree(dividend).and_then(|degree| degree.checked_sub(divisor_degree)) {
        dividend ^= divisor << difference;
    }
    dividend
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, remainder(a, b));
    }
    a
}

fn multiply(mut a: u64, mut b: u64, modulus: u64) -> u64 {
    let mut product = 0;
    while b != 0 {
        if b & 1 == 1 {
            product ^= a;
        }
        b >>= 1;
        a = remainder(a << 1, modulus);
    }
    remainder(product, modulus)
}

/// `x^(2^power) - x` modulo the polynomial.
fn frobenius_minus_x(power: u32, modulus: u64) -> u64 {
    let mut value = 2;
    for _ in 0..power {
        value = multiply(value, value, modulus);
    }
    remainder(value ^ 2, modulus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn irreducible_ones_are_told_from_others() {
        for good in [0x3DA3358B4DC173, 0x25b468838dcb75, 0x3dea92648f6e83, 0b111, 0b10011] {
            assert!(is_irreducible(good), "{good:x}");
        }
        for bad in [0, 0b101, 0b110, 0x20000000000001, 0x38f1e565e288df + 2] {
            assert!(!is_irreducible(bad), "{bad:x}");
        }
        assert_eq!(degree(random_irreducible().unwrap()), Some(DEGREE));
    }
}
