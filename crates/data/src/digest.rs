//! Texts by their digest: whether one has been seen is told by 16 bytes of it, and a file is known again by 32.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::Result;

/// 128 bits of SHA-256: among a thousand million texts, two that fall together have a chance of 10^-21.
pub(crate) fn digest128(parts: &[&str]) -> u128 {
    let [bytes, _] = halves(parts);
    u128::from_be_bytes(bytes)
}

/// The first eight bytes of the SHA-256 as a number.
pub(crate) fn digest64(parts: &[&str]) -> u64 {
    (digest128(parts) >> 64) as u64
}

fn halves(parts: &[&str]) -> [[u8; 16]; 2] {
    let mut hash = Sha256::new();
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            hash.update([0]);
        }
        hash.update(part);
    }
    let whole: [u8; 32] = hash.finalize().into();
    let mut halves = [[0; 16]; 2];
    for (half, bytes) in halves.iter_mut().zip(whole.chunks_exact(16)) {
        half.copy_from_slice(bytes);
    }
    halves
}

/// Digests that have been met: 16 bytes each, 20 to 40 with the free places of the table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(HashSet<u128, BuildHasherDefault<Low>>);

impl Seen {
    /// Whether this is the first time.
    pub(crate) fn insert(&mut self, digest: u128) -> bool {
        self.0.insert(digest)
    }

    pub(crate) fn contains(&self, digest: u128) -> bool {
        self.0.contains(&digest)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A digest is its own hash.
#[derive(Debug, Default)]
struct Low(u64);

impl Hasher for Low {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Passes bytes on, counts them and takes their SHA-256.
pub(crate) struct Digesting<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Digesting<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// Number of bytes, and the SHA-256 in hexadecimal.
    pub(crate) fn finish(self) -> (u64, String) {
        (self.bytes, hex(self.hash))
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// SHA-256 of a file in hexadecimal.
pub(crate) fn sha256_of_file(path: &Path) -> Result<String> {
    let refuse = |source| attentia_file::Error::Read { path: path.to_owned(), source };
    let mut file = crate::lines::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(refuse)? {
            0 => return Ok(hex(hash)),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn hex(hash: Sha256) -> String {
    let bytes: [u8; 32] = hash.finalize().into();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn digests_are_those_of_sha256() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(digest64(&["abc"]), 0xba78_16bf_8f01_cfea);
        assert_eq!(digest128(&["abc"]) >> 64, u128::from(digest64(&["abc"])));
        assert_ne!(digest128(&["a", "bc"]), digest128(&["ab", "c"]));
        let folder = Folder::new("digest");
        let mut file = Digesting::new(Vec::new());
        file.write_all(b"abc").unwrap();
        let (bytes, hash) = file.finish();
        assert_eq!((bytes, &hash[..16]), (3, "ba7816bf8f01cfea"));
        assert_eq!(sha256_of_file(&folder.write("abc", b"abc")).unwrap(), hash);
    }

    #[test]
    fn seen_tells_the_first_time() {
        let mut seen = Seen::default();
        assert!(seen.insert(7) && !seen.insert(7) && seen.insert(7 << 64));
        assert!(seen.contains(7) && !seen.contains(8));
        assert_eq!(seen.len(), 2);
    }
}
