//! A training run in steady state asks the system for no memory: seen from outside, by `strace`, and from inside, by
//! the pool's own figures.

use attentia_cpu::CpuBackend;
use attentia_data::{Example, Tokenizer};
use attentia_nn::{Schedule, Scope};
use attentia_tensor::{DType, Device, copy_on_write_count};
use attentia_train::{TrainConfig, Trainer};
use attentia_transformer::{EncoderDecoder, EncoderDecoderConfig};
use std::{io::Write, process::Command};

/// Set in the process that strace watches.
const WATCHED: &str = "ATTENTIA_WATCHED_TRAINING";
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
        label_smoothing: 0.1,
        clip: 1.0,
        seed: 1,
    };
    let mut trainer = Trainer::new(model, scope.parameters(), &examples, config, &device).unwrap();
    let mut before = None;
    trainer
        .run(|step| {
            if step.step == FIRST || step.step == LAST {
                let allocations = device.memory().system_allocations;
                // Not a print macro: those are captured, and buffered.
                std::io::stderr().write_all(format!("steady {} {allocations}\n", step.step).as_bytes()).unwrap();
                match before {
                    None => before = Some(allocations),
                    Some(before) => assert_eq!(allocations, before, "the pool missed"),
                }
            }
        })
        .unwrap();
    assert_eq!(copy_on_write_count(), 0, "an update found its parameter shared");
}

/// Whether the tool is there. In CI it is required, by name in `ATTENTIA_REQUIRE`.
fn strace_is_there() -> bool {
    let there = Command::new("strace").arg("-V").output().is_ok_and(|o| o.status.success());
    let required = std::env::var("ATTENTIA_REQUIRE").unwrap_or_default();
    assert!(there || !required.split(',').any(|part| part == "strace"), "strace is required and is not installed");
    there
}

#[test]
fn steady_training_asks_the_system_for_nothing() {
    if std::env::var_os(WATCHED).is_some() || !strace_is_there() {
        train();
        if std::env::var_os(WATCHED).is_none() {
            println!("skipped: strace is not installed; only the pool's own figures were checked");
        }
        return;
    }
    let log = std::env::temp_dir().join(format!("attentia-strace-{}", std::process::id()));
    let output = Command::new("strace")
        .args(["-f", "--seccomp-bpf", "-e", "trace=mmap,brk,mremap,write", "-o", log.to_str().unwrap()])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "steady_training_asks_the_system_for_nothing"])
        .env(WATCHED, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
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
