//! A training run in steady state asks the system for no memory: seen from outside, by `strace`, and from inside, by
//! the pool's own figures.

use crate::child;
use attentia_cpu::CpuBackend;
use attentia_data::{Example, Tokenizer};
use attentia_nn::{Schedule, Scope};
use attentia_tensor::{DType, Device, copy_on_write_count};
use attentia_train::{TrainConfig, Trainer};
use attentia_transformer::{EncoderDecoder, EncoderDecoderConfig};

const FIRST: u64 = 100;
const LAST: u64 = 500;

/// Quickstart's training, with a word on standard error at the first and the last step of the steady state.
fn train() {
    let device = Device::new(CpuBackend::new(2).unwrap());
    let corpus = attentia_corpus::english_german().unwrap().at_most_words(12);
    let texts = corpus.train.iter().flat_map(|pair| [&pair.source, &pair.target]);
    let tokenizer = Tokenizer::train_bpe(texts, 3000).unwrap();
    let encode = |text: &str| tokenizer.encode(text).unwrap();
    let examples: Vec<Example> =
        corpus.train.iter().map(|p| Example { source: encode(&p.source), target: encode(&p.target) }).collect();
    let scope = Scope::new(&device, DType::F32, 1);
    // Half as wide as quickstart's, so that the test is short; shapes vary as much.
    let config = EncoderDecoderConfig { width: 64, hidden: 128, ..EncoderDecoderConfig::tiny(tokenizer.vocab_size()) };
    let model = EncoderDecoder::new(&scope, config).unwrap();
    let config = TrainConfig {
        steps: LAST,
        batch_tokens: 512,
        schedule: Schedule::Constant { peak: 1e-3 },
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(model, scope.parameters(), &examples, config, &device).unwrap();
    let mut before = None;
    while let Some(step) = trainer.next_step().unwrap() {
        if step.step == FIRST || step.step == LAST {
            let allocations = device.memory().system_allocations;
            child::tell(&format!("steady {} {allocations}", step.step));
            match before {
                None => before = Some(allocations),
                Some(before) => assert_eq!(allocations, before, "the pool missed"),
            }
        }
    }
    assert_eq!(copy_on_write_count(), 0, "an update found its parameter shared");
}

#[test]
fn steady_training_asks_the_system_for_nothing() {
    const TEST: &str = "memory::steady_training_asks_the_system_for_nothing";
    if child::task().is_some() {
        return train();
    }
    if !child::strace_is_there() {
        // The pool's own figures remain; in a process of its own, as counters of copies are the process's.
        let output = child::command(TEST, &[]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let folder = child::folder("strace");
    let log = folder.join("log");
    let options = ["--seccomp-bpf", "-e", "trace=mmap,brk,mremap,write", "-o", log.to_str().unwrap()];
    let output = child::traced(&options, TEST, &[]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let marker = |step: u64| calls.find(&format!("steady {step} ")).expect("the marker is in the log");
    let steady = &calls[marker(FIRST)..marker(LAST)];
    let asked: Vec<&str> =
        steady.lines().filter(|line| ["mmap(", "brk(", "mremap("].iter().any(|call| line.contains(call))).collect();
    assert!(
        asked.is_empty(),
        "{} calls between steps {FIRST} and {LAST}: {:?}",
        asked.len(),
        &asked[..asked.len().min(9)]
    );
}
