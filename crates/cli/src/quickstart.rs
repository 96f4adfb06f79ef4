//! `attentia quickstart`: from the bundled corpus to a translator and a page that shows its attention.

use crate::{
    Machine,
    corpora::Source,
    evaluate::translate_all,
    interruption::{INTERRUPTED, Interruption},
    train::{Run, configure},
    translate::{picture, write_page},
};
use anyhow::{Context, Result, bail};
use attentia::{
    data::{corpus_bleu, corpus_chrf},
    file::{read_text, write_atomic},
    train::{CONFIG, Outcome, RunConfig, RunFolder, Split, TranslateOptions, Translator},
};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

/// The sentence whose attention is drawn: of the corpus's domain, with a verb that German moves to the end.
const DRAWN: &str = "Click the OK button to save the document.";
/// Two points of BLEU above the likeliest token at each step, for some seconds.
const SEARCH: TranslateOptions = TranslateOptions { beams: 4, best: 1, length_penalty: 1.0, batch: 64 };
/// Translations shown beside their references.
const SHOWN: usize = 6;

#[derive(Debug, clap::Args)]
pub(crate) struct Quickstart {
    /// The run's folder; a quickstart that it holds is replaced, unless --resume is given
    #[arg(long, value_name = "DIR", default_value = "quickstart")]
    out: PathBuf,
    /// Go on where the run in the folder was stopped
    #[arg(long)]
    resume: bool,
    /// Change a value of the configuration, as in train.steps=100 (can be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Translate only the first N test sentences; 0 means all
    #[arg(long, default_value_t = 0, value_name = "N")]
    test_pairs: usize,
}

/// What shows the attention to [`DRAWN`], in the run's folder.
const PICTURES: [&str; 3] = ["attention.html", "attention.svg", "attention.png"];

/// Removes an earlier quickstart from the folder. Another run stays, and is an error.
fn clear(out: &Path, config: &RunConfig) -> Result<()> {
    let path = out.join(CONFIG);
    if !path.is_file() {
        return Ok(());
    }
    let there = RunConfig::from_toml(&read_text(&path)?, &[] as &[&str]);
    match there {
        Ok(there) if there.model == config.model && there.corpus == config.corpus => {
            RunFolder::clear(out)?;
            for path in PICTURES.map(|name| out.join(name)).iter().filter(|path| path.is_file()) {
                std::fs::remove_file(path).with_context(|| format!("{} cannot be removed", path.display()))?;
            }
            Ok(())
        }
        _ => bail!(
            "{}: holds another run, which is not replaced\n  help: choose another folder with --out, or remove it",
            out.display()
        ),
    }
}

impl Quickstart {
    pub(crate) fn run(self, machine: &Machine, signals: &Interruption) -> Result<ExitCode> {
        let out = self.out.as_path();
        let begun = out.join(CONFIG);
        let config = match self.resume && begun.is_file() {
            true => configure(&begun.display().to_string(), &read_text(&begun)?, &self.set, machine)?,
            false => configure("quickstart", include_str!("quickstart.toml"), &self.set, machine)?,
        };
        // What cannot start replaces nothing.
        machine.device()?;
        Source::open(&config.corpus.from)?;
        if !self.resume {
            clear(out, &config)?;
        }
        let started = Instant::now();
        let run = Run::open(out, config, machine, self.resume)?;
        let outcome = run.train(signals)?;
        if outcome == Outcome::Interrupted {
            tell!("interrupted, and saved: attentia quickstart --resume --out {}", out.display());
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let mut stdout = std::io::stdout();
        let how = match outcome {
            Outcome::Stopped => "stopped early".to_owned(),
            _ => format!("trained {} steps", run.config.train.steps),
        };
        writeln!(stdout, "{how}; {:.0} s with all preparation", started.elapsed().as_secs_f64())?;

        let translator = Translator::load(run.folder.model(), &run.device)?;
        let (translation, attention) = translator.attend(DRAWN, SEARCH)?;
        let [page, svg, png] = PICTURES.map(|name| out.join(name));
        write_page(&page, DRAWN, &translation.text, &attention)?;
        let map = attention.last_cross()?;
        write_atomic(&svg, picture(&map, DRAWN)?.to_svg().as_bytes())?;
        write_atomic(&png, &picture(&map, DRAWN)?.to_png(2.0)?)?;

        let (mut sources, mut references) = run.corpus.within(Split::Test, run.config.corpus.longest)?;
        if self.test_pairs > 0 {
            sources.truncate(self.test_pairs);
            references.truncate(self.test_pairs);
        }
        let translations = translate_all(&translator, &sources, SEARCH)?;
        let every = (sources.len() / SHOWN).max(1);
        for i in (0..sources.len()).step_by(every).take(SHOWN) {
            writeln!(stdout, "\n  {}\n  = {}\n  ? {}", sources[i], references[i], translations[i])?;
        }
        let bleu = corpus_bleu(&translations, &references)?;
        let chrf = corpus_chrf(&translations, &references)?;
        let model = run.folder.model();
        writeln!(stdout, "\n  {DRAWN}\n  ? {}", translation.text)?;
        writeln!(stdout, "\nattention: {} (open it in a browser), {}", page.display(), png.display())?;
        writeln!(stdout, "model:     {}", model.display())?;
        writeln!(
            stdout,
            "next:      attentia translate {} \"Close the window.\" --attention map.html",
            model.display()
        )?;
        writeln!(stdout, "\n{} test pairs, beam {}, {}", sources.len(), SEARCH.beams, bleu.signature())?;
        writeln!(stdout, "chrF2 after: {:.2}", chrf.score)?;
        writeln!(stdout, "BLEU after: {:.2}", bleu.score)?;
        Ok(ExitCode::SUCCESS)
    }
}
