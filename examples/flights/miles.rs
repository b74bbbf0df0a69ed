//! Whole miles, of any size.
//!
//! The file's rule for a distance is 'ASCII digits' and says nothing of how many, so a number of
//! fixed width would turn away legs that count.

use std::fmt;
use std::ops::AddAssign;

/// Decimal digits, the last one first, without leading zeros: none at all for zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Miles(Vec<u8>);

impl Miles {
    /// `None` for anything but ASCII digits.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let zeros = text.iter().take_while(|&&digit| digit == b'0').count();
        let significant = text[zeros..].iter().rev();
        Some(Self(significant.map(|digit| digit - b'0').collect()))
    }
}

impl AddAssign<&Miles> for Miles {
    fn add_assign(&mut self, other: &Miles) {
        let length = self.0.len().max(other.0.len());
        self.0.resize(length, 0);
        let mut carry = 0;
        for (place, digit) in self.0.iter_mut().enumerate() {
            let sum = *digit + other.0.get(place).unwrap_or(&0) + carry;
            *digit = sum % 10;
            carry = sum / 10;
        }
        if carry > 0 {
            self.0.push(carry);
        }
    }
}

impl fmt::Display for Miles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        self.0.iter().rev().try_for_each(|digit| write!(f, "{digit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn miles(text: &str) -> Miles {
        Miles::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn only_digits_are_miles() {
        for bad in ["", "NA", "-1", "+1", "1.0", " 1", "1 ", "1e3", "0x1", "\u{0661}"] {
            assert_eq!(Miles::parse(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(miles("000").to_string(), "0");
        assert_eq!(miles("0012").to_string(), "12");
    }

    #[test]
    fn sums_agree_with_integers() {
        let numbers: [u128; 8] = [0, 1, 9, 99, 1_400, 999_999, u64::MAX as u128, u128::MAX / 4];
        for a in numbers {
            for b in numbers {
                let mut sum = miles(&a.to_string());
                sum += &miles(&b.to_string());
                assert_eq!(sum.to_string(), (a + b).to_string());
                assert_eq!(Miles::parse(sum.to_string().as_bytes()), Some(sum));
            }
        }
    }

    #[test]
    fn no_number_is_too_long() {
        let mut sum = miles(&"9".repeat(100));
        sum += &miles("1");
        assert_eq!(sum.to_string(), format!("1{}", "0".repeat(100)));
    }
}
