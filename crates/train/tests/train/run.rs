//! Whole runs over a toy corpus: when they end, what they leave, and what stops them.

use crate::{child, setting::cpu};
use attentia_data::Examples;
use attentia_nn::Scope;
use attentia_tensor::{DType, Tensor};
use attentia_train::{
    Error, JsonLines, NotFinite, Outcome, Prepared, Recorder, RunConfig, RunFolder, SentencePairs, Split, Splits,
    TrainConfig, Trainer, run,
};
use attentia_transformer::{Checkpoint, EncoderDecoder, EncoderDecoderConfig};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// Three words and their names.
struct Toy;

impl Splits for Toy {
    fn pairs(&self, split: Split) -> attentia_train::Result<SentencePairs<'_>> {
        let count = if split == Split::Train { 60 } else { 9 };
        let words = [("one", "eins"), ("two", "zwei"), ("three", "drei")];
        let pair = move |n: usize| {
            let [(a, x), (b, y)] = [words[n % 3], words[n / 3 % 3]];
            Ok([format!("{a} {b}"), format!("{x} {y}")])
        };
        Ok(Box::new((0..count).map(pair)))
    }
}

fn config(sets: &[&str]) -> RunConfig {
    let small = ["model.width=16", "model.heads=2", "model.hidden=16", "model.vocabulary=300", "train.batch_tokens=64"];
    RunConfig::from_toml("", &[&small, sets].concat()).unwrap()
}

fn start(folder: &Path, config: &RunConfig, interrupted: &AtomicBool) -> Outcome {
    let device = cpu(1);
    let run_folder = RunFolder::open(folder, true).unwrap();
    let data = Prepared::new(folder, &Toy, config, true).unwrap();
    let mut lines = JsonLines::open(folder.join("metrics.jsonl"), "test".into()).unwrap();
    let from = run_folder.newest(&device).unwrap().map(|found| found.checkpoint);
    run(&run_folder, config, &data, from, &device, &mut [&mut lines as &mut dyn Recorder], interrupted).unwrap()
}

#[test]
fn a_run_that_does_not_become_better_ends_early_with_its_best() {
    let folder = child::folder("early");
    // With such a rate nothing changes, so that the first validation stays the best.
    let config = config(&["train.steps=100", "train.peak=1e-30", "validate.every=5", "validate.patience=3"]);
    assert_eq!(start(&folder, &config, &AtomicBool::new(false)), Outcome::Stopped);
    let at = |name: &str| Checkpoint::load(folder.join(name), &cpu(1)).unwrap().step;
    assert_eq!((at("best.safetensors"), at("last.safetensors"), at("model.safetensors")), (5, 20, 5));
    // Asked to go on, it stays where it ended.
    assert_eq!(start(&folder, &config, &AtomicBool::new(false)), Outcome::Stopped);
    assert_eq!(at("last.safetensors"), 20);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_run_that_is_asked_to_stop_saves_and_goes_on() {
    let (whole, stopped) = (child::folder("whole"), child::folder("stopped"));
    let config = config(&["train.steps=12", "train.peak=0.01", "validate.every=4"]);
    let no = AtomicBool::new(false);
    assert_eq!(start(&whole, &config, &no), Outcome::Finished);
    let yes = AtomicBool::new(true);
    assert_eq!(start(&stopped, &config, &yes), Outcome::Interrupted);
    assert!(stopped.join("last.safetensors").is_file());
    yes.store(false, Ordering::Relaxed);
    assert_eq!(start(&stopped, &config, &yes), Outcome::Finished);
    let bytes = |folder: &Path, name: &str| std::fs::read(folder.join(name)).unwrap();
    for name in ["last.safetensors", "best.safetensors", "model.safetensors"] {
        assert!(bytes(&whole, name) == bytes(&stopped, name), "{name}");
    }
    for folder in [whole, stopped] {
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn the_last_step_may_be_the_best() {
    let folder = child::folder("last");
    let config = config(&["train.steps=11", "train.peak=0.01", "validate.every=4"]);
    assert_eq!(start(&folder, &config, &AtomicBool::new(false)), Outcome::Finished);
    assert_eq!(Checkpoint::load(folder.join("model.safetensors"), &cpu(1)).unwrap().step, 11);
    // The model is not replaced, even where nothing else of the run is left.
    for name in ["last.safetensors", "previous.safetensors", "best.safetensors"] {
        let _ = std::fs::remove_file(folder.join(name));
    }
    let error = RunFolder::open(&folder, false).unwrap_err();
    assert!(matches!(error, Error::Occupied { .. }), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_was_prepared_for_something_else_is_made_anew() {
    let folder = child::folder("prepared");
    std::fs::create_dir_all(&folder).unwrap();
    let prepare = |sets: &[&str], again| Prepared::new(&folder, &Toy, &config(sets), again).unwrap();
    let first = prepare(&[], false);
    assert_eq!((first.train.len(), first.tokenizer.vocab_size()), (60, 280));
    // One that was stopped between the vocabulary and the examples leaves files of two configurations.
    let other = config(&["model.vocabulary=270"]);
    let broken = Broken(AtomicBool::new(false));
    Prepared::new(&folder, &broken, &other, true).unwrap_err();
    assert_eq!(attentia_data::Tokenizer::load(folder.join("tokenizer.json")).unwrap().vocab_size(), 270);
    let again = prepare(&[], true);
    assert_eq!((again.train.len(), again.tokenizer.vocab_size()), (60, 280));
    // And what is whole is taken as it is.
    std::fs::write(
        folder.join("tokenizer.json"),
        prepare(&["model.vocabulary=265"], true).tokenizer.to_json().unwrap(),
    )
    .unwrap();
    assert_eq!(prepare(&["model.vocabulary=265"], true).tokenizer.vocab_size(), 265);
    std::fs::remove_dir_all(folder).unwrap();
}

/// The toy's sentences for a vocabulary, and then none.
struct Broken(AtomicBool);

impl Splits for Broken {
    fn pairs(&self, split: Split) -> attentia_train::Result<SentencePairs<'_>> {
        if split == Split::Train && self.0.swap(true, Ordering::Relaxed) {
            return Err(Error::NoText);
        }
        Toy.pairs(split)
    }
}

#[test]
fn a_nan_is_named_or_left_out() {
    let device = cpu(1);
    let examples = crate::setting::reversals(20, 3..=5, 12, 1);
    let begin = |not_finite, poison: bool| {
        let scope = Scope::new(&device, DType::F32, 1);
        let config = EncoderDecoderConfig { width: 8, heads: 2, hidden: 8, ..EncoderDecoderConfig::tiny(12) };
        let model = EncoderDecoder::new(&scope, config).unwrap();
        let train = TrainConfig { steps: 100, batch_tokens: 30, not_finite, ..TrainConfig::default() };
        let trainer = Trainer::new(model, scope.parameters(), &examples, train, &device).unwrap();
        let parameters = scope.parameters();
        let (path, var) = parameters.iter().find(|(path, _)| path.contains("1.")).unwrap();
        let value = if poison { f32::NAN } else { 3e38 };
        let shape = var.value().shape().as_slice().to_vec();
        var.set(&Tensor::full(&shape, value, DType::F32, &device).unwrap()).unwrap();
        (trainer, path.to_owned())
    };
    let (mut trainer, path) = begin(NotFinite::Stop, true);
    let error = trainer.next_step().unwrap_err();
    assert!(matches!(error, Error::NotFinite { step: 1, .. }), "{error}");
    assert!(error.to_string().contains(&path) && error.to_string().contains("help:"), "{error}");

    // Finite parameters that overflow on the way: the operation is named.
    let (mut trainer, _) = begin(NotFinite::Stop, false);
    let error = trainer.next_step().unwrap_err().to_string();
    assert!(error.contains("appeared here"), "{error}");

    // Left out, again and again, until that is enough.
    let (mut trainer, _) = begin(NotFinite::Skip, true);
    let mut skipped = 0;
    let error = loop {
        match trainer.next_batch() {
            Ok(None) => skipped += 1,
            Ok(Some(step)) => panic!("{step:?}"),
            Err(error) => break error,
        }
    };
    assert!(skipped == 19 && matches!(error, Error::NotFinite { .. }), "{skipped}: {error}");
}
