//! Time of the fused kernels, beside that of moving the same bytes.
//!
//! Reported throughput is in tokens: 1 Gitem/s is 1 ns for each token.

use std::hint::black_box;

use divan::counter::ItemsCount;
use divan::{Bencher, main};
use half::{bf16, f16};
use policy_loss_kernels::cpu::{
    Advantages, Batch, Element, Floats, Mask, forward, forward_with_gradient,
    forward_with_gradient_into, scale_in_place,
};
use policy_loss_kernels::{
    Clip, Correction, FilterEstimator, FilterLevel, Objective, Range, RatioBase, RatioLevel,
    Reduction, Surrogate, WeightMode,
};
use rayon::prelude::*;

const SHAPES: [(usize, usize); 3] = [(64, 1024), (256, 4096), (1, 1 << 20)];

/// A batch that owns its memory.
struct Data<E> {
    sequences: usize,
    tokens: usize,
    log_probs: Vec<E>,
    old_log_probs: Vec<E>,
    rollout_log_probs: Vec<E>,
    advantages: Vec<E>,
    mask: Vec<bool>,
}

impl<E: Element> Data<E> {
    fn new((sequences, tokens): (usize, usize), from_f64: fn(f64) -> E) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut uniform = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let total = sequences * tokens;
        let old: Vec<f64> = (0..total).map(|_| -3.0 * uniform()).collect();
        let mut near = |spread: f64| {
            old.iter()
                .map(|old| from_f64(old + spread * (uniform() - 0.5)))
                .collect::<Vec<_>>()
        };
        let log_probs = near(0.6);
        let rollout_log_probs = near(0.1);
        Self {
            sequences,
            tokens,
            log_probs,
            rollout_log_probs,
            old_log_probs: old.iter().map(|&old| from_f64(old)).collect(),
            advantages: (0..total)
                .map(|_| from_f64(2.0 * uniform() - 1.0))
                .collect(),
            // A sequence ends somewhere in its second half.
            mask: (0..total)
                .map(|index| index % tokens < tokens / 2 + index / tokens * 7919 % (tokens / 2))
                .collect(),
        }
    }

    fn batch(&self) -> Batch<'_, E> {
        Batch {
            sequences: self.sequences,
            tokens: self.tokens,
            log_probs: &self.log_probs,
            old_log_probs: Floats::from(self.old_log_probs.as_slice()),
            rollout_log_probs: Some(Floats::from(self.rollout_log_probs.as_slice())),
            weights: None,
            ref_log_probs: None,
            advantages: Advantages::PerToken(Floats::from(self.advantages.as_slice())),
            mask: Some(Mask::from(self.mask.as_slice())),
        }
    }
}

fn f32s(shape: (usize, usize)) -> Data<f32> {
    Data::new(shape, |value| value as f32)
}

const TOKEN: Objective = Objective {
    ratio_level: RatioLevel::Token,
    ratio_base: RatioBase::Old,
    surrogate: Surrogate::Clip(Clip {
        low: 0.2,
        high: 0.2,
        dual: None,
    }),
    correction: None,
    off_policy: None,
    penalty: None,
    reduction: Reduction::TokenMean,
    scale: None,
};

const SEQUENCE: Objective = Objective {
    ratio_level: RatioLevel::Sequence,
    reduction: Reduction::SequenceMean,
    ..TOKEN
};

fn tokens((sequences, tokens): (usize, usize)) -> ItemsCount {
    ItemsCount::new(sequences * tokens)
}

fn gradient<E: Element>(
    bencher: Bencher<'_, '_>,
    shape: (usize, usize),
    objective: Objective,
    data: &Data<E>,
) {
    let batch = data.batch();
    bencher
        .counter(tokens(shape))
        .bench(|| forward_with_gradient(black_box(&objective), &batch));
}

#[divan::bench(args = SHAPES)]
fn token(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    gradient(bencher, shape, TOKEN, &f32s(shape));
}

#[divan::bench(args = SHAPES)]
fn token_into_own_memory(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let data = f32s(shape);
    let batch = data.batch();
    let mut gradient = Box::new_uninit_slice(data.log_probs.len());
    bencher
        .counter(tokens(shape))
        .bench_local(|| forward_with_gradient_into(black_box(&TOKEN), &batch, &mut gradient));
}

#[divan::bench(args = SHAPES)]
fn token_without_gradient(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let data = f32s(shape);
    let batch = data.batch();
    bencher
        .counter(tokens(shape))
        .bench(|| forward(black_box(&TOKEN), &batch));
}

#[divan::bench(args = SHAPES)]
fn token_without_mask(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let data = f32s(shape);
    let batch = Batch {
        mask: None,
        ..data.batch()
    };
    bencher
        .counter(tokens(shape))
        .bench(|| forward_with_gradient(black_box(&TOKEN), &batch));
}

#[divan::bench(args = SHAPES)]
fn token_dual_clip(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let clip = Clip {
        low: 0.2,
        high: 0.2,
        dual: Some(3.0),
    };
    gradient(
        bencher,
        shape,
        Objective {
            surrogate: Surrogate::Clip(clip),
            ..TOKEN
        },
        &f32s(shape),
    );
}

const RANGE: Range = Range {
    low: 0.5,
    high: 2.0,
};

fn corrected(bencher: Bencher<'_, '_>, shape: (usize, usize), correction: Correction) {
    let objective = Objective {
        correction: Some(correction),
        ..TOKEN
    };
    gradient(bencher, shape, objective, &f32s(shape));
}

#[divan::bench(args = SHAPES)]
fn token_truncated_weight(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let mode = WeightMode::Truncate(RANGE);
    corrected(bencher, shape, Correction::of_tokens(mode));
}

#[divan::bench(args = SHAPES)]
fn token_sequence_masked_weight(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let raw = Correction::of_tokens(WeightMode::Raw);
    let (level, estimator) = (FilterLevel::SequenceMean, FilterEstimator::K1);
    corrected(bencher, shape, raw.with_filter(level, estimator, RANGE));
}

#[divan::bench(args = SHAPES)]
fn token_filtered_weight(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let raw = Correction::of_tokens(WeightMode::Raw);
    let (level, estimator) = (FilterLevel::Token, FilterEstimator::K3);
    corrected(bencher, shape, raw.with_filter(level, estimator, RANGE));
}

#[divan::bench(args = SHAPES)]
fn token_sequence_mean(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let reduction = Reduction::SequenceMean;
    gradient(
        bencher,
        shape,
        Objective { reduction, ..TOKEN },
        &f32s(shape),
    );
}

#[divan::bench(args = SHAPES)]
fn sequence(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    gradient(bencher, shape, SEQUENCE, &f32s(shape));
}

#[divan::bench(args = SHAPES)]
fn token_f64(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    gradient(bencher, shape, TOKEN, &Data::new(shape, |value| value));
}

#[divan::bench(args = SHAPES)]
fn token_f16(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    gradient(bencher, shape, TOKEN, &Data::new(shape, f16::from_f64));
}

#[divan::bench(args = SHAPES)]
fn token_bf16(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    gradient(bencher, shape, TOKEN, &Data::new(shape, bf16::from_f64));
}

#[divan::bench(args = SHAPES)]
fn scale(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let mut gradient = f32s(shape).log_probs;
    bencher
        .counter(tokens(shape))
        .bench_local(|| scale_in_place(&mut gradient, black_box(-1.0)));
}

/// The floor: reads three inputs and the mask, writes one output, computes next to nothing.
#[divan::bench(args = SHAPES)]
fn floor_same_bytes(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    const CHUNK: usize = 16 * 1024;
    let data = f32s(shape);
    let mut output = vec![0.0_f32; data.log_probs.len()];
    bencher.counter(tokens(shape)).bench_local(|| {
        let visit = |(index, output): (usize, &mut [f32])| {
            let range = index * CHUNK..index * CHUNK + output.len();
            let inputs = data.log_probs[range.clone()]
                .iter()
                .zip(&data.old_log_probs[range.clone()])
                .zip(&data.advantages[range.clone()])
                .zip(&data.mask[range]);
            for (output, (((&a, &b), &c), &mask)) in output.iter_mut().zip(inputs) {
                *output = if mask { (a - b) * c } else { 0.0 };
            }
        };
        let chunks = output.len() / CHUNK;
        if chunks > 6 {
            output.par_chunks_mut(CHUNK).enumerate().for_each(visit);
        } else {
            output.chunks_mut(CHUNK).enumerate().for_each(visit);
        }
        black_box(&mut output);
    });
}

/// The floor of one thread: `memcpy` of half the bytes that the kernel moves.
#[divan::bench(args = SHAPES)]
fn floor_memcpy(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let bytes = shape.0 * shape.1 * 17 / 2;
    let source = vec![1_u8; bytes];
    let mut target = vec![0_u8; bytes];
    bencher.counter(tokens(shape)).bench_local(|| {
        target.copy_from_slice(black_box(&source));
        black_box(&mut target);
    });
}
