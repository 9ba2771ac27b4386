//! Time of the CubeCL kernels by themselves, from the first launch to the end of the device's work.
//!
//! Reported throughput is in tokens: 1 Gitem/s is 1 ns for each token. What the first call of a
//! benchmark compiles is not in it: the samples are taken afterwards.

use cubecl::client::Client;
use cubecl::future::block_on;
use cubecl::ir::{ElemType, FloatKind, UIntKind};
use divan::counter::ItemsCount;
use divan::{Bencher, main};
use policy_loss_kernels::cube::{Advantages, Batch, Buffer, backward, forward};
use policy_loss_kernels::{
    Clip, Correction, Estimator, FilterEstimator, FilterLevel, Objective, Penalty, PenaltyGradient,
    Range, RatioBase, RatioLevel, Reduction, Surrogate, Weight, WeightLevel, WeightMode,
};

const SHAPES: [(usize, usize); 3] = [(64, 1024), (256, 4096), (1, 1 << 18)];

const TOKEN: Objective = Objective {
    ratio_level: RatioLevel::Token,
    ratio_base: RatioBase::Old,
    surrogate: Surrogate::Clip(Clip {
        low: 0.2,
        high: 0.28,
        dual: None,
    }),
    correction: None,
    off_policy: None,
    penalty: None,
    reduction: Reduction::TokenMean,
    scale: None,
};

const RANGE: Range = Range {
    low: 0.5,
    high: 2.0,
};

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
        log_probs: floats(log_probs),
        old_log_probs: floats(old.clone()),
        rollout_log_probs: Some(floats(rollout)),
        weights: None,
        ref_log_probs: Some(floats(reference)),
        advantages: Advantages::PerToken(floats(advantages)),
        mask: Some(Buffer {
            handle: client.create_from_slice(&mask),
            element: ElemType::UInt(UIntKind::U32),
        }),
    }
}

/// Loss, metrics and gradient.
fn gradient(bencher: Bencher<'_, '_>, shape: (usize, usize), objective: Objective) {
    let client = cubecl::Device::default().client();
    let batch = batch(&client, shape);
    let visit = || {
        let outputs = forward(&client, &objective, batch.clone(), true);
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
    gradient(bencher, shape, TOKEN);
}

#[divan::bench(args = SHAPES)]
fn clip_of_sequence_ratio(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let ratio_level = RatioLevel::Sequence;
    let objective = Objective {
        ratio_level,
        ..TOKEN
    };
    gradient(bencher, shape, objective);
}

#[divan::bench(args = SHAPES)]
fn clip_with_truncated_weight(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let correction = Some(Correction::of_tokens(WeightMode::Truncate(RANGE)));
    let objective = Objective {
        correction,
        ..TOKEN
    };
    gradient(bencher, shape, objective);
}

#[divan::bench(args = SHAPES)]
fn clip_with_filtered_weight_of_sequence(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let weight = Weight::Ratio {
        level: WeightLevel::Geometric,
        mode: WeightMode::Truncate(RANGE),
    };
    let (level, estimator) = (FilterLevel::SequenceMean, FilterEstimator::K3);
    let correction = Correction::weigh(weight).with_filter(level, estimator, RANGE);
    let objective = Objective {
        correction: Some(correction),
        ..TOKEN
    };
    gradient(bencher, shape, objective);
}

#[divan::bench(args = SHAPES)]
fn clip_with_penalty(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let penalty = Some(Penalty {
        coefficient: 0.1,
        estimator: Estimator::K3,
        gradient: PenaltyGradient::Estimator,
    });
    gradient(bencher, shape, Objective { penalty, ..TOKEN });
}

#[divan::bench(args = SHAPES)]
fn geometric_mean(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let surrogate = Surrogate::GeometricMean {
        low: 0.4,
        high: 0.4,
    };
    gradient(bencher, shape, Objective { surrogate, ..TOKEN });
}

/// What the backward pass does: the gradient, scaled where it is.
#[divan::bench(args = SHAPES)]
fn scaled_gradient(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let client = cubecl::Device::default().client();
    let outputs = forward(&client, &TOKEN, batch(&client, shape), true);
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
