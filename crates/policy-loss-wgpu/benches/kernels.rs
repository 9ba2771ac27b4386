//! Time of the CubeCL kernels by themselves, from the first launch to the end of the device's work.
//!
//! Reported throughput is in tokens: 1 Gitem/s is 1 ns for each token. What the first call of a
//! benchmark compiles is not in it: the samples are taken afterwards.

use cubecl::client::Client;
use cubecl::future::block_on;
use cubecl::ir::{ElemType, FloatKind, UIntKind};
use divan::counter::ItemsCount;
use divan::{Bencher, main};
use policy_loss_kernels::cube::{Batch, Buffer, backward, forward};
use policy_loss_kernels::objective::{
    Bounds, Clip, Filter, FilterEstimator, FilterLevel, GeometricMean, KlPenalty, Ratio,
    RolloutCorrection, RolloutWeight, Surrogate, WeightLevel,
};
use policy_loss_kernels::{Columns, Objective};

const SHAPES: [(usize, usize); 4] = [(64, 1024), (256, 4096), (1, 1 << 18), (4, 1 << 16)];

const RANGE: Bounds = Bounds::new(0.5, 2.0);

/// The clipped surrogate, with something changed.
fn clip_with(change: impl FnOnce(&mut Objective)) -> Objective {
    let mut objective = Objective::default();
    objective.surrogate = Clip::new(0.2, 0.28).into();
    change(&mut objective);
    objective
}

/// A batch in the device's memory; a sequence ends somewhere in its second half.
fn batch(client: &Client, (sequences, tokens): (usize, usize)) -> Batch {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u32 << 24) as f32
    };
    let total = sequences * tokens;
    let floats = |values: Vec<f32>| {
        let bytes: Vec<u8> = values.iter().flat_map(|it| it.to_ne_bytes()).collect();
        Buffer {
            handle: client.create_from_slice(&bytes),
            element: ElemType::Float(FloatKind::F32),
        }
    };
    let old: Vec<f32> = (0..total).map(|_| -3.0 * uniform()).collect();
    let mut near = |spread: f32| {
        old.iter()
            .map(|old| old + spread * (uniform() - 0.5))
            .collect()
    };
    let (log_probs, rollout, reference) = (near(0.6), near(0.1), near(0.2));
    let advantages = (0..total).map(|_| 2.0 * uniform() - 1.0).collect();
    let end = |sequence: usize| tokens - (sequence * 7) % (tokens / 2).max(1);
    let mask: Vec<u8> = (0..total)
        .flat_map(|index| u32::from(index % tokens < end(index / tokens)).to_ne_bytes())
        .collect();
    Batch {
        sequences,
        tokens,
        columns: Columns {
            log_probs: Some(floats(log_probs)),
            old_log_probs: Some(floats(old.clone())),
            rollout_log_probs: Some(floats(rollout)),
            ref_log_probs: Some(floats(reference)),
            advantages: Some(floats(advantages)),
            ..Columns::default()
        },
        advantages_per_sequence: false,
        weight_mean: None,
        entropy_threshold: None,
        sequence_weights: None,
        mask: Some(Buffer {
            handle: client.create_from_slice(&mask),
            element: ElemType::UInt(UIntKind::U32),
        }),
    }
}

/// Loss, sums and gradient.
fn gradient(bencher: Bencher<'_, '_>, shape: (usize, usize), objective: Objective) {
    let client = cubecl::Device::default().client();
    let batch = batch(&client, shape);
    let visit = || {
        let outputs = forward(&client, &objective, &batch, None, true);
        wait(&client);
        outputs
    };
    visit();
    bencher
        .counter(ItemsCount::new(shape.0 * shape.1))
        .bench_local(visit);
}

fn wait(client: &Client) {
    block_on(client.sync()).expect("the device does its work");
}

#[divan::bench(args = SHAPES)]
fn clip(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    gradient(bencher, shape, clip_with(|_| {}));
}

#[divan::bench(args = SHAPES)]
fn clip_of_sequence_ratio(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    gradient(bencher, shape, clip_with(|it| it.ratio = Ratio::SEQUENCE));
}

#[divan::bench(args = SHAPES)]
fn clip_with_truncated_weight(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let correction = RolloutCorrection::weigh(RolloutWeight::truncate(RANGE));
    let objective = clip_with(|it| it.rollout_correction = Some(correction));
    gradient(bencher, shape, objective);
}

#[divan::bench(args = SHAPES)]
fn clip_with_filtered_weight_of_sequence(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let weight = RolloutWeight::truncate(RANGE).of_level(WeightLevel::Geometric);
    let filter = Filter::new(FilterLevel::SequenceMean, FilterEstimator::K3, RANGE);
    let correction = RolloutCorrection::weigh(weight).with_filter(filter);
    let objective = clip_with(|it| it.rollout_correction = Some(correction));
    gradient(bencher, shape, objective);
}

#[divan::bench(args = SHAPES)]
fn clip_with_penalty(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let objective = clip_with(|it| it.kl_penalty = Some(KlPenalty::new(0.1)));
    gradient(bencher, shape, objective);
}

#[divan::bench(args = SHAPES)]
fn geometric_mean(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let surrogate = Surrogate::from(GeometricMean::new(0.4, 0.4));
    gradient(bencher, shape, clip_with(|it| it.surrogate = surrogate));
}

/// What the backward pass does: the gradient, scaled where it is.
#[divan::bench(args = SHAPES)]
fn scaled_gradient(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let client = cubecl::Device::default().client();
    let objective = clip_with(|_| {});
    let outputs = forward(&client, &objective, &batch(&client, shape), None, true);
    let mut gradient = Some(outputs.gradient);
    bencher
        .counter(ItemsCount::new(shape.0 * shape.1))
        .bench_local(|| {
            let unscaled = gradient.take().expect("it is put back");
            let scaled = backward(&client, unscaled, &outputs.factor, &outputs.loss);
            wait(&client);
            gradient = Some(scaled);
        });
}
