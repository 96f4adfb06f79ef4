//! Whole files, written so that a crash at any moment leaves the old content or the new content, never a mixture.
//!
//! ```text
//! create  .name.<process>-<n>.tmp  in the same folder (a rename across file systems is no rename)
//! write, sync                      the bytes are on the disk before the name points to them
//! rename                           atomic on every file system that we care about
//! sync the folder                  the new name survives a power failure too (where folders can be opened: Unix)
//! ```

#![forbid(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading failed.
    #[error(
        "{path}: cannot be read: {source}\n  help: check that the path exists and that you may read it",
        path = .path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Writing failed; what stood there before is untouched.
    #[error(
        "{path}: cannot be written: {source}\n  the previous file, if any, is untouched\n  \
         help: check that the folder exists, that you may write to it and that the disk has room",
        path = .path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is whole and in its place, but the system did not confirm that its new name survives a power failure.
    #[error(
        "{path}: was written, but its folder could not be synced: {source}\n  \
         help: the file is in place; until the disk is well again, a power failure may bring the previous one back",
        path = .path.display()
    )]
    Unsynced {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Puts `bytes` at `path`, replacing a file that is there, all or nothing.
///
/// # Errors
///
/// [`Error::Write`] with the path and the cause; the file at `path` is then what it was before. [`Error::Unsynced`] when
/// only the last step failed.
///
/// ```
/// # let folder = std::env::temp_dir();
/// # let path = folder.join(format!("attentia-write-{}.txt", std::process::id()));
/// attentia_file::write_atomic(&path, b"all of it")?;
/// assert_eq!(std::fs::read(&path).unwrap(), b"all of it");
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), attentia_file::Error>(())
/// ```
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |file| file.write_all(bytes))
}

/// [`write_atomic`] of what `write` writes, piece by piece: for content that need not be in memory at once.
///
/// A process that is killed on the way may leave `.name.<process>-<n>.tmp` behind, which [`remove_leftovers`] removes.
pub fn write_atomic_with(path: impl AsRef<Path>, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    replace(path, write).map_err(|source| Error::Write { path: path.to_owned(), source })?;
    sync_folder(path)
}

fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let written = write_synced(&temporary, write).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        // The first error is the one to report; a leftover that cannot be removed either does no harm.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(())
}

/// Whether a file could be written at `path` now: for programs that have much to do before they write it. What stands
/// there is not touched.
///
/// # Errors
///
/// [`Error::Write`], as [`write_atomic`] would answer.
pub fn check_writable(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let tried = match path.is_dir() {
        true => Err(io::ErrorKind::IsADirectory.into()),
        false => temporary_beside(path)
            .and_then(|temporary| write_synced(&temporary, |_| Ok(())).and_then(|()| std::fs::remove_file(temporary))),
    };
    tried.map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// The bytes of a file.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let path = path.as_ref();
    std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// The text of a file.
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// Gives `from` the name `to`, replacing a file that is there, and makes that last.
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    std::fs::rename(from, to).map_err(|source| Error::Write { path: to.to_owned(), source })?;
    sync_folder(to)
}

/// Removes what killed processes left of unfinished writes to `path`, and says how many files that were. Only for
/// callers who know that nobody is writing there now, such as the holder of a folder's lock.
pub fn remove_leftovers(path: impl AsRef<Path>) -> Result<usize> {
    let path = path.as_ref();
    let refuse = |source| Error::Write { path: path.to_owned(), source };
    let Some(name) = path.file_name() else { return Ok(0) };
    let start = format!(".{}.", name.to_string_lossy());
    let mut removed = 0;
    for entry in std::fs::read_dir(folder_of(path)).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(&start).is_some_and(is_temporary) {
            std::fs::remove_file(entry.path()).map_err(refuse)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether this is `<process>-<n>.tmp`.
fn is_temporary(ending: &str) -> bool {
    let numbers = ending.strip_suffix(".tmp").and_then(|numbers| numbers.split_once('-'));
    numbers.is_some_and(|(process, n)| process.parse::<u32>().is_ok() && n.parse::<u64>().is_ok())
}

/// A name that no other thread or process is using, in the folder of `path`.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = format!(".{}.{}-{number}.tmp", name.to_string_lossy(), std::process::id());
    Ok(path.with_file_name(name))
}

fn write_synced(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // A leftover of a dead process with our id is truncated: nobody else can be writing to it.
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, file);
    write(&mut buffered)?;
    buffered.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// The folder that a file stands in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes the name of the file that was put at `path` last.
fn sync_folder(path: &Path) -> Result<()> {
    // Elsewhere a folder cannot be opened, and the system keeps names in order by itself.
    let synced = if cfg!(unix) { File::open(folder_of(path)).and_then(|folder| folder.sync_all()) } else { Ok(()) };
    synced.map_err(|source| Error::Unsynced { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("attentia-file-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn replaces_and_leaves_nothing_beside() {
        let folder = folder("replace");
        let path = folder.join("a.json");
        write_atomic(&path, b"first, and longer").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_failure_names_the_path_and_keeps_the_old_file() {
        let folder = folder("fail");
        let occupied = folder.join("occupied");
        std::fs::create_dir_all(occupied.join("by a folder")).unwrap();
        let error = write_atomic(&occupied, b"x").unwrap_err();
        assert!(error.to_string().contains("occupied"), "{error}");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "the temporary file is gone");
        assert!(matches!(write_atomic(folder.join("no/such/folder"), b"x"), Err(Error::Write { .. })));
        assert!(matches!(write_atomic("/", b"x"), Err(Error::Write { .. })));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_could_be_written_is_known_before_and_nothing_is_touched() {
        let folder = folder("check");
        let path = folder.join("a.json");
        check_writable(&path).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        std::fs::write(&path, b"x").unwrap();
        check_writable(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
        for wrong in [&folder, &folder.join("no/such/folder"), Path::new("/"), Path::new("")] {
            let error = check_writable(wrong).unwrap_err();
            assert!(matches!(error, Error::Write { .. }) && error.to_string().contains("help:"), "{error}");
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn eight_threads_writing_one_file_leave_one_whole_content() {
        let folder = folder("threads");
        let path = folder.join("shared");
        std::thread::scope(|scope| {
            for byte in 0..8u8 {
                let path = &path;
                scope.spawn(move || (0..20).for_each(|_| write_atomic(path, &vec![byte; 5000]).unwrap()));
            }
        });
        let content = std::fs::read(&path).unwrap();
        assert!(content.len() == 5000 && content.iter().all(|byte| *byte == content[0]));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn leftovers_go_and_nothing_else() {
        let folder = folder("leftovers");
        let path = folder.join("model.st");
        for name in [".model.st.123-4.tmp", ".model.st.7-0.tmp", ".model.st.x-0.tmp", ".other.1-1.tmp", "model.st"] {
            std::fs::write(folder.join(name), b"x").unwrap();
        }
        assert_eq!(remove_leftovers(&path).unwrap(), 2);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
