//! The checkpoints of a run in a folder: the last one, the one before, and the best.
//!
//! ```text
//! save   write next, sync     a whole file under a name of its own
//!        previous := last     a rename, which replaces what stood there
//!        last     := next     a rename
//! ```
//!
//! A process that dies at any of these moments leaves at least one whole generation, and never loses one that `save`
//! had reported. A file that was damaged afterwards is found out by its checksums: it is set aside as `<name>.damaged`,
//! so that it cannot become the previous generation, and the one before it is taken.

use crate::{Error, Result};
use attentia_tensor::{Device, ErrorKind};
use attentia_transformer::Checkpoint;
use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
};

const NEXT: &str = "next.safetensors";
const LAST: &str = "last.safetensors";
const PREVIOUS: &str = "previous.safetensors";
const BEST: &str = "best.safetensors";
const LOCK: &str = ".lock";

/// What a file is called when it was set aside.
fn damaged_name(name: &str) -> String {
    format!("{name}.damaged")
}

/// A run's folder, locked against other processes while this value lives.
#[derive(Debug)]
pub struct Generations {
    folder: PathBuf,
    /// The system gives the lock back when the process ends, however it ends.
    _lock: File,
}

/// A checkpoint that was found, and what had to be passed over.
#[derive(Debug)]
pub struct Found {
    /// The newest that is not damaged.
    pub checkpoint: Checkpoint,
    /// Its file.
    pub path: PathBuf,
    /// What is wrong with newer ones: each error names its file.
    pub damaged: Vec<attentia_tensor::Error>,
}

impl Generations {
    /// Opens or creates a run's folder, and removes what a killed process left half-written.
    ///
    /// Errors when another process has it open, or it cannot be written to.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Generations> {
        let folder = folder.into();
        let lock = folder.join(LOCK);
        let refuse = |source| attentia_file::Error::Write { path: lock.clone(), source };
        std::fs::create_dir_all(&folder).map_err(refuse)?;
        let file = OpenOptions::new().create(true).append(true).open(&lock).map_err(refuse)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { folder }),
            Err(TryLockError::Error(source)) => return Err(refuse(source).into()),
        }
        let generations = Generations { folder, _lock: file };
        for name in [NEXT, BEST] {
            attentia_file::remove_leftovers(generations.path(name))?;
        }
        if generations.exists(NEXT)? {
            generations.rotate()?;
        }
        Ok(generations)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Unlike [`Path::exists`], a disk that does not answer is an error, and not an absent file.
    fn exists(&self, name: &str) -> Result<bool> {
        let path = self.path(name);
        path.try_exists().map_err(|source| attentia_file::Error::Read { path, source }.into())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the best checkpoint is.
    pub fn best(&self) -> PathBuf {
        self.path(BEST)
    }

    /// Makes this the last generation, and the last one the previous. On an error, what was saved before is still there,
    /// as the last or as the previous one.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.save(self.path(NEXT))?;
        self.rotate()
    }

    fn rotate(&self) -> Result<()> {
        if self.exists(LAST)? {
            attentia_file::rename(self.path(LAST), self.path(PREVIOUS))?;
        }
        Ok(attentia_file::rename(self.path(NEXT), self.path(LAST))?)
    }

    /// Keeps this as the best, beside the generations.
    pub fn save_best(&self, checkpoint: &Checkpoint) -> Result<()> {
        Ok(checkpoint.save(self.best())?)
    }

    /// Whether there is a checkpoint of any kind.
    pub(crate) fn any(&self) -> Result<bool> {
        [NEXT, LAST, PREVIOUS, BEST].iter().try_fold(false, |any, name| Ok(any || self.exists(name)?))
    }

    /// Removes all checkpoints of the run, those that were set aside too.
    pub(crate) fn clear(&self) -> Result<()> {
        let names = [NEXT, LAST, PREVIOUS, BEST].into_iter().flat_map(|name| [name.to_owned(), damaged_name(name)]);
        for name in names {
            if self.exists(&name)? {
                let path = self.path(&name);
                std::fs::remove_file(&path).map_err(|source| attentia_file::Error::Write { path, source })?;
            }
        }
        Ok(())
    }

    /// The newest generation that is not damaged, or `None` when nothing was saved yet. [`Found::damaged`] tells of
    /// those that are; they are renamed to `<name>.damaged`.
    ///
    /// Errors when a file cannot be read, is of another kind or a newer format, does not fit in memory, or when all of
    /// them are damaged; nothing is renamed then.
    pub fn newest(&self, device: &Device) -> Result<Option<Found>> {
        let mut damaged: Vec<(&str, attentia_tensor::Error)> = Vec::new();
        for name in [NEXT, LAST, PREVIOUS] {
            if !self.exists(name)? {
                continue;
            }
            let path = self.path(name);
            // What the disk refuses to give may be whole, and must not be overwritten by a training that goes on from an
            // older generation: that is an error. Bytes that are wrong are damage.
            let bytes = attentia_file::read(&path)?;
            match Checkpoint::from_bytes(&bytes, device) {
                Ok(checkpoint) => {
                    for (name, _) in &damaged {
                        attentia_file::rename(self.path(name), self.path(&damaged_name(name)))?;
                    }
                    let damaged = damaged.into_iter().map(|(_, error)| error).collect();
                    return Ok(Some(Found { checkpoint, path, damaged }));
                }
                Err(error) => {
                    let error = error.in_path(path.display().to_string());
                    if error.kind() != ErrorKind::Damaged {
                        return Err(error.into());
                    }
                    damaged.push((name, error));
                }
            }
        }
        if damaged.is_empty() {
            return Ok(None);
        }
        let reasons =
            damaged.iter().map(|(_, error)| format!("\n  {}", error.to_string().replace('\n', "\n  "))).collect();
        Err(Error::AllDamaged { folder: self.folder.clone(), reasons })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attentia_nn::Scope;
    use attentia_tensor::DType;
    use attentia_transformer::{EncoderDecoder, EncoderDecoderConfig};

    fn device() -> Device {
        Device::new(attentia_cpu::CpuBackend::new(1).unwrap())
    }

    fn checkpoint(device: &Device, step: u64) -> Checkpoint {
        let config = EncoderDecoderConfig { width: 4, heads: 2, hidden: 4, ..EncoderDecoderConfig::tiny(6) };
        let scope = Scope::new(device, DType::F32, step);
        let model = EncoderDecoder::new(&scope, config).unwrap();
        Checkpoint::of(&model, &scope.parameters(), String::new(), step)
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("attentia-generations-{name}-{}", std::process::id()));
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        folder
    }

    fn damage(path: &Path) {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_damaged_generation_is_passed_over_and_named() {
        let (device, folder) = (device(), folder("damaged"));
        let generations = Generations::open(&folder).unwrap();
        assert!(generations.newest(&device).unwrap().is_none());
        for step in 1..=3 {
            generations.save(&checkpoint(&device, step)).unwrap();
        }
        generations.save_best(&checkpoint(&device, 2)).unwrap();
        let found = generations.newest(&device).unwrap().unwrap();
        assert_eq!((found.checkpoint.step, found.damaged.len()), (3, 0));

        damage(&folder.join(LAST));
        let found = generations.newest(&device).unwrap().unwrap();
        assert_eq!((found.checkpoint.step, found.path), (2, folder.join(PREVIOUS)));
        assert!(found.damaged[0].to_string().contains(LAST), "{}", found.damaged[0]);
        assert_eq!(found.checkpoint.to_bytes().unwrap(), checkpoint(&device, 2).to_bytes().unwrap());
        assert!(folder.join(format!("{LAST}.damaged")).exists() && !folder.join(LAST).exists());

        // The whole one stays the previous: the damaged one does not take its place.
        generations.save(&checkpoint(&device, 4)).unwrap();
        damage(&folder.join(LAST));
        assert_eq!(generations.newest(&device).unwrap().unwrap().checkpoint.step, 2);

        generations.save(&checkpoint(&device, 5)).unwrap();
        for name in [LAST, PREVIOUS] {
            damage(&folder.join(name));
        }
        let error = generations.newest(&device).unwrap_err().to_string();
        assert!(error.contains(LAST) && error.contains(PREVIOUS), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_whole_and_not_understood_is_no_damage() {
        let (device, folder) = (device(), folder("foreign"));
        let generations = Generations::open(&folder).unwrap();
        generations.save(&checkpoint(&device, 1)).unwrap();
        let foreign = attentia_nn::State { meaning: "no model", tensors: Default::default() };
        foreign.save(folder.join(NEXT)).unwrap();
        let error = generations.newest(&device).unwrap_err();
        assert!(error.to_string().contains(NEXT) && !matches!(error, Error::AllDamaged { .. }), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_rotation_that_was_cut_short_is_finished() {
        let (device, folder) = (device(), folder("rotation"));
        let generations = Generations::open(&folder).unwrap();
        for step in 1..=2 {
            generations.save(&checkpoint(&device, step)).unwrap();
        }
        checkpoint(&device, 3).save(folder.join(NEXT)).unwrap();
        std::fs::write(folder.join(format!(".{NEXT}.1-1.tmp")), b"half").unwrap();
        assert_eq!(generations.newest(&device).unwrap().unwrap().checkpoint.step, 3);
        drop(generations);
        let generations = Generations::open(&folder).unwrap();
        let names: std::collections::BTreeSet<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [LOCK, LAST, PREVIOUS].into_iter().map(Into::into).collect());
        assert_eq!(generations.newest(&device).unwrap().unwrap().checkpoint.step, 3);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = folder("lock");
        let first = Generations::open(&folder).unwrap();
        let error = Generations::open(&folder).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        drop(first);
        Generations::open(&folder).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }
}
