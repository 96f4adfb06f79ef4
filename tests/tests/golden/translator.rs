//! A whole encoder-decoder: twenty steps of training, attention maps, greedy and beam search.

use crate::{Golden, assert_close, device, difference, floats};
use attentia_nn::{
    AdamW, AdamWConfig, Captures, Context, Optimizer, Parameters, Plan, Point, Run, Schedule, Scope, Site, clip_factor,
    cross_entropy, gradient_norm,
};
use attentia_tensor::{DType, Tensor};
use attentia_transformer::{EncoderDecoder, EncoderDecoderConfig, GenerateOptions, NormPlacement, PAD, generate};
use std::{collections::BTreeMap, sync::Arc};

fn model(golden: &Golden, norm: NormPlacement, dtype: DType) -> (EncoderDecoder, Parameters) {
    let device = golden.get("loss").device().clone();
    let config = EncoderDecoderConfig {
        vocabulary: 37,
        width: 32,
        heads: 4,
        hidden: 64,
        positions: 32,
        norm,
        dropout: 0.0,
        ..EncoderDecoderConfig::tiny(37)
    };
    let scope = Scope::new(&device, dtype, 1);
    (EncoderDecoder::new(&scope, config).unwrap(), scope.parameters())
}

fn set(parameters: &Parameters, golden: &Golden, prefix: &str, dtype: DType) {
    let values: BTreeMap<String, Tensor> = golden
        .below(prefix)
        .into_iter()
        .map(|(path, tensor)| (path.to_owned(), tensor.to_dtype(dtype).unwrap()))
        .collect();
    parameters.load(&values).unwrap();
}

fn lengths(golden: &Golden, batch: usize) -> Vec<usize> {
    golden.integers(&format!("batch/{batch}/source_lengths")).into_iter().map(|n| n as usize).collect()
}

const NORMS: [(&str, NormPlacement); 2] =
    [("translator_pre", NormPlacement::Pre), ("translator_post", NormPlacement::Post)];

/// Trains as the file's maker did; the losses of the steps.
fn train(golden: &Golden, model: &EncoderDecoder, parameters: &Parameters) -> Vec<f64> {
    let config = AdamWConfig { betas: (0.9, 0.98), epsilon: 1e-9, weight_decay: 0.01 };
    let mut optimizer = AdamW::new(parameters.clone(), config).unwrap();
    let schedule = Schedule::InverseSquareRoot { peak: 0.005, warmup: 8 };
    let mut losses = Vec::new();
    for step in 1..=20u64 {
        let batch = (step as usize - 1) % 5;
        let get = |what: &str| golden.get(&format!("batch/{batch}/{what}"));
        let cx = &mut Context::new(Run { train: true, seed: 1, step, plan: None });
        let logits = model.forward(get("source"), &lengths(golden, batch), get("decoder_input"), cx).unwrap();
        let loss = cross_entropy(&logits, get("decoder_target"), 0.1, Some(PAD)).unwrap().mean().unwrap();
        losses.push(floats(&loss)[0]);
        let grads = loss.backward().unwrap();
        let factor = clip_factor(gradient_norm(&grads).unwrap(), 1.0);
        optimizer.step_scaled(grads, schedule.at(step), factor).unwrap();
    }
    losses
}

#[test]
fn twenty_steps_of_training() {
    let device = device();
    for (name, norm) in NORMS {
        let golden = Golden::read(name, &device);
        let expected = golden.floats("loss");
        let mean = |what: &str| golden.floats(what).iter().sum::<f64>();
        assert!(mean("batch_loss/final") <= 0.7 * mean("batch_loss/initial"), "{name} learns");
        let (net, parameters) = model(&golden, norm, DType::F64);
        set(&parameters, &golden, "initial/", DType::F64);
        for (step, (ours, theirs)) in train(&golden, &net, &parameters).iter().zip(&expected).enumerate() {
            assert!((ours - theirs).abs() <= 1e-9 * theirs.abs(), "{name}, step {step}: {ours} and {theirs}");
        }
        for (path, var) in parameters.iter() {
            assert_close(
                &format!("{name} {path}"),
                &floats(&var.value()),
                &golden.floats(&format!("final/{path}")),
                1e-8,
            );
        }
        let (net, parameters) = model(&golden, norm, DType::F32);
        set(&parameters, &golden, "initial/", DType::F32);
        let worst = difference(&train(&golden, &net, &parameters), &expected);
        assert!(worst <= 1e-4, "{name} in f32: losses are {worst:.1e} apart");
    }
}

#[derive(Debug)]
struct Patterns;

impl Plan for Patterns {
    fn wants(&self, site: Site) -> bool {
        site.point == Point::Pattern
    }
}

#[test]
fn logits_and_maps_after_training() {
    let device = device();
    for (name, norm) in NORMS {
        let golden = Golden::read(name, &device);
        let (net, parameters) = model(&golden, norm, DType::F64);
        set(&parameters, &golden, "final/", DType::F64);
        let mut seen = Captures::new();
        let cx = &mut Context::watched(Run { plan: Some(Arc::new(Patterns)), ..Run::default() }, &mut seen);
        let logits = net
            .forward(golden.get("batch/0/source"), &lengths(&golden, 0), golden.get("batch/0/decoder_input"), cx)
            .unwrap();
        assert_close(name, &floats(&logits), &golden.floats("logits"), 1e-9);
        assert_eq!(seen.len(), 6);
        for (site, map) in seen {
            let site = site.to_string();
            let recorded = format!("maps/{}", site.strip_suffix(".pattern").unwrap());
            assert_close(&site, &floats(&map), &golden.floats(&recorded), 1e-6); // recorded in f32
        }
    }
}

#[test]
fn greedy_and_beam_search_write_the_same() {
    let device = device();
    for (name, norm) in NORMS {
        let golden = Golden::read(name, &device);
        let (net, parameters) = model(&golden, norm, DType::F64);
        set(&parameters, &golden, "final/", DType::F64);
        for (alpha, cached) in [("0", true), ("0.6", true), ("0.6", false), ("1", true)] {
            for beams in [1, 4] {
                let group = if beams == 1 { "greedy".to_owned() } else { format!("beam/{alpha}") };
                let recorded = |what: &str| golden.integers(&format!("{group}/{what}"));
                let (tokens, counts) = (recorded("tokens"), recorded("lengths"));
                let length_penalty = alpha.parse().unwrap();
                let options = GenerateOptions {
                    beams,
                    best: beams,
                    length_penalty,
                    limit: 12,
                    cached,
                    ..GenerateOptions::default()
                };
                let mut place = 0;
                for batch in 0..2 {
                    let source = golden.get(&format!("batch/{batch}/source"));
                    let written = generate(&net, source, &lengths(&golden, batch), options).unwrap();
                    for hypotheses in &written.hypotheses {
                        assert_eq!(hypotheses.len(), beams);
                        for hypothesis in hypotheses {
                            let expected = &tokens[place * 12..][..counts[place] as usize];
                            assert_eq!(hypothesis.tokens, expected, "{name} {group} cached {cached}: {place}");
                            if beams > 1 {
                                let score = golden.floats(&format!("{group}/scores"))[place];
                                assert_close(&group, &[hypothesis.score], &[score], 1e-9);
                            }
                            place += 1;
                        }
                    }
                }
                assert_eq!(place, counts.len());
            }
        }
    }
}

/// One decoder position per live hypothesis and step, whole maps from the steps that wrote.
#[test]
fn a_cached_step_reads_one_token_and_its_maps_are_those_of_one_pass() {
    let device = device();
    let golden = Golden::read("translator_pre", &device);
    let (net, parameters) = model(&golden, NormPlacement::Pre, DType::F64);
    set(&parameters, &golden, "final/", DType::F64);
    let source = golden.get("batch/0/source").narrow(0, 0, 2).unwrap();
    let lengths = &lengths(&golden, 0)[..2];
    let options = GenerateOptions { limit: 5, may_end: false, ..GenerateOptions::default() };
    let greedy = generate(&net, &source, lengths, options).unwrap();
    assert_eq!((greedy.steps, greedy.decoder_tokens), (5, 2 * 5));
    let beams = generate(&net, &source, lengths, GenerateOptions { beams: 3, best: 1, ..options }).unwrap();
    assert_eq!((beams.steps, beams.decoder_tokens), (5, 2 + 4 * 2 * 3));
    let uncached = generate(&net, &source, lengths, GenerateOptions { cached: false, ..options }).unwrap();
    assert_eq!(uncached.decoder_tokens, 2 * (1 + 2 + 3 + 4 + 5));

    for beams in [1, 3] {
        let options = GenerateOptions { beams, maps: true, ..options };
        let written = generate(&net, &source, lengths, options).unwrap();
        for (row, hypotheses) in written.hypotheses.iter().enumerate() {
            let (best, s) = (&hypotheses[0], lengths[row]);
            let mut input = vec![1i64];
            input.extend(&best.tokens[..4]);
            let input = Tensor::from_slice(&input, &[1, 5], &device).unwrap();
            let mut seen = Captures::new();
            let cx = &mut Context::watched(Run { plan: Some(Arc::new(Patterns)), ..Run::default() }, &mut seen);
            let own = source.narrow(0, row, 1).unwrap().narrow(1, 0, s).unwrap();
            net.forward(&own, &[s], &input, cx).unwrap();
            assert_eq!(best.maps.len(), 6);
            for (site, map) in &best.maps {
                assert_close(&site.to_string(), &floats(map), &floats(&seen[site]), 1e-6);
            }
        }
    }
}
