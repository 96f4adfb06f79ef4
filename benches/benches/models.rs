//! Criterion groups: training step, decoding. `cargo bench -p attentia-benches --bench models -- decoding`

use anyhow::Result;
use attentia::{
    backend::DType,
    nn::{Precision, Scope},
    transformer::{EncoderDecoder, EncoderDecoderConfig, GenerateOptions, generate},
};
use attentia_benches::{
    models::{VOCABULARY, sentences, sources, warm_trainer},
    operands::cpu,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const THREADS: usize = 2;

/// Runs work that cannot fail on valid operands; an error ends the benchmark with its message.
fn run(work: impl FnOnce() -> Result<()>) {
    if let Err(error) = work() {
        eprintln!("{error:?}");
        std::process::exit(1);
    }
}

/// `small` on 32 × (24 + 24) tokens and `base` on 16 × (32 + 32), forward, backward and update.
fn training(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("training step");
    run(|| {
        let device = cpu(THREADS)?;
        let models = [
            ("small", EncoderDecoderConfig::small(VOCABULARY), 32, 24),
            ("base", EncoderDecoderConfig::base(VOCABULARY), 16, 32),
        ];
        for (name, config, rows, width) in models {
            let examples = sentences(8 * rows, width);
            for (dtype, precision) in [("f32", Precision::from(DType::F32)), ("bf16", Precision::mixed_bf16())] {
                let tokens = rows * width;
                let (mut trainer, batches) = warm_trainer(config.clone(), precision, &examples, tokens, 8, &device)?;
                let mut batches = batches.iter().cycle();
                group.throughput(Throughput::Elements(2 * tokens as u64));
                group.bench_function(BenchmarkId::new(name, dtype), |bencher| {
                    bencher.iter(|| {
                        run(|| {
                            if let Some(batch) = batches.next() {
                                trainer.accumulate(batch)?;
                                trainer.update()?;
                            }
                            Ok(())
                        })
                    });
                });
            }
        }
        Ok(())
    });
    group.finish();
}

/// Sixteen tokens for each source of 32, greedily and with four beams, over the cache.
fn decoding(criterion: &mut Criterion) {
    const STEPS: usize = 16;
    let mut group = criterion.benchmark_group("decoding");
    run(|| {
        let device = cpu(THREADS)?;
        let model = EncoderDecoder::new(&Scope::new(&device, DType::F32, 1), EncoderDecoderConfig::base(VOCABULARY))?;
        for (rows, beams) in [(1, 1), (16, 1), (4, 4)] {
            let (source, lengths) = (sources(rows, 32, &device)?, vec![32; rows]);
            let options = GenerateOptions { beams, limit: STEPS, may_end: false, ..GenerateOptions::default() };
            group.throughput(Throughput::Elements((rows * STEPS) as u64));
            group.bench_function(format!("base, {rows} sentences, beams {beams}"), |bencher| {
                bencher.iter(|| run(|| Ok(generate(&model, &source, &lengths, options).map(drop)?)));
            });
        }
        Ok(())
    });
    group.finish();
}

criterion_group! {
    name = models;
    config = Criterion::default().sample_size(10).measurement_time(std::time::Duration::from_secs(5));
    targets = training, decoding
}
criterion_main!(models);
