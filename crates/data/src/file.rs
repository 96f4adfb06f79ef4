//! Whole files, written so that a crash at any moment leaves the old content or the new content, never a mixture.
//!
//! ```text
//! create  .name.<process>-<n>.tmp  in the same folder (a rename across file systems is no rename)
//! write, sync                      the bytes are on the disk before the name points to them
//! rename                           atomic on every file system that we care about
//! sync the folder                  the new name survives a power failure too (where folders can be opened: Unix)
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// Puts `bytes` at `path`, replacing a file that is there, all or nothing.
///
/// A process that is killed on the way may leave `.name.<process>-<n>.tmp` behind, which is safe to delete.
///
/// # Errors
///
/// [`Error::Write`] with the path and the cause; the file at `path` is then what it was before.
///
/// ```
/// # let folder = std::env::temp_dir();
/// # let path = folder.join(format!("attentia-write-{}.txt", std::process::id()));
/// attentia_data::file::write_atomic(&path, b"all of it")?;
/// assert_eq!(std::fs::read(&path).unwrap(), b"all of it");
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), attentia_data::Error>(())
/// ```
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    replace(path, bytes).map_err(|source| Error::Write { path: path.to_owned(), source })
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let written = write_synced(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        // The first error is the one to report; a leftover that cannot be removed either does no harm.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    sync_folder(path)
}

/// A name that no other thread or process is using, in the folder of `path`.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = format!(".{}.{}-{number}.tmp", name.to_string_lossy(), std::process::id());
    Ok(path.with_file_name(name))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A leftover of a dead process with our id is truncated: nobody else can be writing to it.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// The text of a file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
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
}
