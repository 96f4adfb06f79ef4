use super::*;
use crate::EncoderDecoderConfig;
use attentia_cpu::CpuBackend;
use attentia_nn::Scope;
use attentia_tensor::{DType, Device};

/// `tiny`, and 200 sentences of 2 to 21 tokens in batches of 20.
fn setting(device: &Device) -> (EncoderDecoder, Vec<(Tensor, Vec<usize>)>) {
    const VOCABULARY: i64 = 500;
    let config = EncoderDecoderConfig::tiny(VOCABULARY as usize);
    let model = EncoderDecoder::new(&Scope::new(device, DType::F32, 3), config).unwrap();
    let mut state = 1u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % below) as i64
    };
    let batches = (0..10).map(|_| {
        let lengths: Vec<usize> = (0..20).map(|_| 2 + draw(20) as usize).collect();
        let width = lengths.iter().copied().max().unwrap();
        let row = |&length: &usize| -> Vec<i64> {
            (0..width).map(|i| if i < length { 3 + draw(VOCABULARY as u64 - 3) } else { 0 }).collect()
        };
        let ids: Vec<i64> = lengths.iter().flat_map(row).collect();
        (Tensor::from_slice(&ids, &[lengths.len(), width], device).unwrap(), lengths)
    });
    (model, batches.collect())
}

fn cpu(threads: usize) -> Device {
    Device::new(CpuBackend::new(threads).unwrap())
}

#[test]
fn the_cache_changes_no_token_of_two_hundred_sentences() {
    let (model, batches) = setting(&cpu(2));
    for beams in [1, 4] {
        let options = GenerateOptions { beams, best: beams, limit: 24, ..GenerateOptions::default() };
        let mut sentences = 0;
        for (source, lengths) in &batches {
            let cached = generate(&model, source, lengths, options).unwrap();
            let whole = generate(&model, source, lengths, GenerateOptions { cached: false, ..options }).unwrap();
            for (cached, whole) in cached.hypotheses.iter().zip(&whole.hypotheses) {
                let tokens = |all: &[Hypothesis]| all.iter().map(|h| h.tokens.clone()).collect::<Vec<_>>();
                assert_eq!(tokens(cached), tokens(whole), "sentence {sentences}, {beams} beams");
                assert!(cached.iter().zip(whole).all(|(a, b)| (a.score - b.score).abs() < 1e-3));
                sentences += 1;
            }
            assert!(cached.decoder_tokens <= lengths.len() * beams * 24, "{}", cached.decoder_tokens);
            assert!(whole.decoder_tokens > 5 * cached.decoder_tokens, "{}", whole.decoder_tokens);
        }
        assert_eq!(sentences, 200);
    }
}

#[test]
fn a_sources_limit_is_its_own() {
    let (model, batches) = setting(&cpu(1));
    let (source, lengths) = &batches[0];
    for beams in [1, 3] {
        let options =
            GenerateOptions { beams, limit: 2, limit_per_token: 1, may_end: false, ..GenerateOptions::default() };
        let written = generate(&model, source, lengths, options).unwrap();
        let counts: Vec<usize> = written.hypotheses.iter().map(|best| best[0].tokens.len()).collect();
        assert_eq!(counts, lengths.iter().map(|length| length + 2).collect::<Vec<_>>());
        assert!(counts.iter().any(|&count| count != counts[0]));
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let (model, batches) = setting(&cpu(1));
    let (source, lengths) = &batches[0];
    let mut longer = lengths.clone();
    longer[3] = source.shape()[1] + 1;
    for (wrong, what) in [(&lengths[1..], "19 lengths for 20 sources"), (&longer, "source 3 is longer")] {
        let error = generate(&model, source, wrong, GenerateOptions::default()).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn eight_threads_on_one_model_get_the_bits_of_one() {
    let (model, batches) = setting(&cpu(2));
    let options = GenerateOptions { limit: 12, ..GenerateOptions::default() };
    let work = |(source, lengths): &(Tensor, Vec<usize>)| {
        let written = generate(&model, source, lengths, options).unwrap();
        let scores: Vec<u64> = written.hypotheses.iter().map(|best| best[0].log_probability.to_bits()).collect();
        // Training at the same time: a graph per thread over the same parameters.
        let mut cx = attentia_nn::Context::evaluation();
        let loss = model.forward(source, lengths, source, &mut cx).unwrap().square().unwrap().mean_all().unwrap();
        let gradients = loss.backward().unwrap();
        let bits: Vec<u32> = gradients.iter().flat_map(|(_, g)| g.to_vec::<f32>().unwrap()).map(f32::to_bits).collect();
        (scores, bits)
    };
    let alone: Vec<_> = batches[..8].iter().map(work).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = batches[..8].iter().map(|batch| scope.spawn(|| work(batch))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(alone == together);
    assert!(alone.iter().all(|(_, gradients)| gradients.iter().any(|&bits| bits != 0)));
}
