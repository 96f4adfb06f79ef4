//! Whatever happens while a checkpoint is written, a whole one remains, and the training goes on from it with the bits
//! of a training that nothing happened to.

use crate::{
    child,
    setting::{Setting, batches, cpu},
};
use attentia_tensor::Device;
use attentia_train::{Found, Generations};
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const KILLS: u64 = 200;

/// The newest generation after the next start, which leaves nothing half-written behind.
fn newest(folder: &Path, device: &Device) -> Option<Found> {
    let found = Generations::open(folder).unwrap().newest(device).unwrap();
    let strange: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| ![".lock", "last.safetensors", "previous.safetensors"].contains(&name.as_str()))
        .collect();
    assert!(strange.is_empty(), "left behind: {strange:?}");
    found
}

/// The task of a child: trains in a folder, saves after each batch and tells of it, until it is killed.
fn train_until_killed(folder: &str) {
    let setting = Setting::small();
    let device = cpu(1);
    let generations = Generations::open(folder).unwrap();
    let mut trainer = match generations.newest(&device).unwrap() {
        Some(found) => setting.resume(found.checkpoint, &device),
        None => setting.begin(&device),
    };
    loop {
        trainer.next_batch().unwrap();
        let checkpoint = trainer.checkpoint(String::new()).unwrap();
        generations.save(&checkpoint).unwrap();
        child::tell(&format!("saved {}", batches(&checkpoint)));
    }
}

#[test]
fn two_hundred_kills_lose_no_saved_batch_and_change_no_bit() {
    const TEST: &str = "crash::two_hundred_kills_lose_no_saved_batch_and_change_no_bit";
    if let Some(task) = child::task() {
        return train_until_killed(&task[0]);
    }
    let device = cpu(1);
    let folder = child::folder("kills");
    let mut reached = 0;
    let mut draw = 1u64;
    for kill in 0..KILLS {
        let mut child = child::command(TEST, &[folder.to_str().unwrap()]).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next().expect("the child saves").unwrap();
        assert!(first.starts_with("saved "), "the child says: {first}");
        // A batch with its save takes a few milliseconds: each moment of it has its turn.
        draw = draw.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        std::thread::sleep(Duration::from_micros((draw >> 33) % 12_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let told = lines.map_while(Result::ok).last().unwrap_or(first);
        // The kill may have cut the last line.
        let told: u64 = told.strip_prefix("saved ").and_then(|number| number.parse().ok()).unwrap_or(0);
        let found = newest(&folder, &device).expect("a generation is there");
        assert!(found.damaged.is_empty(), "after kill {kill}: {:?}", found.damaged);
        let now = batches(&found.checkpoint);
        assert!(now >= told && now > reached, "after kill {kill}: {told} were saved, {now} are there");
        reached = now;
    }
    let killed = newest(&folder, &device).unwrap().checkpoint;
    let setting = Setting::small();
    let mut trainer = setting.begin(&device);
    for _ in 0..reached {
        trainer.next_batch().unwrap();
    }
    let whole = trainer.checkpoint(String::new()).unwrap();
    assert!(whole.to_bytes().unwrap() == killed.to_bytes().unwrap(), "{reached} batches differ");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Exit status of a child that could not save, and said why.
const NOT_SAVED: i32 = 3;

/// The task of a child: one more batch, and one save.
fn save_once(folder: &str) -> ! {
    let setting = Setting::small();
    let saved = (|| {
        let device = cpu(1);
        let generations = Generations::open(folder)?;
        let found = generations.newest(&device)?.expect("a generation is there");
        let mut trainer = setting.resume(found.checkpoint, &device);
        trainer.next_batch()?;
        generations.save(&trainer.checkpoint(String::new())?)
    })();
    std::process::exit(match saved {
        Ok(()) => 0,
        Err(error) => {
            child::tell(&error.to_string());
            NOT_SAVED
        }
    })
}

/// The folder of a process that died when its third save had written the file: the newest generation has seen three
/// batches and has not its name yet, and a temporary file of a fourth save lies there. And what [`save_once`] makes of it.
struct Before {
    folder: PathBuf,
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Before {
    fn new(name: &str, device: &Device) -> Before {
        let setting = Setting::small();
        let folder = child::folder(name);
        let generations = Generations::open(&folder).unwrap();
        let mut trainer = setting.begin(device);
        let mut next = || {
            trainer.next_batch().unwrap();
            trainer.checkpoint(String::new()).unwrap()
        };
        let [first, second, third, fourth] = [next(), next(), next(), next()];
        generations.save(&first).unwrap();
        generations.save(&second).unwrap();
        third.save(folder.join("next.safetensors")).unwrap();
        std::fs::write(folder.join(".next.safetensors.1-1.tmp"), b"half").unwrap();
        Before { folder, old: third.to_bytes().unwrap(), new: fourth.to_bytes().unwrap() }
    }

    fn copy_to(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        for entry in std::fs::read_dir(&self.folder).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    }

    /// Whether the newest generation is the new one; it must be one of the two.
    fn is_new(&self, folder: &Path, device: &Device, case: &str) -> bool {
        let found = newest(folder, device).expect("a generation is there");
        assert!(found.damaged.is_empty(), "{case}: {:?}", found.damaged);
        let bytes = found.checkpoint.to_bytes().unwrap();
        assert!(bytes == self.old || bytes == self.new, "{case}: the newest is neither the old one nor the new one");
        bytes == self.new
    }
}

#[test]
fn a_failure_at_any_system_call_leaves_the_old_or_the_new() {
    const TEST: &str = "crash::a_failure_at_any_system_call_leaves_the_old_or_the_new";
    if let Some(task) = child::task() {
        save_once(&task[0]);
    }
    if !child::strace_is_there() {
        return;
    }
    let device = cpu(1);
    let before = Before::new("before", &device);
    let folder = child::folder("faults");
    let log = folder.join("log");
    let (mut runs, mut reported) = (0, 0);
    let mut injected = std::collections::BTreeMap::new();
    for call in ["openat", "statx", "read", "write", "fsync", "rename", "flock", "unlink"] {
        for fault in ["error=EIO", "error=ENOSPC", "signal=KILL"] {
            for n in 1.. {
                let case = format!("{call} {n} {fault}");
                let run = folder.join("run");
                before.copy_to(&run);
                // The calls of each thread are counted apart; one thread does all the reading and writing.
                let inject = format!("inject={call}:{fault}:when={n}");
                let options =
                    ["--seccomp-bpf", "-o", log.to_str().unwrap(), "-e", &format!("trace={call}"), "-e", &inject];
                let output = child::traced(&options, TEST, &[run.to_str().unwrap()]).output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                let new = before.is_new(&run, &device, &case);
                let calls = std::fs::read_to_string(&log).unwrap();
                let happened = calls.contains("(INJECTED)") || calls.contains("killed by SIGKILL");
                assert!(new || !output.status.success(), "{case}: reported as saved, and is not");
                assert!(happened || new, "{case}: nothing happened, and nothing was saved: {said}");
                if output.status.code() == Some(NOT_SAVED) {
                    reported += 1;
                    assert!(said.contains(run.to_str().unwrap()) && said.contains("os error"), "{case}: {said}");
                }
                std::fs::remove_dir_all(&run).unwrap();
                runs += 1;
                *injected.entry(call).or_insert(0) += usize::from(happened);
                if !happened {
                    break;
                }
            }
        }
    }
    println!("{runs} runs, {reported} errors that name path and cause, faults by call: {injected:?}");
    assert!(reported > 10, "{reported}");
    // `flock` and `unlink` happen once, and fail in each of three ways.
    assert!(injected.values().all(|&faults| faults >= 3), "{injected:?}");
    for folder in [folder, before.folder] {
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_full_disk_is_an_error_and_the_training_can_go_on() {
    const TEST: &str = "crash::a_full_disk_is_an_error_and_the_training_can_go_on";
    let device = cpu(1);
    if let Some(task) = child::task() {
        let folder = Path::new(&task[0]);
        let setting = Setting::small();
        let generations = Generations::open(folder).unwrap();
        let mut trainer = setting.begin(&device);
        let mut save = || {
            trainer.next_batch().unwrap();
            let checkpoint = trainer.checkpoint(String::new()).unwrap();
            (generations.save(&checkpoint), checkpoint.to_bytes().unwrap())
        };
        let newest = || generations.newest(&device).unwrap().unwrap().checkpoint.to_bytes().unwrap();
        let (saved, first) = save();
        saved.unwrap();
        let rest = folder.join("rest");
        // Fills the disk, and fails at its end.
        std::fs::write(&rest, vec![1; 4 << 20]).unwrap_err();
        for _ in 0..2 {
            let error = save().0.unwrap_err().to_string();
            assert!(error.contains("next.safetensors") && error.contains("No space left"), "{error}");
            assert!(newest() == first, "the generation before is lost");
        }
        std::fs::remove_file(&rest).unwrap();
        let (saved, fourth) = save();
        saved.unwrap();
        assert!(newest() == fourth);
        return child::tell("done");
    }
    // A disk of 2 MB that goes with the process; a mount is allowed in a namespace of one's own, on most systems.
    let folder = child::folder("full");
    let mount = format!("mount -t tmpfs -o size=2m tmpfs '{}'", folder.display());
    let alone = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
        command
    };
    if !child::part_is_there("mount", alone(&mount).output().is_ok_and(|output| output.status.success())) {
        return;
    }
    let child = child::command(TEST, &[folder.to_str().unwrap()]);
    let program = format!("'{}'", child.get_program().to_str().unwrap());
    let words: Vec<&str> = child.get_args().map(|word| word.to_str().unwrap()).collect();
    let mut command = alone(&format!("{mount} && {program} {}", words.join(" ")));
    for (name, value) in child.get_envs() {
        command.env(name, value.unwrap());
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("done"), "{said}");
    std::fs::remove_dir_all(folder).unwrap();
}
