//! `attentia corpus`: sentence pairs from other people's files to a folder with three splits, and what is in one.

use crate::{
    Machine, Usage,
    corpora::{BUNDLED, Source, split_parser},
    interruption::{INTERRUPTED, Interruption},
    usage,
};
use anyhow::Result;
use attentia::{
    data::{self, BuildConfig, FilterConfig, Pairs, RawPair, SplitBy, Stats, build, format},
    train::Split,
};
use clap::{Subcommand, ValueEnum};
use serde_json::json;
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::Ordering,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Corpus {
    /// Read sentence pairs, drop what teaches nothing, and write train.tsv, valid.tsv, test.tsv and corpus.json
    ///
    /// Documents are split, not sentences, and a pair whose source also stands in train (lower case, letters only) leaves
    /// valid and test. What was dropped, and why, is printed and kept in corpus.json.
    Build(Build),
    /// Count pairs, words and characters of a corpus, with lengths, ratios and the most frequent words
    Stats {
        /// "bundled", or a folder that `corpus build` made
        #[arg(default_value = BUNDLED)]
        from: String,
        /// Part of it
        #[arg(long, default_value = "train", value_parser = split_parser())]
        split: Split,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Build {
    /// Format of the input
    #[arg(long, value_enum)]
    from: Format,
    /// The input: SOURCE and TARGET for moses, ddtp, lohelp and mo, one or more files (folders) for the others
    #[arg(required = true, value_name = "FILE")]
    input: Vec<PathBuf>,
    /// The corpus' folder: new, empty, or a corpus that is replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Columns of source, target and, if there is one, document in a tsv file, from 1
    #[arg(long, value_name = "S,T[,D]", default_value = "1,2")]
    columns: String,
    /// The source is the right side of a ding file, the target its left side
    #[arg(long)]
    reverse: bool,
    /// Cut both sides into sentences where they have equally many
    #[arg(long)]
    sentences: bool,
    /// Greatest number of words on either side
    #[arg(long, value_name = "N", default_value_t = FilterConfig::default().max_words)]
    max_words: usize,
    /// Percent of the documents for validation [default: 4]
    #[arg(long, value_name = "X")]
    valid: Option<f64>,
    /// Percent of the documents for the final score [default: 8]
    #[arg(long, value_name = "X")]
    test: Option<f64>,
    /// Split by sentence and not by document, for corpora of a few large documents
    #[arg(long)]
    split_sentences: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Two aligned text files, a sentence a line
    Moses,
    /// Columns separated by tabs
    Tsv,
    /// The Ding dictionary (Debian: trans-de-en, /usr/share/trans/de-en; add --reverse for English to German)
    Ding,
    /// Gettext catalogues: .po files, or a .mo file of the target language, or two of the same program
    Gettext,
    /// Descriptions of Debian's packages: Translation-en and Translation-de, unpacked
    Ddtp,
    /// LibreOffice's help pages: the folders of two languages
    Lohelp,
    /// Corpora made into one, "bundled" or folders of `corpus build`; each pair stays in its split
    Corpus,
}

impl Corpus {
    pub(crate) fn run(self, machine: &Machine, signals: &Interruption) -> Result<ExitCode> {
        match self {
            Corpus::Build(build) => {
                build.run(machine, signals).map_err(|error| match error.downcast_ref::<data::Error>() {
                    Some(wrong @ data::Error::Option { .. }) => Usage(wrong.to_string()).into(),
                    _ => error,
                })
            }
            Corpus::Stats { from, split, json } => stats(&from, split, json).map(|()| ExitCode::SUCCESS),
        }
    }
}

impl Build {
    fn run(self, machine: &Machine, signals: &Interruption) -> Result<ExitCode> {
        let mut pairs = self.pairs()?;
        if self.sentences {
            pairs = pairs.sentences();
        }
        let kept = self.from == Format::Corpus;
        if kept && (self.valid.is_some() || self.test.is_some()) {
            return Err(usage("--valid or --test with --from corpus", "each pair stays in the split that it is in"));
        }
        let share = |given: Option<f64>, default: f64| if kept { 0.0 } else { given.unwrap_or(default) };
        let config = BuildConfig {
            seed: machine.seed.map_or(BuildConfig::default().seed, |seed| seed.to_string()),
            valid_percent: share(self.valid, BuildConfig::default().valid_percent),
            test_percent: share(self.test, BuildConfig::default().test_percent),
            split_by: match self.split_sentences {
                _ if kept => SplitBy::Kept,
                true => SplitBy::Source,
                false => SplitBy::Document,
            },
            filter: FilterConfig { max_words: self.max_words, ..FilterConfig::default() },
        };
        // An interrupted one removes what it has written so far.
        let (corpus, interrupted) = signals.deferred(|interrupted| {
            let flag = interrupted.clone();
            build(pairs.until(move || flag.load(Ordering::Relaxed)), &self.out, &config)
        });
        if interrupted {
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let corpus = corpus?;
        let manifest = corpus.manifest();
        let mut out = std::io::stdout();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(manifest)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        writeln!(out, "{}", manifest.report)?;
        let leaks = manifest.leaks;
        writeln!(
            out,
            "left out: {} pairs of test and {} of valid whose source also stands in train, {} of valid that test has",
            leaks.test_in_train, leaks.valid_in_train, leaks.valid_in_test
        )?;
        for (name, split) in [("train", &manifest.train), ("valid", &manifest.valid), ("test", &manifest.test)] {
            writeln!(out, "{name:6} {:9} pairs, {} + {} words", split.pairs, split.source_words, split.target_words)?;
        }
        writeln!(out, "next: [corpus] from = {:?} in a configuration of `attentia train`", self.out)?;
        Ok(ExitCode::SUCCESS)
    }

    fn pairs(&self) -> Result<Pairs> {
        let two = || match &self.input[..] {
            [source, target] => Ok((source.clone(), target.clone())),
            other => Err(usage(format!("{} inputs", other.len()), "this format reads two, the source and the target")),
        };
        let direction = if self.reverse { format::Direction::RightToLeft } else { format::Direction::LeftToRight };
        let columns = columns(&self.columns)?;
        let each = |read: fn(&Path) -> attentia::data::Result<Pairs>| {
            Pairs::concat(self.input.clone().into_iter().map(move |path| read(&path)))
        };
        Ok(match self.from {
            Format::Moses => two().and_then(|(source, target)| Ok(format::moses(source, target)?))?,
            Format::Ddtp => two().and_then(|(source, target)| Ok(format::ddtp(source, target)?))?,
            Format::Corpus => {
                let corpora = self.input.iter().map(|path| Source::open(&path.to_string_lossy())?.all());
                Pairs::concat(corpora.collect::<Result<Vec<_>>>()?.into_iter().map(Ok))
            }
            Format::Lohelp => two().and_then(|(source, target)| Ok(format::lohelp(source, target)?))?,
            Format::Tsv => Pairs::concat(self.input.clone().into_iter().map(move |path| format::tsv(path, columns))),
            Format::Ding => {
                Pairs::concat(self.input.clone().into_iter().map(move |path| format::ding(path, direction)))
            }
            Format::Gettext => match &self.input[..] {
                [source, target] if is_mo(source) && is_mo(target) => format::mo_pair(source, target)?,
                _ => each(|path| if is_mo(path) { format::mo(path) } else { format::po(path) }),
            },
        })
    }
}

fn is_mo(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "mo")
}

/// `S,T` or `S,T,D` from 1.
fn columns(text: &str) -> Result<format::Columns> {
    let numbers: Option<Vec<usize>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[source, target]) => Ok(format::Columns { source, target, document: None }),
        Some(&[source, target, document]) => Ok(format::Columns { source, target, document: Some(document) }),
        _ => Err(usage(format!("--columns {text:?}"), "two or three numbers from 1, as in 1,2")),
    }
}

fn stats(from: &str, split: Split, json: bool) -> Result<()> {
    let split = split.name();
    let of_split =
        |pair: &data::Result<RawPair>| pair.as_ref().map_or(true, |pair| pair.document.as_deref() == Some(split));
    let stats = Stats::of(Source::open(from)?.all()?.filter(of_split))?;
    match json {
        true => writeln!(std::io::stdout(), "{}", json!({"corpus": from, "split": split, "stats": stats}))?,
        false => writeln!(std::io::stdout(), "{from}, {split}\n{stats}")?,
    }
    Ok(())
}
