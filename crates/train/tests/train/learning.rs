//! What `tiny` learns: three sentences by heart, and to copy, reverse and sort strings that it has not seen.

use crate::setting::{cpu, reversals};
use attentia_data::{Batches, Example, Tokenizer};
use attentia_nn::{Part, Place, Point, Schedule, Scope, Stack};
use attentia_tensor::{DType, Device, Tensor};
use attentia_train::{TrainConfig, Trainer, TranslateOptions, Translator};
use attentia_transformer::{EncoderDecoder, EncoderDecoderConfig, GenerateOptions, Hypothesis, generate};

/// `tiny` after the steps over the examples, or as soon as it has learned them, which is looked at every 100 steps.
fn learn(
    examples: &[Example],
    vocabulary: usize,
    train: TrainConfig,
    device: &Device,
    learned: impl Fn(&EncoderDecoder) -> bool,
) -> EncoderDecoder {
    let scope = Scope::new(device, DType::F32, 1);
    let model = EncoderDecoder::new(&scope, EncoderDecoderConfig::tiny(vocabulary)).unwrap();
    let mut trainer = Trainer::new(model.clone(), scope.parameters(), &examples, train, device).unwrap();
    while let Some(step) = trainer.next_step().unwrap() {
        if step.step.is_multiple_of(100) && learned(&model) {
            break;
        }
    }
    println!("learned in {} steps", trainer.steps());
    model
}

fn train(steps: u64, batch_tokens: usize) -> TrainConfig {
    TrainConfig {
        steps,
        batch_tokens,
        schedule: Schedule::Cosine { peak: 3e-3, warmup: steps / 10, total: steps, floor: 0.0 },
        label_smoothing: 0.0,
        ..TrainConfig::default()
    }
}

#[test]
fn three_sentences_are_learned_by_heart_within_200_steps() {
    let pairs = [
        ("I like to eat apples.", "Ich esse gern Äpfel."),
        ("She likes to eat bananas.", "Sie isst gern Bananen."),
        ("I like to eat oranges.", "Ich esse gern Orangen."),
    ];
    let device = cpu(1);
    let texts: Vec<&str> = pairs.iter().flat_map(|&(source, target)| [source, target]).collect();
    let tokenizer = Tokenizer::train_bpe(texts, 400).unwrap();
    let encode = |text: &str| tokenizer.encode(text).unwrap();
    let examples: Vec<Example> =
        pairs.iter().map(|(source, target)| Example { source: encode(source), target: encode(target) }).collect();
    let model = learn(&examples, tokenizer.vocab_size(), train(200, 128), &device, |_| false);
    let translations = Translator::new(model, tokenizer, &device)
        .translate(&pairs.map(|p| p.0), TranslateOptions::default(), |_| ())
        .unwrap();
    let best: Vec<&str> = translations.iter().map(|translations| translations[0].text.as_str()).collect();
    assert_eq!(best, pairs.map(|p| p.1));
}

const VOCABULARY: u32 = 14;

/// Share of held-out strings that the model writes without a fault, and what it wrote.
fn exact(model: &EncoderDecoder, examples: &[Example], maps: bool, device: &Device) -> (f64, Vec<(usize, Hypothesis)>) {
    let mut written = Vec::new();
    for batch in Batches::new(&examples, 2000).unwrap().in_order() {
        let batch = batch.unwrap();
        let source = Tensor::from_slice(batch.source.ids(), &batch.source.shape(), device).unwrap();
        let options = GenerateOptions { limit: 20, maps, ..GenerateOptions::default() };
        let hypotheses = generate(model, &source, batch.source.lengths(), options).unwrap().hypotheses;
        written.extend(batch.indices.into_iter().zip(hypotheses.into_iter().map(|mut best| best.swap_remove(0))));
    }
    let right = |(at, hypothesis): &&(usize, Hypothesis)| {
        hypothesis.finished && hypothesis.tokens.iter().map(|&id| id as u32).eq(examples[*at].target.iter().copied())
    };
    (written.iter().filter(right).count() as f64 / examples.len() as f64, written)
}

/// A task, how long its strings are at most, and how long it is learned.
struct Lesson {
    target: fn(&[u32]) -> Vec<u32>,
    longest: usize,
    batch_tokens: usize,
    steps: u64,
    /// Whether it is over when 99 % of the strings that were held out are written without a fault.
    early: bool,
}

/// `tiny` after a lesson, and hundreds of its strings that it has not seen.
fn learn_task(lesson: Lesson, device: &Device) -> (EncoderDecoder, Vec<Example>) {
    let mut examples = reversals(12_500, 4..=lesson.longest, VOCABULARY, 3);
    for example in &mut examples {
        example.target = (lesson.target)(&example.source);
    }
    let mut held_out = examples.split_off(12_000);
    held_out.retain(|new| examples.iter().all(|seen| seen.source != new.source));
    assert!(held_out.len() > 300, "{}", held_out.len());
    let config = train(lesson.steps, lesson.batch_tokens);
    let learned = |model: &EncoderDecoder| lesson.early && exact(model, &held_out, false, device).0 >= 0.99;
    (learn(&examples, VOCABULARY as usize, config, device, learned), held_out)
}

#[test]
fn copying_is_learned() {
    let device = cpu(1);
    let lesson = Lesson { target: <[u32]>::to_vec, longest: 6, batch_tokens: 240, steps: 700, early: true };
    let (model, held_out) = learn_task(lesson, &device);
    let (share, _) = exact(&model, &held_out, false, &device);
    assert!(share >= 0.99, "{share} of {} strings", held_out.len());
}

#[test]
fn sorting_is_learned() {
    let device = cpu(1);
    let sorted = |source: &[u32]| {
        let mut sorted = source.to_vec();
        sorted.sort_unstable();
        sorted
    };
    let lesson = Lesson { target: sorted, longest: 6, batch_tokens: 240, steps: 1100, early: true };
    let (model, held_out) = learn_task(lesson, &device);
    let (share, _) = exact(&model, &held_out, false, &device);
    assert!(share >= 0.99, "{share} of {} strings", held_out.len());
}

#[test]
fn reversing_is_learned_and_seen_on_the_anti_diagonal() {
    let device = cpu(1);
    // Of strings of at most 6 in batches of 240 tokens, less than 0.8 of the mass lay on the anti-diagonal; and it gathers
    // there only after the strings are right.
    let reversed = |source: &[u32]| source.iter().rev().copied().collect();
    let lesson = Lesson { target: reversed, longest: 8, batch_tokens: 360, steps: 800, early: false };
    let (model, held_out) = learn_task(lesson, &device);
    let (share, written) = exact(&model, &held_out, true, &device);
    assert!(share >= 0.99, "{share} of {} strings", held_out.len());
    for layer in 0..2 {
        let site = Place { stack: Stack::Decoder, layer, part: Part::CrossAttention }.at(Point::Pattern);
        let (mut mass, mut rows) = (0.0, 0.0);
        for (at, hypothesis) in &written {
            let weights = &hypothesis.maps[&site]; // [H, T, S]
            let [_, _, keys] = weights.dims().unwrap();
            let weights: Vec<f32> = weights.mean(&[0], false).unwrap().to_vec().unwrap();
            let length = held_out[*at].source.len();
            // The row that writes `<eos>` has no source token to look at.
            for row in 0..length.min(hypothesis.tokens.len()) {
                mass += f64::from(weights[row * keys + length - 1 - row]);
                rows += 1.0;
            }
        }
        assert!(mass / rows >= 0.8, "layer {layer}: {} on the anti-diagonal", mass / rows);
    }
}
