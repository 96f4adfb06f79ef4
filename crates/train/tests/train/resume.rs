//! A training that was stopped goes on with the same bits, in another process and with any number of threads.

use crate::{
    child,
    setting::{Setting, batches, bits, cpu, parallel_runs},
};
use attentia_nn::Precision;
use attentia_train::{Generations, TrainConfig, Trainer};
use attentia_transformer::Checkpoint;
use std::{
    io::{BufRead, BufReader},
    path::Path,
};

/// The task of a child: `<size> <folder> <threads> <batches>`. Goes on in the folder until so many batches are done,
/// saves, and waits to be killed; with 0 until the last step.
pub(crate) fn go_on(task: &[String]) {
    let [size, folder, threads, until] = task else { panic!("{task:?}") };
    let setting = if size == "base" { Setting::base() } else { Setting::small() };
    let device = cpu(threads.parse().unwrap());
    let generations = Generations::open(folder).unwrap();
    let mut trainer = match generations.newest(&device).unwrap() {
        Some(found) => setting.resume(found.checkpoint, &device),
        None => setting.begin(&device),
    };
    let save = |trainer: &Trainer| {
        generations.save(&trainer.checkpoint(String::new()).unwrap()).unwrap();
        child::tell(&format!("saved {}", parallel_runs(&device)));
    };
    if until == "0" {
        while let Some(step) = trainer.next_step().unwrap() {
            child::tell(&format!("step {:?}", bits(&step)));
        }
        return save(&trainer);
    }
    for _ in 0..until.parse().unwrap() {
        if let Some(step) = trainer.next_batch().unwrap() {
            child::tell(&format!("step {:?}", bits(&step)));
        }
    }
    save(&trainer);
    loop {
        std::thread::park();
    }
}

/// What a child tells until it has saved; it is killed then. The second is its count of parallel loops.
pub(crate) fn until_saved(test: &str, task: &[&str]) -> (Vec<String>, usize) {
    let mut child = child::command(test, task).spawn().unwrap();
    let (mut steps, mut parallel) = (Vec::new(), None);
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(step) = line.strip_prefix("step ") {
            steps.push(step.to_owned());
        } else if let Some(count) = line.strip_prefix("saved ") {
            parallel = Some(count.parse().unwrap());
            break;
        } else {
            panic!("the child says: {line}");
        }
    }
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().unwrap();
    (steps, parallel.expect("the child saved"))
}

pub(crate) fn last(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("last.safetensors")).unwrap()
}

#[test]
fn two_hundred_steps_in_two_processes_are_those_of_one() {
    const TEST: &str = "resume::two_hundred_steps_in_two_processes_are_those_of_one";
    if let Some(task) = child::task() {
        return go_on(&task);
    }
    let setting = Setting::small();
    let mut expected: Option<(Vec<String>, Vec<u8>)> = None;
    for threads in ["1", "2"] {
        let device = cpu(threads.parse().unwrap());
        let mut trainer = setting.begin(&device);
        let mut steps = Vec::new();
        while let Some(step) = trainer.next_step().unwrap() {
            steps.push(format!("{:?}", bits(&step)));
        }
        let whole = (steps, trainer.checkpoint(String::new()).unwrap().to_bytes().unwrap());
        assert_eq!(whole.0.len(), 200);
        assert!(expected.as_ref().is_none_or(|expected| *expected == whole), "threads change bits");

        // 201 batches: a hundred updates, and the first half of the next.
        let folder = child::folder("resume");
        let at = folder.to_str().unwrap();
        let (mut steps, _) = until_saved(TEST, &["small", at, threads, "201"]);
        assert_eq!(steps.len(), 100);
        let saved = Checkpoint::from_bytes(&last(&folder), &device).unwrap();
        assert_eq!((saved.step, batches(&saved)), (100, 201));
        assert!(saved.training.unwrap().tensors.keys().any(|name| name.starts_with("accumulated.")));
        steps.extend(until_saved(TEST, &["small", at, threads, "0"]).0);
        assert!(steps == whole.0, "a loss or a norm differs");
        assert!(last(&folder) == whole.1, "the last checkpoint differs");
        std::fs::remove_dir_all(folder).unwrap();
        expected = Some(whole);
    }
}

#[test]
fn a_mixed_training_learns_and_goes_on_in_bf16_with_f32_parameters() {
    let device = cpu(2);
    let setting = Setting { precision: Precision::mixed_bf16(), ..Setting::small() };
    let step = |trainer: &mut Trainer| trainer.next_step().unwrap().unwrap();
    let mut whole = setting.begin(&device);
    let first = step(&mut whole);
    for _ in 0..49 {
        step(&mut whole);
    }
    let mut resumed = setting.resume(whole.checkpoint(String::new()).unwrap(), &device);
    for _ in 0..49 {
        assert_eq!(bits(&step(&mut whole)), bits(&step(&mut resumed)));
    }
    let (last, of_resumed) = (step(&mut whole), step(&mut resumed));
    assert_eq!(bits(&last), bits(&of_resumed));
    assert!(last.loss < 0.9 * first.loss, "{} to {} nats", first.loss, last.loss);
    // Near the same training in f32, and not the same.
    let setting = Setting::small();
    let mut exact = setting.begin(&device);
    let of_exact = step(&mut exact);
    assert!(first.loss != of_exact.loss && (first.loss - of_exact.loss).abs() < 0.02 * of_exact.loss);
}

#[test]
fn a_checkpoint_of_another_training_is_refused_and_says_what_differs() {
    let device = cpu(1);
    let setting = Setting::small();
    let mut trainer = setting.begin(&device);
    trainer.next_batch().unwrap();
    let checkpoint = trainer.checkpoint(String::new()).unwrap();
    let refused = |change: fn(&mut Setting), checkpoint: &Checkpoint| {
        let mut other = Setting::small();
        change(&mut other);
        let mut trainer = other.begin(&device);
        trainer.resume(checkpoint.clone()).unwrap_err().to_string()
    };
    let differs = refused(|s| s.train.clip = 2.0, &checkpoint);
    assert!(differs.contains("clip was 1.0, and is now 2.0"), "{differs}");
    let differs = refused(|s| s.examples[3].source[0] ^= 1, &checkpoint);
    assert!(differs.contains("other examples"), "{differs}");
    let differs = refused(|s| s.model.hidden = 32, &checkpoint);
    assert!(differs.contains("another model"), "{differs}");
    let differs = refused(|s| s.precision = Precision::mixed_bf16(), &checkpoint);
    assert!(differs.contains("f32 products, and has now f32 parameters and bf16 products"), "{differs}");
    let differs = refused(|_| (), &Checkpoint { training: None, ..checkpoint.clone() });
    assert!(differs.contains("no training"), "{differs}");
    let (model, parameters) = checkpoint.model(&device).unwrap();
    parameters.filter(|path| path.starts_with("encoder.")).set_requires_grad(false);
    let mut frozen = Trainer::new(model, parameters, &setting.examples, setting.train.clone(), &device).unwrap();
    let differs = frozen.resume(checkpoint.clone()).unwrap_err().to_string();
    assert!(differs.contains("frozen was [], and is now [\"encoder."), "{differs}");
    let mut longer = Setting::small();
    longer.train.steps = 1000;
    longer.begin(&device).resume(checkpoint).unwrap();
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let device = cpu(1);
    let refused = |change: fn(&mut TrainConfig)| {
        let mut setting = Setting::small();
        change(&mut setting.train);
        setting.train.validate().unwrap_err().to_string()
    };
    assert!(refused(|train| train.accumulate = 0).contains("accumulate is 0"));
    assert!(refused(|train| train.clip = 0.0).contains("clip is 0"));
    assert!(refused(|train| train.clip = f64::NAN).contains("clip is NaN"));
    let mut setting = Setting::small();
    setting.train.accumulate = 0;
    let (model, parameters) =
        Setting::small().begin(&device).checkpoint(String::new()).unwrap().model(&device).unwrap();
    assert!(Trainer::new(model, parameters, &setting.examples, setting.train.clone(), &device).is_err());
}
