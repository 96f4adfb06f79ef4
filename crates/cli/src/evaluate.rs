//! `attentia evaluate`: BLEU and chrF of a model's translations, and of a look-up in the training text beside them.

use crate::{
    Machine,
    corpora::{BUNDLED, Source, split_parser},
    translate::{Search, checkpoint_file, load, one_line},
    usage,
};
use anyhow::{Context, Result, bail};
use attentia::{
    data::{Lookup, corpus_bleu, corpus_chrf},
    file::{read_text, write_atomic},
    train::{self, CONFIG, Progress, RunConfig, Split, TranslateOptions, Translator},
};
use serde::Serialize;
use std::{
    io::Write,
    path::{Path, PathBuf},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Evaluate {
    /// Checkpoint file, or a run's folder
    checkpoint: PathBuf,
    /// Part of the corpus
    #[arg(long, value_parser = split_parser(), default_value = "test", conflicts_with = "src")]
    split: Split,
    /// "bundled" or a corpus folder; the run's own if left out
    #[arg(long, value_name = "FROM")]
    corpus: Option<String>,
    /// Greatest number of words of a sentence, in both languages; 0 keeps all; the run's own if left out
    #[arg(long, value_name = "N")]
    longest: Option<usize>,
    /// Sentences to translate, a line each, instead of a corpus; all of them, however long
    #[arg(long, value_name = "FILE", requires = "reference")]
    src: Option<PathBuf>,
    /// Their reference translations, a line each
    #[arg(long = "ref", value_name = "FILE", requires = "src")]
    reference: Option<PathBuf>,
    /// Score the translation of the nearest training sentence too: what remembering alone is worth
    #[arg(long)]
    baseline: bool,
    #[command(flatten)]
    search: Search,
    /// Write the translations to this file, a line each
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Scores {
    bleu: f64,
    bleu_signature: String,
    chrf: f64,
    chrf_signature: String,
}

impl Scores {
    fn of(translations: &[String], references: &[String]) -> Result<Scores> {
        let (bleu, chrf) = (corpus_bleu(translations, references)?, corpus_chrf(translations, references)?);
        Ok(Scores {
            bleu: bleu.score,
            bleu_signature: bleu.signature().to_owned(),
            chrf: chrf.score,
            chrf_signature: chrf.signature().to_owned(),
        })
    }

    fn print(&self, out: &mut impl Write, what: &str) -> std::io::Result<()> {
        writeln!(out, "{what:9} BLEU {:6.2}   {}", self.bleu, self.bleu_signature)?;
        writeln!(out, "{what:9} chrF2 {:5.2}   {}", self.chrf, self.chrf_signature)
    }
}

#[derive(Serialize)]
struct Answer {
    pairs: usize,
    model: Scores,
    baseline: Option<Scores>,
}

impl Evaluate {
    pub(crate) fn run(self, machine: &Machine) -> Result<()> {
        let device = machine.device()?;
        let options = self.search.options()?;
        if options.best != 1 {
            return Err(usage(format!("--nbest {} has no meaning for a score", options.best), "leave it out"));
        }
        let translator = Translator::from_checkpoint(&load(&self.checkpoint, &device)?, &device)?;
        let (from, longest) = self.corpus()?;
        let (sources, references) = match (&self.src, &self.reference) {
            (Some(src), Some(reference)) => parallel(src, reference)?,
            _ => Source::open(&from)?.within(self.split, longest)?,
        };
        let translations = translate_all(&translator, &sources, options)?;
        if let Some(path) = &self.out {
            let lines: String = translations.iter().map(|line| format!("{}\n", one_line(line))).collect();
            write_atomic(path, lines.as_bytes())?;
        }
        let baseline = self.baseline.then(|| look_up(&Source::open(&from)?, longest, &sources)).transpose()?;
        let answer = Answer {
            pairs: sources.len(),
            model: Scores::of(&translations, &references)?,
            baseline: baseline.map(|found| Scores::of(&found, &references)).transpose()?,
        };
        let mut out = std::io::stdout();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
            return Ok(());
        }
        writeln!(out, "{} pairs", answer.pairs)?;
        answer.model.print(&mut out, "model")?;
        if let Some(baseline) = &answer.baseline {
            baseline.print(&mut out, "look-up")?;
        }
        Ok(())
    }

    /// Where the pairs come from, and how long they may be: as told, or as the run beside the checkpoint says.
    fn corpus(&self) -> Result<(String, usize)> {
        let file = checkpoint_file(&self.checkpoint)?;
        let beside = file.parent().unwrap_or(Path::new(".")).join(CONFIG);
        let run = match beside.is_file() {
            true => {
                let read = RunConfig::from_toml(&read_text(&beside)?, &[] as &[&str]);
                Some(read.with_context(|| beside.display().to_string())?.corpus)
            }
            false => None,
        };
        let (from, longest) = run.map_or((BUNDLED.to_owned(), 0), |corpus| (corpus.from, corpus.longest));
        Ok((self.corpus.clone().unwrap_or(from), self.longest.unwrap_or(longest)))
    }
}

/// The best translation of each text, with progress. A text that is too long for the model counts as untranslated, and is
/// told of.
pub(crate) fn translate_all(
    translator: &Translator,
    sources: &[String],
    options: TranslateOptions,
) -> Result<Vec<String>> {
    let mut fitting = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        match translator.check(source) {
            Ok(()) => fitting.push(number),
            Err(error) => tell!("sentence {}: {error}", number + 1),
        }
    }
    let texts: Vec<&str> = fitting.iter().map(|&number| sources[number].as_str()).collect();
    let mut progress = Progress::new("translating", texts.len() as u64);
    let translated = translator.translate(&texts, options, |done| progress.advance(done as u64))?;
    progress.finish();
    let mut translations = vec![String::new(); sources.len()];
    for (number, best) in fitting.into_iter().zip(translated) {
        translations[number] = best.into_iter().next().map(|best| best.text).unwrap_or_default();
    }
    Ok(translations)
}

/// The translations of the nearest training sentences.
fn look_up(corpus: &Source, longest: usize, sources: &[String]) -> Result<Vec<String>> {
    let pairs = train::within(corpus, Split::Train, longest)?.collect::<train::Result<Vec<_>>>()?;
    let lookup = Lookup::new(pairs.into_iter().map(|[source, target]| (source, target)))?;
    let mut progress = Progress::new("looking up", sources.len() as u64);
    let mut found = Vec::with_capacity(sources.len());
    for (number, source) in sources.iter().enumerate() {
        found.push(lookup.translate(source).to_owned());
        progress.advance(number as u64 + 1);
    }
    progress.finish();
    Ok(found)
}

/// Two files with a line for each sentence.
fn parallel(src: &Path, reference: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let lines = |path| Ok::<_, anyhow::Error>(read_text(path)?.lines().map(str::to_owned).collect::<Vec<_>>());
    let (sources, references) = (lines(src)?, lines(reference)?);
    if sources.len() != references.len() {
        bail!(
            "{} has {} lines and {} has {}\n  help: line n of the one is the translation of line n of the other",
            src.display(),
            sources.len(),
            reference.display(),
            references.len()
        );
    }
    Ok((sources, references))
}
