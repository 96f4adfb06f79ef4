//! `attentia quickstart`: from the bundled corpus to a translator and a picture of its attention.

use crate::{Machine, translate};
use anyhow::{Context, Result};
use attentia::{
    data::{Example, Tokenizer, corpus_bleu},
    file::write_atomic,
    nn::{Schedule, Scope},
    tensor::DType,
    train::{Progress, TrainConfig, Trainer, Translator},
    transformer::{Checkpoint, EncoderDecoder, EncoderDecoderConfig},
};
use attentia_corpus::Pair;
use std::{io::Write, path::Path, time::Instant};

/// Enough for the loss to level off on sentences this short.
pub(crate) const STEPS: u64 = 1600;
const VOCABULARY: usize = 3000;
const LONGEST_SENTENCE: usize = 12;
/// Test sentences translated at once.
const TRANSLATE_BATCH: usize = 64;
/// The sentence whose attention is drawn: of the corpus's domain, with a verb that German moves to the end.
const DRAWN: &str = "Click the OK button to save the document.";
/// Translations shown beside their references.
const SHOWN: usize = 6;

pub(crate) fn run(machine: &Machine, out: &Path, seed: u64, steps: u64, test_pairs: usize) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot create the folder {}", out.display()))?;
    let mut stdout = std::io::stdout();
    let device = machine.device()?;
    let mut corpus = attentia_corpus::english_german()?.at_most_words(LONGEST_SENTENCE);
    if test_pairs > 0 {
        corpus.test.truncate(test_pairs);
    }
    let texts = corpus.train.iter().flat_map(|pair| [&pair.source, &pair.target]);
    let tokenizer = Tokenizer::train_bpe(texts, VOCABULARY)?;
    let examples = corpus.train.iter().map(|pair| example(&tokenizer, pair)).collect::<Result<Vec<_>>>()?;

    let scope = Scope::new(&device, DType::F32, seed);
    let config = EncoderDecoderConfig::tiny(tokenizer.vocab_size());
    let model = EncoderDecoder::new(&scope, config)?;
    let parameters = scope.parameters();
    writeln!(
        stdout,
        "{} sentence pairs of at most {LONGEST_SENTENCE} words, {} test pairs, {} tokens, {} parameters, device {device}, seed {seed}",
        examples.len(),
        corpus.test.len(),
        tokenizer.vocab_size(),
        parameters.count(),
    )?;

    let train = TrainConfig {
        steps,
        batch_tokens: 2048,
        accumulate: 1,
        schedule: Schedule::Cosine { peak: 3e-3, warmup: (steps / 5).min(400), total: steps, floor: 0.0 },
        label_smoothing: 0.1,
        clip: 1.0,
        seed,
    };
    let started = Instant::now();
    let mut progress = Progress::new("training", steps);
    let mut last_loss = f64::NAN;
    let mut tokens = 0;
    let mut trainer = Trainer::new(model.clone(), parameters.clone(), &examples, train, &device)?;
    while let Some(step) = trainer.next_step()? {
        (last_loss, tokens) = (step.loss, tokens + step.tokens);
        progress.step(&step);
    }
    progress.finish();
    let seconds = started.elapsed().as_secs_f64();
    // What took minutes is kept before anything is printed: the reader of a pipe may have gone.
    let path = out.join("model.safetensors");
    Checkpoint::of(&model, &parameters, tokenizer.to_json()?, steps).save(&path)?;
    writeln!(
        stdout,
        "trained {steps} steps in {seconds:.0} s, {:.0} tokens/s, last loss {last_loss:.3}",
        tokens as f64 / seconds
    )?;

    let translator = Translator::new(model, tokenizer, &device);
    let (translation, map) = translator.attend(DRAWN, translate::last_layer(&translator))?;
    let svg = out.join("attention.svg");
    write_atomic(&svg, translate::draw(&map, DRAWN)?.as_bytes())?;
    let bleu = evaluate(&translator, &corpus.test, &mut stdout)?;
    writeln!(
        stdout,
        "\n  {DRAWN}\n  ? {translation}\n\ncheckpoint: {}\nattention map: {}",
        path.display(),
        svg.display()
    )?;
    writeln!(stdout, "next: attentia translate {} \"Close the window.\" --svg map.svg", path.display())?;
    writeln!(stdout, "BLEU after: {bleu:.2}")?;
    Ok(())
}

fn example(tokenizer: &Tokenizer, pair: &Pair) -> Result<Example> {
    Ok(Example { source: tokenizer.encode(&pair.source)?, target: tokenizer.encode(&pair.target)? })
}

/// Translates every pair, prints a few beside their references, and gives the BLEU of all.
fn evaluate(translator: &Translator, pairs: &[Pair], out: &mut impl Write) -> Result<f64> {
    let sources: Vec<&str> = pairs.iter().map(|pair| pair.source.as_str()).collect();
    let references: Vec<&str> = pairs.iter().map(|pair| pair.target.as_str()).collect();
    let mut progress = Progress::new("translating", pairs.len() as u64);
    let translations = translator.translate(&sources, TRANSLATE_BATCH, |done| progress.advance(done as u64))?;
    progress.finish();
    let every = (pairs.len() / SHOWN).max(1);
    for i in (0..pairs.len()).step_by(every).take(SHOWN) {
        writeln!(out, "\n  {}\n  = {}\n  ? {}", sources[i], references[i], translations[i])?;
    }
    let bleu = corpus_bleu(&translations, &references)?;
    writeln!(out, "\n{} test pairs, {}", pairs.len(), bleu.signature())?;
    Ok(bleu.score)
}
