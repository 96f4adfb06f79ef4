use super::*;
use std::process::Command;

fn corpus_texts() -> Vec<String> {
    let corpus = attentia_corpus::english_german().unwrap();
    corpus.test.into_iter().flat_map(|pair| [pair.source, pair.target]).collect()
}

fn trained() -> Tokenizer {
    Tokenizer::train_bpe(corpus_texts(), 1000).unwrap()
}

#[test]
fn special_tokens_have_their_ids_and_are_never_made_from_text() {
    let tokenizer = trained();
    assert_eq!(tokenizer.vocab_size(), 1000);
    assert_eq!(tokenizer.tokens(&[PAD, BOS, EOS, UNK]).unwrap(), SPECIAL);
    let text = "press <eos> twice <pad>";
    let ids = tokenizer.encode(text).unwrap();
    assert!(ids.iter().all(|id| *id > UNK), "{ids:?}");
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
}

#[test]
fn decoding_undoes_encoding() {
    let tokenizer = trained();
    let odd = [
        "",
        "a",
        "Öffnen Sie „Übersicht“ – 3,5 €",
        "日本語 🎈",
        "tab\tand\nline",
        "two  spaces ",
        "\u{0}\u{7f}",
        "'s 's",
    ];
    for text in odd.into_iter().map(str::to_owned).chain(corpus_texts()) {
        let ids = tokenizer.encode(&text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
    }
    assert_eq!(tokenizer.encode("").unwrap(), [0u32; 0]);
    assert_eq!(tokenizer.decode(&[]).unwrap(), "");
    let with_marks = [vec![BOS], tokenizer.encode("Click OK.").unwrap(), vec![EOS, PAD, PAD]].concat();
    assert_eq!(tokenizer.decode(&with_marks).unwrap(), "Click OK.");
}

#[test]
fn a_space_in_front_is_the_one_that_encoding_puts_there() {
    let tokenizer = trained();
    assert_eq!(tokenizer.encode(" Click").unwrap(), tokenizer.encode("Click").unwrap());
    assert_eq!(tokenizer.decode(&tokenizer.encode("  Click").unwrap()).unwrap(), " Click");
}

#[test]
fn labels_are_for_reading() {
    let tokenizer = trained();
    let labels = |text: &str| tokenizer.tokens(&tokenizer.encode(text).unwrap()).unwrap();
    assert_eq!(labels("die").concat(), "▁die");
    assert_eq!(labels("für die Größe").concat(), "▁für▁die▁Größe");
    assert_eq!(labels("a\nb").concat(), "▁a\\nb");
    assert!(labels("日").concat().ends_with("\\xE6\\x97\\xA5"), "{:?}", labels("日"));
    let every: Vec<u32> = (0..1000).collect();
    assert!(tokenizer.tokens(&every).unwrap().iter().all(|label| !label.is_empty()));
}

#[test]
fn the_byte_table_is_that_of_the_library() {
    let mut bytes: Vec<u8> = ByteLevel::alphabet().into_iter().map(|c| byte_of(c).unwrap()).collect();
    bytes.sort_unstable();
    assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    assert_eq!(
        (byte_of('Ġ'), byte_of('Ċ'), byte_of('Ã'), byte_of(' '), byte_of('日')),
        (Some(32), Some(10), Some(0xC3), None, None)
    );
}

#[test]
fn bad_ids_and_bad_input_are_errors() {
    let tokenizer = trained();
    assert!(matches!(tokenizer.decode(&[5, 1000]), Err(Error::UnknownId { id: 1000, position: 1, size: 1000 })));
    assert!(matches!(tokenizer.token(u32::MAX), Err(Error::UnknownId { .. })));
    assert!(matches!(tokenizer.tokens(&[9, 4000]), Err(Error::UnknownId { position: 1, .. })));
    // Half of an "ö": a model may say it.
    let half = tokenizer.encode("日").unwrap()[..2].to_vec();
    assert!(tokenizer.decode(&half).unwrap().contains('\u{fffd}'));

    let none: [&str; 0] = [];
    assert!(matches!(Tokenizer::train_bpe(none, 500), Err(Error::NoText)));
    assert!(matches!(Tokenizer::train_bpe(["", "  \n"], 500), Err(Error::NoText)));
    assert!(matches!(Tokenizer::train_bpe(["a"], 259), Err(Error::VocabularyTooSmall { asked: 259, least: 260 })));
    assert_eq!(Tokenizer::train_bpe(["", "a b"], 500).unwrap().vocab_size(), 260);
}

#[test]
fn files_that_are_no_tokenizer_are_errors() {
    let json = trained().to_json().unwrap();
    let deep = "[".repeat(100_000);
    for text in ["", "{}", "null", "{\"model\": 3}", deep.as_str(), &json[..json.len() / 2]] {
        assert!(matches!(Tokenizer::from_json(text), Err(Error::NotATokenizer { .. })));
    }
    let other = json.replace("<bos>", "[CLS]");
    let error = Tokenizer::from_json(&other).unwrap_err().to_string();
    assert!(error.contains("<bos> should have id 1, but is missing"), "{error}");
    let beyond = json.replacen("\"!\":4,", "\"!\":5000,", 1);
    let error = Tokenizer::from_json(&beyond).unwrap_err().to_string();
    assert!(error.contains("1000 tokens, but \"!\" has id 5000"), "{error}");

    let path = std::env::temp_dir().join(format!("attentia-tokenizer-{}.json", std::process::id()));
    trained().save(&path).unwrap();
    assert_eq!(Tokenizer::load(&path).unwrap().to_json().unwrap(), json);
    std::fs::write(&path, "{").unwrap();
    let error = Tokenizer::load(&path).unwrap_err().to_string();
    assert!(error.contains("attentia-tokenizer") && error.contains("not a tokenizer"), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Tokenizer::load(&path), Err(Error::File(attentia_file::Error::Read { .. }))));
}

const CHILD: &str = "ATTENTIA_TOKENIZER_CHILD";

/// The trainer keeps its counts in hash maps whose seed is drawn once per process, so one process can't tell whether
/// their order leaks: this test runs itself in three more and compares the JSON.
#[test]
fn training_gives_the_same_bytes_in_every_process() {
    let (texts, ties) = (corpus_texts(), words_of_two_letters());
    let json = Tokenizer::train_bpe(&texts, 2000).unwrap().to_json().unwrap()
        + &Tokenizer::train_bpe(&ties, 900).unwrap().to_json().unwrap();
    if let Some(path) = std::env::var_os(CHILD) {
        std::fs::write(path, json).unwrap();
        return;
    }
    for child in 0..3 {
        let path = std::env::temp_dir().join(format!("attentia-child-{}-{child}.json", std::process::id()));
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tokenizer::tests::training_gives_the_same_bytes_in_every_process"])
            .env(CHILD, &path)
            .output()
            .unwrap();
        assert!(status.status.success(), "{status:?}");
        assert!(std::fs::read_to_string(&path).unwrap() == json, "process {child} trained another tokenizer");
        std::fs::remove_file(path).unwrap();
    }
}

/// Words over {a, b}: nearly every choice of a merge is a tie, and one token has many splits.
fn words_of_two_letters() -> Vec<String> {
    (1u64..3000)
        .map(|n| {
            let bits = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            (0..3 + n % 10).map(|i| if bits >> i & 1 == 0 { 'a' } else { 'b' }).collect()
        })
        .collect()
}

#[test]
fn texts_are_learned_from_as_they_come() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    /// A text that knows how many others there are.
    struct Counted<'a>(String, &'a AtomicUsize);
    impl AsRef<str> for Counted<'_> {
        fn as_ref(&self) -> &str {
            &self.0
        }
    }
    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let (alive, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let texts = corpus_texts();
    let streamed = texts.iter().map(|text| {
        most.fetch_max(1 + alive.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Counted(text.clone(), &alive)
    });
    let tokenizer = Tokenizer::train_bpe(streamed, 1000).unwrap();
    assert_eq!(tokenizer.to_json().unwrap(), trained().to_json().unwrap());
    // A thread holds the one that it counts.
    assert!(texts.len() > 4000 && most.load(Ordering::Relaxed) < 200, "{most:?} of {}", texts.len());
    assert!(matches!(Tokenizer::train_bpe([" ", "\n"], 300), Err(Error::NoText)));
}
