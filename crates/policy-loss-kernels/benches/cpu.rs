//! Time of the fused kernels, beside that of moving the same bytes.
//!
//! Reported throughput is in tokens: 1 Gitem/s is 1 ns for each token.

use std::hint::black_box;

use divan::counter::ItemsCount;
use divan::{Bencher, main};
use half::{bf16, f16};
use policy_loss_kernels::cpu::{
    Arithmetic, Batch, Element, Floats, Mask, evaluate, scale_in_place,
};
use policy_loss_kernels::objective::{
    Bounds, Clip, EntropyBonus, Filter, FilterEstimator, FilterLevel, GeometricMean, KlPenalty,
    PolicyGradient, Ratio, Reduction, RolloutCorrection, RolloutWeight, SigmoidGate, Surrogate,
};
use policy_loss_kernels::{Columns, Objective};
use rayon::prelude::*;

const SHAPES: [(usize, usize); 3] = [(64, 1024), (256, 4096), (1, 1 << 20)];

/// A batch that owns its memory.
struct Data<E> {
    sequences: usize,
    tokens: usize,
    columns: Columns<Vec<E>>,
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
        let ref_log_probs = near(0.4);
        let entropies = near(0.0);
        Self {
            sequences,
            tokens,
            columns: Columns {
                log_probs,
                old_log_probs: old.iter().map(|&old| from_f64(old)).collect(),
                rollout_log_probs,
                ref_log_probs,
                entropies,
                advantages: (0..total)
                    .map(|_| from_f64(2.0 * uniform() - 1.0))
                    .collect(),
                ..Columns::default()
            },
            // A sequence ends somewhere in its second half.
            mask: (0..total)
                .map(|index| index % tokens < tokens / 2 + index / tokens * 7919 % (tokens / 2))
                .collect(),
        }
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            sequences: self.sequences,
            tokens: self.tokens,
            columns: self
                .columns
                .as_ref()
                .map(|column| Some(Floats::from(column.as_slice()))),
            mask: Some(Mask::from(self.mask.as_slice())),
            weight_mean: 1.0,
            entropy_threshold: 0.0,
            sequence_weights: None,
        }
    }
}

fn f32s(shape: (usize, usize)) -> Data<f32> {
    Data::new(shape, |value| value as f32)
}

/// The clip, and nothing else.
fn token_clip() -> Objective {
    of(Clip::new(0.2, 0.2))
}

fn of(surrogate: impl Into<Surrogate>) -> Objective {
    let mut objective = Objective::default();
    objective.surrogate = surrogate.into();
    objective
}

fn tokens((sequences, tokens): (usize, usize)) -> ItemsCount {
    ItemsCount::new(sequences * tokens)
}

fn gradient_in<T: Arithmetic, E: Element>(
    bencher: Bencher<'_, '_>,
    shape: (usize, usize),
    objective: &Objective,
    data: &Data<E>,
) {
    let batch = data.batch();
    bencher
        .counter(tokens(shape))
        .bench(|| evaluate::<T>(black_box(objective), &batch, None, true));
}

fn gradient(bencher: Bencher<'_, '_>, shape: (usize, usize), objective: &Objective) {
    gradient_in::<f32, _>(bencher, shape, objective, &f32s(shape));
}

#[divan::bench(args = SHAPES)]
fn token(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    gradient(bencher, shape, &token_clip());
}

#[divan::bench(args = SHAPES)]
fn token_without_gradient(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let data = f32s(shape);
    let batch = data.batch();
    let objective = token_clip();
    bencher
        .counter(tokens(shape))
        .bench(|| evaluate::<f32>(black_box(&objective), &batch, None, false));
}

#[divan::bench(args = SHAPES)]
fn token_without_mask(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let data = f32s(shape);
    let batch = Batch {
        mask: None,
        ..data.batch()
    };
    let objective = token_clip();
    bencher
        .counter(tokens(shape))
        .bench(|| evaluate::<f32>(black_box(&objective), &batch, None, true));
}

#[divan::bench(args = SHAPES)]
fn token_dual_clip(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    gradient(bencher, shape, &of(Clip::new(0.2, 0.2).with_dual_clip(3.0)));
}

const BOUNDS: Bounds = Bounds::new(0.5, 2.0);

fn corrected(bencher: Bencher<'_, '_>, shape: (usize, usize), correction: RolloutCorrection) {
    let mut objective = token_clip();
    objective.rollout_correction = Some(correction);
    gradient(bencher, shape, &objective);
}

fn filtered(bencher: Bencher<'_, '_>, shape: (usize, usize), filter: Filter) {
    let raw = RolloutCorrection::weigh(RolloutWeight::raw());
    corrected(bencher, shape, raw.with_filter(filter));
}

#[divan::bench(args = SHAPES)]
fn token_truncated_weight(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let truncate = RolloutWeight::truncate(BOUNDS);
    corrected(bencher, shape, RolloutCorrection::weigh(truncate));
}

#[divan::bench(args = SHAPES)]
fn token_sequence_masked_weight(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    filtered(bencher, shape, Filter::sequence_mean_k1(BOUNDS));
}

#[divan::bench(args = SHAPES)]
fn token_filtered_weight(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let filter = Filter::new(FilterLevel::Token, FilterEstimator::K3, BOUNDS);
    filtered(bencher, shape, filter);
}

#[divan::bench(args = SHAPES)]
fn token_sequence_mean(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let mut objective = token_clip();
    objective.reduction = Reduction::SequenceMean;
    gradient(bencher, shape, &objective);
}

#[divan::bench(args = SHAPES)]
fn token_kl_penalty(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let mut objective = token_clip();
    objective.kl_penalty = Some(KlPenalty::new(0.1));
    gradient(bencher, shape, &objective);
}

#[divan::bench(args = SHAPES)]
fn token_entropy_bonus(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let mut objective = token_clip();
    objective.entropy_bonus = Some(EntropyBonus::new(0.1));
    gradient(bencher, shape, &objective);
}

#[divan::bench(args = SHAPES)]
fn sequence(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let mut objective = token_clip();
    objective.ratio = Ratio::SEQUENCE;
    objective.reduction = Reduction::SequenceMean;
    gradient(bencher, shape, &objective);
}

#[divan::bench(args = SHAPES)]
fn weighted_policy_gradient(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let surrogate = PolicyGradient::weighted(Bounds::at_most(1.28));
    gradient(bencher, shape, &of(surrogate));
}

#[divan::bench(args = SHAPES)]
fn sigmoid_gate(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    gradient(bencher, shape, &of(SigmoidGate::default()));
}

#[divan::bench(args = SHAPES)]
fn geometric_mean(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    gradient(bencher, shape, &of(GeometricMean::default()));
}

#[divan::bench(args = SHAPES)]
fn token_f64(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let data = Data::new(shape, |value| value);
    gradient_in::<f64, _>(bencher, shape, &token_clip(), &data);
}

#[divan::bench(args = SHAPES)]
fn token_f16(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let data = Data::new(shape, f16::from_f64);
    gradient_in::<f32, _>(bencher, shape, &token_clip(), &data);
}

#[divan::bench(args = SHAPES)]
fn token_bf16(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let data = Data::new(shape, bf16::from_f64);
    gradient_in::<f32, _>(bencher, shape, &token_clip(), &data);
}

#[divan::bench(args = SHAPES)]
fn scale(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let mut gradient = f32s(shape).columns.log_probs;
    bencher
        .counter(tokens(shape))
        .bench_local(|| scale_in_place(&mut gradient, black_box(-1.0)));
}

/// The floor: reads three inputs and the mask, writes one output, computes next to nothing.
#[divan::bench(args = SHAPES)]
fn floor_same_bytes(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    const CHUNK: usize = 16 * 1024;
    let data = f32s(shape);
    let columns = &data.columns;
    let mut output = vec![0.0_f32; columns.log_probs.len()];
    bencher.counter(tokens(shape)).bench_local(|| {
        let visit = |(index, output): (usize, &mut [f32])| {
            let range = index * CHUNK..index * CHUNK + output.len();
            let inputs = columns.log_probs[range.clone()]
                .iter()
                .zip(&columns.old_log_probs[range.clone()])
                .zip(&columns.advantages[range.clone()])
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
