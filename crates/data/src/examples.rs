//! Where the examples of a training lie: in memory, or in a file when they are more than memory holds.
//!
//! ```text
//! example file   magic                      8 bytes, the version among them
//!                ids                        u32, little endian: source and target of one example after the other
//!                lengths                    u32, u32 per example: tokens of its source and of its target
//!                examples, fingerprint      u64, u64
//! ```
//!
//! Memory holds 16 bytes per example of such a file, whatever its length; ids are read when a batch asks for them. The
//! fingerprint is made of all ids and lengths and is compared when the file is opened.

use crate::batch::draw;
use crate::{Error, Result};
use std::{
    fmt::Debug,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Mutex,
};

/// A sentence and its translation as ids, without special tokens. Either may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Example {
    /// What is read.
    pub source: Vec<u32>,
    /// What is to be said.
    pub target: Vec<u32>,
}

/// A numbered list of examples. Implemented by everything that is a slice of [`Example`], and by [`ExampleFile`].
pub trait Examples: Debug + Sync {
    /// How many.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of an example's source and target; zeros behind the last one.
    fn lengths(&self, index: usize) -> [usize; 2];

    /// One of them. Errors when it cannot be read, or there is no such one.
    fn get(&self, index: usize) -> Result<Example>;

    /// A number that other examples would change.
    fn fingerprint(&self) -> u64;
}

impl<T: AsRef<[Example]> + Debug + Sync> Examples for T {
    fn len(&self) -> usize {
        self.as_ref().len()
    }

    fn lengths(&self, index: usize) -> [usize; 2] {
        self.as_ref().get(index).map_or([0, 0], |example| [example.source.len(), example.target.len()])
    }

    fn get(&self, index: usize) -> Result<Example> {
        self.as_ref().get(index).cloned().ok_or(Error::NoExample { index, count: self.as_ref().len() })
    }

    fn fingerprint(&self) -> u64 {
        let mut fingerprint = Fingerprint::new();
        for example in self.as_ref() {
            fingerprint.add(&example.source);
            fingerprint.add(&example.target);
        }
        fingerprint.0
    }
}

/// Of sequences, one after the other.
struct Fingerprint(u64);

impl Fingerprint {
    /// Of none. Not 0: zeros are what a cut file is most likely to end with.
    fn new() -> Fingerprint {
        Fingerprint(draw([0; 4]))
    }

    fn add(&mut self, ids: &[u32]) {
        let state = ids.iter().fold(self.0, |state, &id| draw([state, u64::from(id), 0, 0]));
        self.0 = draw([state, ids.len() as u64, 1, 0]);
    }
}

const MAGIC: &[u8; 8] = b"ATTNEX\x00\x01";
const FOOTER: u64 = 16;

/// Examples in a file.
///
/// ```
/// use attentia_data::{Example, ExampleFile, Examples};
/// # let path = std::env::temp_dir().join(format!("attentia-examples-{}.bin", std::process::id()));
/// let example = |n: u32| Example { source: vec![4, 5, n], target: vec![n; 2] };
/// ExampleFile::write(&path, (10..20).map(|n| Ok(example(n))))?;
/// let examples = ExampleFile::open(&path)?;
/// assert_eq!((examples.len(), examples.lengths(3)), (10, [3, 2]));
/// assert_eq!(examples.get(3)?, example(13));
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), attentia_data::Error>(())
/// ```
#[derive(Debug)]
pub struct ExampleFile {
    path: PathBuf,
    file: Mutex<File>,
    /// Tokens of each source and target.
    lengths: Vec<[u32; 2]>,
    /// Where each example's ids begin, in bytes.
    starts: Vec<u64>,
    fingerprint: u64,
}

impl ExampleFile {
    /// Writes examples as they come, all or nothing, and returns how many they were.
    ///
    /// # Errors
    ///
    /// The first error of the iterator, or [`Error::File`].
    pub fn write(path: impl AsRef<Path>, examples: impl IntoIterator<Item = Result<Example>>) -> Result<usize> {
        let (mut refused, mut count) = (None, 0);
        let written = attentia_file::write_atomic_with(path, |out| {
            out.write_all(MAGIC)?;
            let (mut lengths, mut fingerprint) = (Vec::<u8>::new(), Fingerprint::new());
            for example in examples {
                let Example { source, target } = example.map_err(|error| {
                    refused = Some(error);
                    io::Error::other("an example could not be made")
                })?;
                for side in [source, target] {
                    let length = u32::try_from(side.len()).map_err(io::Error::other)?;
                    lengths.extend(length.to_le_bytes());
                    out.write_all(&side.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())?;
                    fingerprint.add(&side);
                }
                count += 1;
            }
            out.write_all(&lengths)?;
            out.write_all(&(count as u64).to_le_bytes())?;
            out.write_all(&fingerprint.0.to_le_bytes())
        });
        match refused {
            Some(error) => Err(error),
            None => Ok(written.map(|()| count)?),
        }
    }

    /// Opens a file and compares its fingerprint, for which it is read once from the beginning to the end.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::NotExamples`] when the file is of another kind, cut or damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<ExampleFile> {
        let path = path.as_ref().to_owned();
        let read = |source| attentia_file::Error::Read { path: path.clone(), source };
        let refuse = |what: &str| Error::NotExamples { path: path.clone(), what: what.to_owned() };
        let mut file = File::open(&path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        let mut magic = [0; MAGIC.len()];
        if size < MAGIC.len() as u64 + FOOTER || file.read_exact(&mut magic).is_err() || magic != *MAGIC {
            return Err(refuse("it does not begin and end as one"));
        }
        file.seek(SeekFrom::Start(size - FOOTER)).map_err(read)?;
        let [count, fingerprint] = read_u64s(&mut file).map_err(read)?;
        // The lengths must lie in the file before memory is asked for them.
        let table = count.checked_mul(8).filter(|&bytes| bytes <= size - FOOTER - MAGIC.len() as u64);
        let table = table.ok_or_else(|| refuse("it has no room for the number of examples that it names"))?;
        file.seek(SeekFrom::Start(size - FOOTER - table)).map_err(read)?;
        let mut bytes = vec![0; usize::try_from(table).map_err(|_| refuse("it has too many examples"))?];
        file.read_exact(&mut bytes).map_err(read)?;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |n, &byte| n << 8 | u32::from(byte));
        let lengths: Vec<[u32; 2]> =
            bytes.chunks_exact(8).map(|pair| [number(&pair[..4]), number(&pair[4..])]).collect();
        let mut end = MAGIC.len() as u64;
        let mut starts = Vec::with_capacity(lengths.len());
        for &[source, target] in &lengths {
            starts.push(end);
            end = end.saturating_add(4 * (u64::from(source) + u64::from(target)));
        }
        if end != size - FOOTER - table {
            return Err(refuse("its lengths do not add up to its size"));
        }
        file.seek(SeekFrom::Start(MAGIC.len() as u64)).map_err(read)?;
        let (mut reader, mut found) = (BufReader::with_capacity(1 << 20, &file), Fingerprint::new());
        for &length in lengths.iter().flatten() {
            found.add(&read_ids(&mut reader, length).map_err(read)?);
        }
        if found.0 != fingerprint {
            return Err(refuse("its fingerprint is another one: it was damaged"));
        }
        Ok(ExampleFile { path, file: Mutex::new(file), lengths, starts, fingerprint })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Examples for ExampleFile {
    fn len(&self) -> usize {
        self.lengths.len()
    }

    fn lengths(&self, index: usize) -> [usize; 2] {
        self.lengths.get(index).map_or([0, 0], |lengths| lengths.map(|length| length as usize))
    }

    fn get(&self, index: usize) -> Result<Example> {
        let (Some(&start), Some(&[source, target])) = (self.starts.get(index), self.lengths.get(index)) else {
            return Err(Error::NoExample { index, count: self.lengths.len() });
        };
        // A thread that panicked while it read left at worst another position, which is set here.
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut read = || -> io::Result<Example> {
            file.seek(SeekFrom::Start(start))?;
            Ok(Example { source: read_ids(&mut *file, source)?, target: read_ids(&mut *file, target)? })
        };
        Ok(read().map_err(|source| attentia_file::Error::Read { path: self.path.clone(), source })?)
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

fn read_u64s<const N: usize>(from: &mut impl Read) -> io::Result<[u64; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        *number = u64::from_le_bytes(bytes);
    }
    Ok(numbers)
}

/// `count` ids. The caller knows that the file has them.
fn read_ids(from: &mut impl Read, count: u32) -> io::Result<Vec<u32>> {
    let mut bytes = vec![0; count as usize * 4];
    from.read_exact(&mut bytes)?;
    let id = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, &byte| id << 8 | u32::from(byte));
    Ok(bytes.chunks_exact(4).map(id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Batches;

    fn examples() -> Vec<Example> {
        (0..60u32)
            .map(|n| Example { source: (0..n % 7).map(|i| 4 + n + i).collect(), target: vec![n; 60 - n as usize] })
            .collect()
    }

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("attentia-data-{name}-{}.bin", std::process::id()))
    }

    #[test]
    fn a_file_gives_the_batches_that_memory_gives() {
        let (path, examples) = (path("batches"), examples());
        assert_eq!(ExampleFile::write(&path, examples.iter().cloned().map(Ok)).unwrap(), 60);
        let file = ExampleFile::open(&path).unwrap();
        let (ours, theirs) = (Batches::new(&file, 128).unwrap(), Batches::new(&examples, 128).unwrap());
        assert_eq!(ours.fingerprint(), theirs.fingerprint());
        let all = |batches: &Batches| batches.epoch(3, 2).map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(all(&ours), all(&theirs));
        assert!(matches!(file.get(60), Err(Error::NoExample { index: 60, count: 60 })));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_found() {
        let path = path("damage");
        ExampleFile::write(&path, examples().into_iter().take(6).map(Ok)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = ExampleFile::open(&path).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x81;
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(ExampleFile::open(&path), Err(Error::NotExamples { .. })), "byte {at}");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_error_on_the_way_leaves_no_file() {
        let path = path("error");
        let failing = [Ok(examples().remove(3)), Err(Error::NothingToScore)];
        assert!(matches!(ExampleFile::write(&path, failing), Err(Error::NothingToScore)));
        assert!(!path.exists());
        assert!(matches!(ExampleFile::open(&path), Err(Error::File(_))));
    }
}
