//! NumPy's npz format: a zip archive of npy files, stored or deflated.
//!
//! ```text
//! (local header, name, bytes)*   (directory entry, name)*   end record
//! ```
//!
//! Only what NumPy writes is understood. Sizes come from the directory and are checked against the file; a deflated
//! entry may claim no more than deflate can produce.

use crate::{Tensor, read_npy, write_npy};
use attentia_backend::{Device, Error, ErrorKind, Result};
use flate2::{Crc, read::DeflateDecoder};
use std::io::Read;

const LOCAL: &[u8] = b"PK\x03\x04";
const ENTRY: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
/// Bytes of the fixed part of each record.
const LOCAL_SIZE: usize = 30;
const ENTRY_SIZE: usize = 46;
const END_SIZE: usize = 22;
/// No deflate stream grows by more than this factor.
const MOST_GROWTH: u64 = 1032;

fn refuse(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Io, "npz", what)
}

/// Little-endian numbers at places of a record; `None` behind its end.
struct Record<'a>(&'a [u8]);

impl Record<'_> {
    fn u16(&self, at: usize) -> Option<u64> {
        self.0.get(at..at + 2)?.try_into().ok().map(|bytes| u16::from_le_bytes(bytes) as u64)
    }

    fn u32(&self, at: usize) -> Option<u64> {
        self.0.get(at..at + 4)?.try_into().ok().map(|bytes| u32::from_le_bytes(bytes) as u64)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.0.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
    }
}

struct Entry<'a> {
    name: &'a str,
    method: u64,
    checksum: u32,
    packed: u64,
    size: u64,
    offset: u64,
}

/// The tensors in the bytes of an npz file with their names, in the order of its directory.
pub fn read_npz(bytes: &[u8], device: &Device) -> Result<Vec<(String, Tensor)>> {
    let directory = entries(bytes).ok_or_else(|| refuse("this is no npz file, or its directory is damaged"))?;
    // Entries that overlap could make much of a little.
    let total = directory.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.packed));
    if total > bytes.len() as u64 {
        return Err(refuse("the directory claims more bytes than the file has"));
    }
    let tensor = |entry: &Entry| {
        let file = unpack(bytes, entry).map_err(|what| refuse(format!("{}: {what}", entry.name)))?;
        let x = read_npy(&file, device).map_err(|e| e.in_path(entry.name))?;
        Ok((entry.name.strip_suffix(".npy").unwrap_or(entry.name).to_owned(), x))
    };
    directory.iter().map(tensor).collect()
}

fn entries(bytes: &[u8]) -> Option<Vec<Entry<'_>>> {
    // The end record stands at the end, unless a comment follows it.
    let end = bytes.windows(END_SIZE).rposition(|window| window.starts_with(END))?;
    let record = Record(&bytes[end..]);
    let (count, mut at) = (record.u16(10)?, usize::try_from(record.u32(16)?).ok()?);
    let mut all = Vec::new();
    for _ in 0..count {
        let rest = bytes.get(at..)?;
        let entry = Record(rest.strip_prefix(ENTRY).map(|_| rest)?);
        let (name, extra, comment) = (entry.u16(28)? as usize, entry.u16(30)? as usize, entry.u16(32)? as usize);
        let mut long = extension(rest.get(ENTRY_SIZE + name..ENTRY_SIZE + name + extra)?);
        // Fields that are full are replaced, in this order, by those of the 64-bit extension.
        let mut wide = |value: u64| if value == u32::MAX as u64 { long.next() } else { Some(value) };
        let size = wide(entry.u32(24)?)?;
        let packed = wide(entry.u32(20)?)?;
        let offset = wide(entry.u32(42)?)?;
        all.push(Entry {
            name: std::str::from_utf8(rest.get(ENTRY_SIZE..ENTRY_SIZE + name)?).ok()?,
            method: entry.u16(10)?,
            checksum: entry.u32(16)? as u32,
            packed,
            size,
            offset,
        });
        at += ENTRY_SIZE + name + extra + comment;
    }
    Some(all)
}

/// The numbers of the 64-bit extension, if it is among the extra fields of a directory entry.
fn extension(extra: &[u8]) -> std::vec::IntoIter<u64> {
    let (mut at, mut numbers) = (0, Vec::new());
    let record = Record(extra);
    while let (Some(tag), Some(size)) = (record.u16(at), record.u16(at + 2)) {
        if tag == 1 {
            numbers = (0..size as usize / 8).map_while(|i| record.u64(at + 4 + 8 * i)).collect();
        }
        at += 4 + size as usize;
    }
    numbers.into_iter()
}

fn unpack(bytes: &[u8], entry: &Entry) -> std::result::Result<Vec<u8>, String> {
    let packed = (|| {
        let local = bytes.get(usize::try_from(entry.offset).ok()?..)?;
        let record = Record(local.strip_prefix(LOCAL).map(|_| local)?);
        let start = LOCAL_SIZE + record.u16(26)? as usize + record.u16(28)? as usize;
        local.get(start..)?.get(..usize::try_from(entry.packed).ok()?)
    })()
    .ok_or("it lies outside the file")?;
    let file = match entry.method {
        0 => packed.to_vec(),
        8 if entry.size <= entry.packed.saturating_mul(MOST_GROWTH) => {
            let mut file = Vec::new();
            let mut limited = DeflateDecoder::new(packed).take(entry.size.saturating_add(1));
            limited.read_to_end(&mut file).map_err(|e| e.to_string())?;
            file
        }
        8 => return Err("it claims to be larger than it can be".to_owned()),
        method => return Err(format!("compression method {method} is not supported")),
    };
    let mut crc = Crc::new();
    crc.update(&file);
    if file.len() as u64 != entry.size || crc.sum() != entry.checksum {
        return Err("its bytes do not have the length and the checksum of the directory".to_owned());
    }
    Ok(file)
}

/// The bytes of an npz file, stored without compression. Equal tensors give equal bytes: no time is written. Errors
/// for bf16, and beyond 4 GiB or 65 535 tensors.
pub fn write_npz(tensors: &[(&str, &Tensor)]) -> Result<Vec<u8>> {
    let large = || refuse("too large for a file without 64-bit extensions");
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, x) in tensors {
        let (file, name) = (write_npy(x)?, format!("{name}.npy"));
        let mut crc = Crc::new();
        crc.update(&file);
        let offset = u32::try_from(bytes.len()).map_err(|_| large())?;
        let size = u32::try_from(file.len()).ok().filter(|&size| size < u32::MAX).ok_or_else(large)?;
        let length = u16::try_from(name.len()).map_err(|_| large())?;
        // Version 2.0, names in UTF-8, stored, 1980-01-01.
        let mut shared: Vec<u8> = [20u16, 1 << 11, 0, 0, 0x21].iter().flat_map(|n| n.to_le_bytes()).collect();
        shared.extend([crc.sum(), size, size].iter().flat_map(|n| n.to_le_bytes()));
        shared.extend([length, 0].iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend_from_slice(LOCAL);
        bytes.extend_from_slice(&shared);
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&file);
        directory.extend_from_slice(ENTRY);
        directory.extend_from_slice(&20u16.to_le_bytes());
        directory.extend_from_slice(&shared);
        directory.extend_from_slice(&[0; 10]); // no comment, disk 0, no attributes
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
    }
    let count = u16::try_from(tensors.len()).map_err(|_| large())?;
    let start = u32::try_from(bytes.len()).map_err(|_| large())?;
    let length = u32::try_from(directory.len()).map_err(|_| large())?;
    bytes.extend_from_slice(&directory);
    bytes.extend_from_slice(END);
    bytes.extend([0, 0, count, count].iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend([length, start].iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend_from_slice(&[0; 2]);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{counted, device};
    use flate2::{Compression, write::DeflateEncoder};
    use std::io::Write;

    #[test]
    fn archives_come_and_go() {
        let device = device();
        let (a, b) = (counted(&[2, 3], &device), counted(&[0], &device));
        let bytes = write_npz(&[("a", &a), ("deep/b", &b)]).unwrap();
        let read = read_npz(&bytes, &device).unwrap();
        assert_eq!(read.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "deep/b"]);
        assert_eq!(read[0].1.to_string(), a.to_string());
        assert_eq!(read[1].1.dims::<1>().unwrap(), [0]);
        assert!(read_npz(&write_npz(&[]).unwrap(), &device).unwrap().is_empty());
    }

    /// The archive with its one file deflated and the directory changed to say so.
    fn deflated(claimed: u32) -> Vec<u8> {
        let file = write_npy(&counted(&[40], &device())).unwrap();
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&file).unwrap();
        let packed = encoder.finish().unwrap();
        let stored = write_npz(&[("x", &counted(&[40], &device()))]).unwrap();
        let name = LOCAL_SIZE + "x.npy".len();
        let directory = name + file.len();
        let mut entry = stored[directory..].to_vec();
        entry[10] = 8;
        entry[20..24].copy_from_slice(&(packed.len() as u32).to_le_bytes());
        entry[24..28].copy_from_slice(&claimed.to_le_bytes());
        let end = entry.len() - END_SIZE;
        entry[end + 16..end + 20].copy_from_slice(&((name + packed.len()) as u32).to_le_bytes());
        [&stored[..name], &packed, &entry].concat()
    }

    #[test]
    fn deflated_entries_are_read_within_their_claim() {
        let device = device();
        let size = write_npy(&counted(&[40], &device)).unwrap().len() as u32;
        let read = read_npz(&deflated(size), &device).unwrap();
        assert_eq!(read[0].1.to_string(), counted(&[40], &device).to_string());
        for claimed in [0, size - 1, size + 1, u32::MAX - 1, u32::MAX] {
            assert_eq!(read_npz(&deflated(claimed), &device).unwrap_err().kind(), ErrorKind::Io);
        }
    }

    /// Every truncation, and every byte changed, gives an error or a tensor, never a panic.
    #[test]
    fn damaged_archives_are_errors() {
        let device = device();
        let good = write_npz(&[("a", &counted(&[2], &device))]).unwrap();
        for cut in 0..good.len() {
            assert!(read_npz(&good[..cut], &device).is_err(), "{cut}");
        }
        for at in 0..good.len() {
            for value in [0, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = read_npz(&bad, &device);
            }
        }
    }
}
