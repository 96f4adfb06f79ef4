//! Byte-level BPE, one vocabulary for both languages of a pair.
//!
//! The pipeline, which training fixes and the JSON carries:
//!
//! ```text
//! "Öffnen Sie"  ->  a space in front, so that a word is the same token at the start and inside a sentence
//!               ->  words with the space that precedes them (the pattern of GPT-2)
//!               ->  UTF-8 bytes, each written as one printable character (GPT-2's table)
//!               ->  merges, the most frequent pair first
//! ```
//!
//! Every text has an encoding, since every byte is a token; `<unk>` only keeps its place in the table. A special
//! token that stands in a text, as in `press <eos>`, is text and not a special token: no input can end a sentence
//! early.
//!
//! Training is deterministic, by test: the same texts in the same order give the same JSON in any process.

use std::path::Path;

use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

use crate::{Error, Result};

/// Fills the rows of a batch that are shorter than its longest.
pub const PAD: u32 = 0;
/// What the decoder reads first.
pub const BOS: u32 = 1;
/// Ends each source and each decoder target.
pub const EOS: u32 = 2;
/// Reserved; byte-level encoding never produces it.
pub const UNK: u32 = 3;

const SPECIAL: [&str; 4] = ["<pad>", "<bos>", "<eos>", "<unk>"];
const LEAST_VOCABULARY: usize = SPECIAL.len() + 256;
/// A pair of tokens seen once is noise, not a unit of the language.
const LEAST_COUNT: u64 = 2;

/// Text to ids and back. Cheap to share behind a reference; encoding takes `&self`.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    size: usize,
}

impl Tokenizer {
    /// Learns a vocabulary of at most `vocab_size` tokens, the four special tokens and 256 bytes included; fewer when
    /// the texts have no more pairs that occur twice. The texts are read once, as they come; memory holds the different
    /// words and how often each occurs.
    ///
    /// # Errors
    ///
    /// [`Error::VocabularyTooSmall`] below 260, [`Error::NoText`] when there is nothing but white space.
    ///
    /// ```
    /// use attentia_data::Tokenizer;
    ///
    /// let tokenizer = Tokenizer::train_bpe(["auf OK klicken", "auf Abbrechen klicken"], 300)?;
    /// let ids = tokenizer.encode("auf OK klicken")?;
    /// assert_eq!(tokenizer.decode(&ids)?, "auf OK klicken");
    /// assert_eq!(tokenizer.token(ids[0])?, "▁auf");
    /// # Ok::<(), attentia_data::Error>(())
    /// ```
    pub fn train_bpe<I, S>(texts: I, vocab_size: usize) -> Result<Self>
    where
        I: IntoIterator<Item = S>,
        I::IntoIter: Send,
        S: AsRef<str> + Send,
    {
        if vocab_size < LEAST_VOCABULARY {
            return Err(Error::VocabularyTooSmall { asked: vocab_size, least: LEAST_VOCABULARY });
        }
        let mut trainer = BpeTrainerBuilder::new()
            .vocab_size(vocab_size)
            .min_frequency(LEAST_COUNT)
            .show_progress(false)
            .special_tokens(SPECIAL.iter().map(|token| AddedToken::from(*token, true)).collect())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let byte_level = ByteLevel::new(true, false, true);
        let mut learner =
            TokenizerBuilder::<BPE, tokenizers::NormalizerWrapper, _, tokenizers::PostProcessorWrapper, _>::new()
                .with_model(BPE::default())
                .with_pre_tokenizer(Some(byte_level))
                .with_decoder(Some(byte_level))
                .build()
                .map_err(failed("build the trainer"))?;
        let mut blank = true;
        let texts = texts.into_iter().inspect(|text| blank &= text.as_ref().trim().is_empty());
        learner.train(&mut trainer, texts).map_err(failed("train"))?;
        if blank {
            return Err(Error::NoText);
        }
        // Through JSON, so that what was just trained and what is loaded later are the same thing.
        Self::from_json(&learner.to_string(false).map_err(failed("write its JSON"))?)
    }

    /// Reads what [`to_json`](Self::to_json) wrote, or any `tokenizer.json` of the Hugging Face format whose `<pad>`,
    /// `<bos>`, `<eos>` and `<unk>` have the ids 0, 1, 2 and 3.
    ///
    /// # Errors
    ///
    /// [`Error::NotATokenizer`] and [`Error::SpecialToken`].
    pub fn from_json(json: &str) -> Result<Self> {
        let mut inner: tokenizers::Tokenizer =
            json.parse().map_err(|error: tokenizers::Error| Error::NotATokenizer { cause: error.to_string() })?;
        for (expected, token) in (0..).zip(SPECIAL) {
            let id = inner.token_to_id(token);
            if id != Some(expected) {
                let found = id.map_or_else(|| "is missing".to_owned(), |id| format!("has id {id}"));
                return Err(Error::SpecialToken { token, expected, found });
            }
        }
        let size = inner.get_vocab_size(true);
        if let Some((token, id)) = inner.get_vocab(true).into_iter().find(|(_, id)| *id as usize >= size) {
            return Err(Error::NotATokenizer { cause: format!("{size} tokens, but {token:?} has id {id}") });
        }
        inner.set_encode_special_tokens(true);
        // A file may ask for both; batches pad, and nothing shortens a text in silence.
        inner.with_padding(None).with_truncation(None).map_err(failed("drop its truncation"))?;
        Ok(Self { inner, size })
    }

    /// The whole tokenizer as JSON, one line; the same tokenizer gives the same bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] when the library refuses.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(false).map_err(failed("write its JSON"))
    }

    /// Reads a file that [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// [`Error::File`], or [`Error::In`] with what [`from_json`](Self::from_json) has to say.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let json = attentia_file::read_text(path)?;
        Self::from_json(&json).map_err(|source| Error::In { path: path.to_owned(), source: Box::new(source) })
    }

    /// Writes the JSON, [all or nothing](attentia_file::write_atomic).
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(attentia_file::write_atomic(path, self.to_json()?.as_bytes())?)
    }

    /// Number of ids; all lie below it.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// The ids of a text, without `<bos>` and `<eos>`; none for an empty text.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] when the library refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(failed("encode a text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids. Special tokens are left out, and so is the one space that encoding put in front; bytes that
    /// are no UTF-8, as an unfinished model may produce, become U+FFFD.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownId`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        for (position, id) in ids.iter().enumerate() {
            self.check(*id, position)?;
        }
        let text = self.inner.decode(ids, true).map_err(failed("decode ids"))?;
        Ok(text.strip_prefix(' ').map(str::to_owned).unwrap_or(text))
    }

    /// A token as a label for people: `▁` marks the space in front of a word, bytes that are no whole character
    /// stand in hexadecimal (`\xC3`), control characters are escaped (`\n`).
    ///
    /// # Errors
    ///
    /// [`Error::UnknownId`] for an id outside the vocabulary.
    pub fn token(&self, id: u32) -> Result<String> {
        self.check(id, 0)?;
        let size = self.size;
        let token = self.inner.id_to_token(id).ok_or(Error::UnknownId { id, position: 0, size })?;
        if SPECIAL.contains(&token.as_str()) {
            return Ok(token);
        }
        // A character outside the table belongs to a token of a tokenizer that is not byte-level: it is its own label.
        match token.chars().map(byte_of).collect::<Option<Vec<u8>>>() {
            Some(bytes) => Ok(label(&bytes)),
            None => Ok(token),
        }
    }

    /// The label of each id; see [`token`](Self::token).
    ///
    /// # Errors
    ///
    /// [`Error::UnknownId`] for an id outside the vocabulary.
    pub fn tokens(&self, ids: &[u32]) -> Result<Vec<String>> {
        ids.iter().enumerate().map(|(position, id)| self.check(*id, position).and_then(|()| self.token(*id))).collect()
    }

    fn check(&self, id: u32, position: usize) -> Result<()> {
        if (id as usize) < self.size { Ok(()) } else { Err(Error::UnknownId { id, position, size: self.size }) }
    }
}

fn failed(action: &'static str) -> impl Fn(tokenizers::Error) -> Error {
    move |error| Error::Tokenizer { action, cause: error.to_string() }
}

/// The byte that GPT-2's table writes as this character: printable Latin-1 stands for itself, the other 68 bytes in
/// their order for U+0100 and following.
fn byte_of(character: char) -> Option<u8> {
    let itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(character) {
        code @ 0..=0xFF => u8::try_from(code).ok().filter(|byte| itself(*byte)),
        code => (0..=u8::MAX).filter(|byte| !itself(*byte)).nth(code as usize - 0x100),
    }
}

fn label(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                ' ' => text.push('▁'),
                control if control.is_control() => text.extend(control.escape_default()),
                other => text.push(other),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02X}")));
    }
    text
}

#[cfg(test)]
mod tests;
