//! A run as a file: what is trained on what, and how.
//!
//! ```toml
//! [corpus]
//! from = "bundled"          # or a folder that `attentia corpus build` made
//! longest = 12              # words of a sentence in either language
//!
//! [model]
//! preset = "tiny"           # tiny, small or base; every other key of [model] changes one of its values
//! dropout = 0.2
//!
//! [train]
//! steps = 1600
//! ```
//!
//! Keys that a file leaves out keep the values of [`RunConfig::preset`]. A key that does not exist is an error that
//! names the nearest one: a misspelt setting is never ignored.

use crate::{Error, NotFinite, Result, TrainConfig};
use attentia_nn::{Precision, Schedule};
use attentia_tensor::DType;
use attentia_transformer::EncoderDecoderConfig;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// What a run is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// What is learned from.
    pub corpus: CorpusConfig,
    /// What learns.
    pub model: ModelConfig,
    /// How it learns.
    pub train: OptimisationConfig,
    /// How it is examined on the way.
    pub validate: ValidateConfig,
    /// When it is saved.
    pub checkpoint: CheckpointConfig,
}

/// `[corpus]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorpusConfig {
    /// `bundled`, or a folder with `train.tsv`, `valid.tsv` and `test.tsv`.
    pub from: String,
    /// Greatest number of words of a sentence, in both languages; 0 keeps all.
    pub longest: usize,
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Where the values come from that the file does not name.
    pub preset: Preset,
    /// What products and activations are computed in; parameters and moments are f32.
    pub precision: Compute,
    /// The encoder-decoder. `vocabulary` bounds what the tokenizer learns, and becomes what it did learn.
    #[serde(flatten)]
    pub architecture: EncoderDecoderConfig,
}

/// Sizes with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// d 128, 4 heads, 2+2 layers, feed-forward 512.
    Tiny,
    /// d 256, 4 heads, 3+3 layers, feed-forward 1024.
    Small,
    /// d 512, 8 heads, 6+6 layers, feed-forward 2048.
    Base,
}

/// Dtype of products and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// 32 bits.
    F32,
    /// 16 bits with the exponent of f32.
    Bf16,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimisationConfig {
    /// Updates.
    pub steps: u64,
    /// Tokens of a batch, of source or target, whichever has more; padding counts.
    pub batch_tokens: usize,
    /// Batches per update.
    pub accumulate: u64,
    /// How the learning rate goes on after the warm-up.
    pub schedule: Decay,
    /// Greatest learning rate.
    pub peak: f64,
    /// Updates until it is reached.
    pub warmup: u64,
    /// Learning rate at the end of a cosine.
    pub floor: f64,
    /// Share of each target that is spread over the vocabulary.
    pub label_smoothing: f64,
    /// Greatest norm of the gradient.
    pub clip: f64,
    /// Seed of initial values, of the order of batches and of dropout.
    pub seed: u64,
    /// What to do when a loss or a gradient is NaN or infinite.
    pub not_finite: NotFinite,
}

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Is the peak from the first step: it has no warm-up.
    Constant,
    /// Falls with the inverse square root of the step.
    InverseSquareRoot,
    /// Falls linearly to zero after the last step.
    Linear,
    /// Falls along half a cosine to `floor` at the last step.
    Cosine,
}

/// `[validate]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidateConfig {
    /// Updates between two validations; 0 never validates.
    pub every: u64,
    /// Validations without a better one after which the run ends; 0 never ends early.
    pub patience: u64,
    /// Sentences translated at each validation.
    pub samples: usize,
}

/// `[checkpoint]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointConfig {
    /// Updates between two checkpoints, beside the one at the end; 0 saves at the end only.
    pub every: u64,
}

impl RunConfig {
    /// A run over the bundled corpus with a preset's model.
    pub fn preset(preset: Preset) -> RunConfig {
        let (architecture, peak) = match preset {
            Preset::Tiny => (EncoderDecoderConfig::tiny(3000), 3e-3),
            Preset::Small => (EncoderDecoderConfig::small(8000), 1e-3),
            Preset::Base => (EncoderDecoderConfig::base(8000), 7e-4),
        };
        RunConfig {
            corpus: CorpusConfig { from: "bundled".to_owned(), longest: 0 },
            model: ModelConfig { preset, precision: Compute::F32, architecture },
            train: OptimisationConfig {
                steps: 4000,
                batch_tokens: 2048,
                accumulate: 1,
                schedule: Decay::Cosine,
                peak,
                warmup: 400,
                floor: 0.0,
                label_smoothing: 0.1,
                clip: 1.0,
                seed: 1,
                not_finite: NotFinite::Stop,
            },
            validate: ValidateConfig { every: 500, patience: 0, samples: 3 },
            checkpoint: CheckpointConfig { every: 200 },
        }
    }

    /// Reads a file's text; `sets` are `key=value` and win over it.
    ///
    /// ```
    /// use attentia_train::RunConfig;
    /// let config = RunConfig::from_toml("[model]\npreset = \"small\"", &["train.steps=100", "corpus.from=my/corpus"])?;
    /// assert_eq!((config.model.architecture.width, config.train.steps), (256, 100));
    /// let error = RunConfig::from_toml("[train]\nstep = 5", &[] as &[&str]).unwrap_err().to_string();
    /// assert!(error.contains("train.step ") && error.contains("train.steps"), "{error}");
    /// # Ok::<(), attentia_train::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Config`], which names the key and, for an unknown one, the nearest that exists.
    pub fn from_toml(text: &str, sets: &[impl AsRef<str>]) -> Result<RunConfig> {
        let mut given: Table = text.parse().map_err(|e: toml::de::Error| refuse(e.to_string(), "write it as TOML"))?;
        for set in sets {
            insert(&mut given, set.as_ref())?;
        }
        let preset = match given.get("model").and_then(|model| model.get("preset")) {
            None => Preset::Tiny,
            Some(name) => name.clone().try_into().map_err(|e: toml::de::Error| {
                refuse(format!("model.preset is {name}: {}", e.message()), "use tiny, small or base")
            })?,
        };
        let mut table = Table::try_from(RunConfig::preset(preset))
            .map_err(|e| refuse(format!("the preset cannot be written: {e}"), "this is a mistake of the program"))?;
        merge(&mut table, given, "")?;
        let read: std::result::Result<RunConfig, _> = table.try_into();
        let config = read.map_err(|e: toml::de::Error| {
            refuse(e.to_string().trim_end().replace('\n', " "), "see the configuration's reference")
        })?;
        config.validate()?;
        Ok(config)
    }

    /// The file that [`from_toml`](Self::from_toml) reads as this, with every key.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| refuse(format!("it cannot be written: {e}"), "are all numbers finite?"))
    }

    /// Errors name the key that makes no sense.
    pub fn validate(&self) -> Result<()> {
        self.model.architecture.validate()?;
        self.train_config().validate()?;
        let OptimisationConfig { peak, floor, label_smoothing, batch_tokens, .. } = self.train;
        if !(peak.is_finite() && peak > 0.0 && (0.0..=peak).contains(&floor)) {
            return Err(refuse(
                format!("train.peak is {peak} and train.floor {floor}"),
                "0 <= floor <= peak, and peak > 0",
            ));
        }
        if !(0.0..1.0).contains(&label_smoothing) {
            return Err(refuse(format!("train.label_smoothing is {label_smoothing}"), "a share in [0, 1)"));
        }
        if batch_tokens == 0 {
            return Err(refuse("train.batch_tokens is 0".to_owned(), "often 1024 to 8192"));
        }
        if self.validate.patience > 0 && self.validate.every == 0 {
            let what = "validate.patience needs validations, and validate.every is 0".to_owned();
            return Err(refuse(what, "set validate.every, or patience = 0"));
        }
        Ok(())
    }

    /// What a run that goes on may not change without making its tokenizer and its examples anew: the first key of
    /// `[corpus]` and `[model]` that differs, with both values.
    pub fn changed_data(&self, before: &RunConfig) -> Option<String> {
        let [is, was] = [self, before].map(|config| Table::try_from(config).unwrap_or_default());
        ["corpus", "model"].into_iter().find_map(|section| {
            let (is, was) = (is.get(section)?.as_table()?, was.get(section)?.as_table()?);
            let (key, value) = is.iter().find(|(key, value)| was.get(*key) != Some(*value))?;
            let before = was.get(key).map_or("nothing".to_owned(), Value::to_string);
            Some(format!("{section}.{key} was {before}, and is now {value}"))
        })
    }

    /// What the tokenizer and the examples are made for.
    pub(crate) fn data_toml(&self) -> Result<String> {
        let RunConfig { corpus, model, train, .. } = self;
        let made_for = MadeFor {
            from: &corpus.from,
            longest: corpus.longest,
            vocabulary: model.architecture.vocabulary,
            positions: model.architecture.positions,
            batch_tokens: train.batch_tokens,
        };
        toml::to_string(&made_for).map_err(|e| refuse(format!("it cannot be written: {e}"), "is the path text?"))
    }

    /// The part that the loop over batches needs.
    pub fn train_config(&self) -> TrainConfig {
        let OptimisationConfig { steps, batch_tokens, accumulate, peak, warmup, floor, .. } = self.train;
        let schedule = match self.train.schedule {
            Decay::Constant => Schedule::Constant { peak },
            Decay::InverseSquareRoot => Schedule::InverseSquareRoot { peak, warmup },
            Decay::Linear => Schedule::Linear { peak, warmup, total: steps },
            Decay::Cosine => Schedule::Cosine { peak, warmup, total: steps, floor },
        };
        let OptimisationConfig { label_smoothing, clip, seed, not_finite, .. } = self.train;
        TrainConfig { steps, batch_tokens, accumulate, schedule, label_smoothing, clip, seed, not_finite }
    }

    /// What the model computes in.
    pub fn precision(&self) -> Precision {
        match self.model.precision {
            Compute::F32 => DType::F32.into(),
            Compute::Bf16 => Precision::mixed_bf16(),
        }
    }
}

/// See [`RunConfig::data_toml`].
#[derive(Serialize)]
struct MadeFor<'a> {
    from: &'a str,
    longest: usize,
    vocabulary: usize,
    positions: usize,
    batch_tokens: usize,
}

fn refuse(what: String, help: &str) -> Error {
    Error::Config { what, help: help.to_owned() }
}

/// Puts `a.b=value` into a table. The value is read as TOML, and as a string where it is none.
fn insert(table: &mut Table, set: &str) -> Result<()> {
    let Some((key, text)) = set.split_once('=') else {
        return Err(refuse(format!("{set:?} is no setting"), "write it as key=value, as in train.steps=100"));
    };
    let read = format!("x = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("x"));
    let value = read.unwrap_or_else(|| Value::String(text.to_owned()));
    let (sections, name) = match key.trim().rsplit_once('.') {
        Some((sections, name)) => (sections.split('.').collect(), name),
        None => (Vec::new(), key.trim()),
    };
    let mut place = table;
    for section in sections {
        place = match place.entry(section).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(table) => table,
            _ => {
                return Err(refuse(
                    format!("{key}: {section} is a value, and not a section"),
                    "see the names in the file",
                ));
            }
        };
    }
    place.insert(name.to_owned(), value);
    Ok(())
}

/// Replaces values of `table` by those given, whose keys must be there with the same type.
fn merge(table: &mut Table, given: Table, section: &str) -> Result<()> {
    for (name, value) in given {
        let key = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        let Some(place) = table.get_mut(&name) else {
            let nearest = table.keys().max_by(|a, b| {
                strsim::jaro_winkler(a, &name).total_cmp(&strsim::jaro_winkler(b, &name)).then(b.cmp(a))
            });
            let near = nearest.map_or(String::new(), |near| match section {
                "" => format!("did you mean {near}?"),
                section => format!("did you mean {section}.{near}?"),
            });
            return Err(refuse(format!("{key} is no setting"), &near));
        };
        match (place, value) {
            (Value::Table(inner), Value::Table(given)) => merge(inner, given, &key)?,
            (Value::Float(x), Value::Integer(n)) => *x = n as f64,
            (place, value) if place.same_type(&value) => *place = value,
            (place, value) => {
                let what = format!("{key} is {value}, of type {}", value.type_str());
                return Err(refuse(what, &format!("its type is {}, as in {key} = {place}", place.type_str())));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: &[&str] = &[];

    #[test]
    fn what_is_written_is_read_again() {
        for preset in [Preset::Tiny, Preset::Small, Preset::Base] {
            let config = RunConfig::preset(preset);
            assert_eq!(RunConfig::from_toml(&config.to_toml().unwrap(), NOTHING).unwrap(), config);
        }
    }

    #[test]
    fn settings_win_over_the_file_and_the_file_over_the_preset() {
        let text = "[model]\npreset = \"small\"\ndropout = 0\n[train]\npeak = 1\nschedule = \"linear\"";
        let config = RunConfig::from_toml(text, &["train.peak=0.5", "corpus.from=a b/c"]).unwrap();
        assert_eq!((config.model.architecture.dropout, config.model.architecture.width), (0.0, 256));
        assert_eq!((config.train.peak, config.train.schedule), (0.5, Decay::Linear));
        assert_eq!(config.corpus.from, "a b/c");
    }

    #[test]
    fn a_change_of_the_data_is_named() {
        let before = RunConfig::preset(Preset::Tiny);
        let mut after = before.clone();
        after.train.steps += 1;
        assert_eq!(after.changed_data(&before), None);
        after.corpus.longest = 7;
        assert_eq!(after.changed_data(&before).unwrap(), "corpus.longest was 0, and is now 7");
    }

    #[test]
    fn mistakes_name_the_key_and_what_to_do() {
        let cases = [
            ("[train]\nlabel_smothing = 0.1", "train.label_smothing is no setting", "train.label_smoothing?"),
            ("[trian]\nsteps = 1", "trian is no setting", "train?"),
            ("[train]\nsteps = \"many\"", "train.steps is \"many\", of type string", "integer"),
            ("[train]\nsteps = -1", "train", "reference"),
            ("[train]\nschedule = \"cosin\"", "cosin", "cosine"),
            ("[train]\npeak = nan", "train.peak", "peak > 0"),
            ("[model]\npreset = \"huge\"", "model.preset", "tiny, small or base"),
            ("[model]\nheads = 3", "3 heads", "multiple"),
            ("[validate]\nevery = 0\npatience = 2", "validate.patience", "validate.every"),
            ("model = 3", "model", "table"),
            ("[train", "TOML", "help:"),
        ];
        for (text, what, help) in cases {
            let message = RunConfig::from_toml(text, NOTHING).unwrap_err().to_string();
            assert!(message.contains(what) && message.contains(help), "{text}: {message}");
        }
        let message = RunConfig::from_toml("", &["train.steps"]).unwrap_err().to_string();
        assert!(message.contains("key=value"), "{message}");
        let message = RunConfig::from_toml("", &["train.steps.x=1"]).unwrap_err().to_string();
        assert!(message.contains("train.steps"), "{message}");
    }
}
