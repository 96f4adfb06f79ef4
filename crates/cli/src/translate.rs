//! `attentia translate`: a text, a file or standard input, line by line; and pictures of where a translation looked.

use crate::{Machine, usage};
use anyhow::{Context, Result, anyhow};
use attentia::{
    file::write_atomic,
    picture::{AttentionPage, HeatMap, Map},
    tensor::Device,
    train::{Attention, AttentionMap, TranslateOptions, Translation, Translator},
    transformer::Checkpoint,
};
use serde_json::json;
use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Translate {
    /// Checkpoint file, or a run's folder
    checkpoint: PathBuf,
    /// The text, one sentence; left out, lines of --file or of standard input are translated
    text: Option<String>,
    /// Translate the lines of this file
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    #[command(flatten)]
    search: Search,
    /// Write a page with the attention of every layer and head
    #[arg(long, value_name = "FILE", requires = "text", conflicts_with = "file")]
    attention: Option<PathBuf>,
    /// Write the cross-attention of the last decoder layer (mean of its heads) as a PNG picture
    #[arg(long, value_name = "FILE", requires = "text", conflicts_with = "file")]
    png: Option<PathBuf>,
    /// The same as SVG
    #[arg(long, value_name = "FILE", requires = "text", conflicts_with = "file")]
    svg: Option<PathBuf>,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

/// How translations are searched for.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Search {
    /// Live hypotheses per sentence; 1 takes the likeliest token at each step
    #[arg(long, default_value_t = 1, value_name = "N")]
    beam: usize,
    /// Translations shown per sentence, best first, as "line ||| text ||| score", lines counted from 0
    #[arg(long, default_value_t = 1, value_name = "N")]
    nbest: usize,
    /// Exponent of the length by which scores are divided
    #[arg(long, default_value_t = 0.6, value_name = "X")]
    length_penalty: f64,
}

impl Search {
    pub(crate) fn options(self) -> Result<TranslateOptions> {
        let Search { beam, nbest, length_penalty } = self;
        if beam == 0 {
            return Err(usage("--beam 0", "1 takes the likeliest token at each step, 4 is common"));
        }
        if !(length_penalty >= 0.0 && length_penalty.is_finite()) {
            return Err(usage(format!("--length-penalty {length_penalty}"), "a number from 0, often 0.6 to 1"));
        }
        if nbest == 0 || nbest > beam {
            let what = format!("--nbest {nbest} of --beam {beam}");
            return Err(usage(what, "at least one, and at most as many as the beam is wide"));
        }
        Ok(TranslateOptions { beams: beam, best: nbest, length_penalty, ..TranslateOptions::default() })
    }
}

/// Lines that are read before they are translated: enough for batches of like length, few enough to see them appear.
const CHUNK: usize = 256;

/// The checkpoint file that a path means: itself, or the best one in a run's folder.
pub(crate) fn checkpoint_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let names = ["model.safetensors", "best.safetensors", "last.safetensors"];
    let found = names.into_iter().map(|name| path.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| {
        anyhow!("{}: no checkpoint in this folder\n  help: looked for {}", path.display(), names.join(", "))
    })
}

pub(crate) fn load(path: &Path, device: &Device) -> Result<Checkpoint> {
    let path = checkpoint_file(path)?;
    Checkpoint::load(&path, device).with_context(|| {
        format!("{} is no checkpoint that can be used; `attentia quickstart` writes one", path.display())
    })
}

impl Translate {
    pub(crate) fn run(self, machine: &Machine) -> Result<ExitCode> {
        let device = machine.device()?;
        let options = self.search.options()?;
        let translator = Translator::from_checkpoint(&load(&self.checkpoint, &device)?, &device)?;
        match (&self.text, &self.file) {
            (Some(text), _) => {
                if text.trim_end().contains(['\n', '\r']) {
                    return Err(usage(
                        "the text has several lines",
                        "pass one sentence, or lines by --file or standard input",
                    ));
                }
                translator.check(text)?;
                self.lines(&translator, options, text.as_bytes())?;
                self.pictures(&translator, options, text)?;
                Ok(ExitCode::SUCCESS)
            }
            (None, Some(path)) => {
                let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
                self.lines(&translator, options, BufReader::new(file))
            }
            (None, None) => self.lines(&translator, options, std::io::stdin().lock()),
        }
    }

    /// Translates line after line. A line that cannot be translated is told of on standard error, leaves an empty line and
    /// makes the exit code 1: line n of the output always belongs to line n of the input.
    fn lines(&self, translator: &Translator, options: TranslateOptions, mut input: impl BufRead) -> Result<ExitCode> {
        let (mut number, mut refused, mut line) = (0, 0, Vec::new());
        loop {
            let mut chunk: Vec<(usize, Option<String>)> = Vec::new();
            while chunk.len() < CHUNK {
                line.clear();
                if input.read_until(b'\n', &mut line).with_context(|| format!("line {} cannot be read", number + 1))?
                    == 0
                {
                    break;
                }
                number += 1;
                let text = match std::str::from_utf8(&line) {
                    Ok(text) if text.trim().is_empty() => None,
                    Ok(text) => Some(text.trim_end_matches(['\n', '\r']).to_owned()),
                    Err(error) => {
                        tell!(
                            "line {number}: it is not UTF-8 from byte {} on\n  help: convert it, as with iconv",
                            error.valid_up_to()
                        );
                        refused += 1;
                        None
                    }
                };
                let fits = text.as_deref().map(|text| translator.check(text)).transpose();
                if let Err(error) = &fits {
                    tell!("line {number}: {error}");
                    refused += 1;
                }
                chunk.push((number, text.filter(|_| fits.is_ok())));
            }
            if chunk.is_empty() {
                break;
            }
            let texts: Vec<&str> = chunk.iter().filter_map(|(_, text)| text.as_deref()).collect();
            let mut translated = translator.translate(&texts, options, |_| ())?.into_iter();
            let mut out = std::io::stdout().lock();
            for (number, text) in &chunk {
                let translations = text.as_ref().and_then(|_| translated.next()).unwrap_or_default();
                self.print(&mut out, *number, text.as_deref(), &translations)?;
            }
            out.flush()?;
        }
        if refused > 0 {
            tell!("{refused} of {number} lines were not translated");
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn print(
        &self,
        out: &mut impl Write,
        number: usize,
        text: Option<&str>,
        translations: &[Translation],
    ) -> Result<()> {
        if self.json {
            let translations: Vec<_> = translations
                .iter()
                .map(|t| json!({"text": t.text, "score": t.score, "log_probability": t.log_probability, "finished": t.finished}))
                .collect();
            writeln!(out, "{}", json!({"line": number, "source": text, "translations": translations}))?;
        } else if self.search.nbest > 1 {
            for translation in translations {
                writeln!(out, "{} ||| {} ||| {:.4}", number - 1, one_line(&translation.text), translation.score)?;
            }
        } else {
            writeln!(out, "{}", translations.first().map_or(String::new(), |best| one_line(&best.text)))?;
        }
        Ok(())
    }

    fn pictures(&self, translator: &Translator, options: TranslateOptions, text: &str) -> Result<()> {
        if self.attention.is_none() && self.png.is_none() && self.svg.is_none() {
            return Ok(());
        }
        let (translation, attention) = translator.attend(text, options)?;
        if let Some(path) = &self.attention {
            write_page(path, text, &translation.text, &attention)?;
            tell!("attention page: {}", path.display());
        }
        let map = attention.last_cross()?;
        if let Some(path) = &self.png {
            write_atomic(path, &picture(&map, text)?.to_png(2.0)?)?;
            tell!("attention map: {}", path.display());
        }
        if let Some(path) = &self.svg {
            write_atomic(path, picture(&map, text)?.to_svg().as_bytes())?;
            tell!("attention map: {}", path.display());
        }
        Ok(())
    }
}

/// A translation as one line: a model whose tokens are bytes may write the end of one.
pub(crate) fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// The map as a picture: a row for each written token, a column for each read one.
pub(crate) fn picture<'a>(map: &'a AttentionMap, title: &str) -> Result<HeatMap<'a>> {
    Ok(HeatMap::new(&map.weights, &map.target, &map.source)?.title(title).row_axis("written").column_axis("read"))
}

/// The page with every layer and head.
pub(crate) fn write_page(path: &Path, source: &str, target: &str, attention: &Attention) -> Result<()> {
    let mut page = AttentionPage::new(source, target);
    for layer in attention.layers() {
        page = page.map(Map {
            name: layer.place.to_string(),
            heads: layer.heads,
            rows: layer.rows,
            columns: layer.columns,
            weights: layer.weights,
        })?;
    }
    Ok(write_atomic(path, page.to_html()?.as_bytes())?)
}
