//! FNV-1a, 64 bits wide, as a running state.

use std::fmt;

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// What the lines of an aircraft's legs come to, in their order. Two orders give two digests, so
/// it shows a leg that was carried out too early, twice, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest(u64);

impl Digest {
    /// The state after one more line, which comes without its line end and counts with an LF.
    pub(crate) fn line(self, line: &[u8]) -> Self {
        let bytes = line.iter().chain(b"\n");
        Self(bytes.fold(self.0, |state, &byte| (state ^ u64::from(byte)).wrapping_mul(PRIME)))
    }

    /// Reads what `Display` writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let state = u64::from_str_radix(text, 16).ok().filter(|_| hex)?;
        Some(Self(state))
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self(OFFSET_BASIS)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        let empty = Digest::default();
        assert_eq!(empty.to_string(), "cbf29ce484222325");
        // In the FNV authors' own test suite, LF included.
        assert_eq!(empty.line(b"chongo was here!").to_string(), "46810940eff5f915");
    }

    #[test]
    fn lines_are_chained_in_order() {
        let start = Digest::default();
        assert_eq!(start.line(b"a\nb"), start.line(b"a").line(b"b"));
        assert_ne!(start.line(b"a").line(b"b"), start.line(b"b").line(b"a"));
    }

    #[test]
    fn what_is_written_can_be_read() {
        let digest = Digest(0xab);
        assert_eq!(digest.to_string(), "00000000000000ab");
        assert_eq!(Digest::parse("00000000000000ab"), Some(digest));
        for bad in ["", "ab", "+0000000000000ab", "00000000000000ag"] {
            assert_eq!(Digest::parse(bad), None, "{bad:?}");
        }
    }
}
