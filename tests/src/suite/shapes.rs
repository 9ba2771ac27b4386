//! Shapes at the edges of what kernels divide among threads, and the same bits in every run.

use policy_loss::device::Hardware;
use policy_loss::{
    Clip, EntropyMask, FutureWeight, Implementation, KlGradient, KlPenalty, PolicyLossConfig,
    Ratio, Reduction, presets,
};

use crate::busy::busy;
use crate::case::{Case, HostAdvantages};
use crate::compare::{Tolerance, assert_all_near, assert_metrics, assert_near, bits};
use crate::runner::Runner;
use policy_loss_oracle::Random;

/// Rows that are no multiple of a vector, one token each, longer and more than anything that is
/// handed out at once.
const SHAPES: [[usize; 2]; 7] = [
    [3, 127],
    [1, 100_001],
    [65_537, 2],
    [1, 2],
    [5, 3],
    [2, 1025],
    [130, 129],
];

/// Tokens for themselves, and tokens that need to know their whole sequence.
fn kinds() -> [PolicyLossConfig; 4] {
    let token = PolicyLossConfig::new().with_surrogate(Clip::new(0.2, 0.28).with_dual_clip(1.5));
    let sequence = PolicyLossConfig::new()
        .with_ratio(Ratio::SEQUENCE)
        .with_rollout_correction(presets::seq_mask_tis(0.9, 1.1))
        .with_kl_penalty(KlPenalty::new(0.1))
        .with_reduction(Reduction::SequenceMean);
    let prompt = token
        .with_reduction(Reduction::PromptMean)
        .with_entropy_mask(EntropyMask::new(0.5));
    let segment = token
        .with_ratio(Ratio::SEGMENT)
        .with_future_weight(FutureWeight::new(0.1))
        .with_kl_penalty(KlPenalty::new(0.1).with_gradient(KlGradient::ImportanceCorrected))
        .with_reduction(Reduction::SequenceMean);
    [token, sequence, prompt, segment]
}

/// Ratios around 1, some of them clipped; a mask with holes and empty rows, or none.
fn case(shape: [usize; 2], masked: bool) -> Case {
    let [sequences, tokens] = shape;
    let mut random = Random(11);
    let mut case = Case::new(format!("{sequences} x {tokens}, masked: {masked}"), shape);
    let length = sequences * tokens;
    let mut list =
        |low, high| -> Vec<f64> { (0..length).map(|_| random.between(low, high)).collect() };
    case.old_log_probs = list(-3.0, -0.1);
    let (log_ratio, gap, advantages) = (list(-0.4, 0.5), list(-0.3, 0.3), list(-1.0, 2.0));
    let moved = |by: &[f64]| -> Vec<f64> {
        case.old_log_probs
            .iter()
            .zip(by)
            .map(|(x, by)| x + by)
            .collect()
    };
    case.log_probs = moved(&log_ratio);
    case.rollout_log_probs = Some(moved(&gap));
    case.advantages = HostAdvantages::Token(advantages);
    case.ref_log_probs = Some(moved(&list(-0.3, 0.3)));
    case.entropies = Some(list(0.0, 2.0));
    case.prompt_ids = Some((0..sequences as i64).map(|row| row / 3).collect());
    if masked {
        let valid = |i: usize| i % 7 != 2 && (i / tokens) % 5 != 3;
        case.action_mask = Some((0..length).map(valid).collect());
        let turn = |i: usize| ((i % tokens) / 50) as i64;
        // Those of others are the runs between masked tokens.
        if sequences % 2 == 1 {
            case.segment_ids = Some((0..length).map(turn).collect());
        }
    }
    case
}

/// Whether Burn's own backward pass is wrong there: a software renderer ends loops after 65,536
/// turns, and the gradient of what a row shares is summed up over the row in one. The fused
/// implementation has no such loop.
fn ends_early(runner: &Runner, [_, tokens]: [usize; 2]) -> bool {
    runner.hardware == Hardware::SoftwareRenderer
        && runner.is_tracked()
        && runner.implementation == Implementation::Composed
        && tokens > 1 << 16
}

/// Every shape against the oracle.
pub fn of_every_size(runner: &Runner) {
    let shapes = match runner.is_slow() {
        // The last are rows that a device cuts into pieces, and a software renderer goes through.
        true => vec![SHAPES[0], SHAPES[1], SHAPES[2], [2, 20_001]],
        false => SHAPES.to_vec(),
    };
    for shape in shapes {
        if ends_early(runner, shape) {
            continue;
        }
        let is_large = shape[0] * shape[1] > 1 << 10;
        let masks: &[bool] = match runner.is_slow() && is_large {
            true => &[true],
            false => &[true, false],
        };
        for &masked in masks {
            for config in kinds() {
                if !runner.covers(&config) {
                    continue;
                }
                let case = case(shape, masked).with_config(config);
                for dtype in runner.exact_dtypes() {
                    let what = format!("{runner}, {dtype:?}, {}", case.name);
                    let outcome = runner.outcome(&case, dtype);
                    let expected = case.rounded(dtype, dtype).answer();
                    // A hundred thousand addends in one loop: the oracle itself is off by that much.
                    let value = Tolerance::value(dtype).at_least(1e-11);
                    assert_near(value, &format!("{what}: loss"), outcome.loss, expected.loss);
                    assert_metrics(value, &what, &outcome.metrics, &expected.metrics);
                    if let Some(gradient) = &outcome.gradient {
                        // Elements are as small as 1 / n: so is what counts as near 0.
                        let length = (shape[0] * shape[1]) as f64;
                        let tolerance = Tolerance {
                            relative: value.relative,
                            absolute: value.relative / length,
                        };
                        let what = format!("{what}: gradient");
                        assert_all_near(tolerance, &what, gradient, &expected.gradient);
                    }
                }
            }
        }
    }
}

/// A second run gives the same bits: no sum depends on which thread came first.
pub fn the_same_bits_again(runner: &Runner) {
    let long = match runner.is_slow() {
        true => [2, 20_001],
        false => [1, 70_001],
    };
    for case in [busy(5), case([3, 5_000], true), case(long, false)] {
        for config in kinds() {
            if !runner.covers(&config) {
                continue;
            }
            let case = case.clone().with_config(config);
            for dtype in runner.exact_dtypes() {
                let first = bits(&runner.outcome(&case, dtype));
                let again = bits(&runner.outcome(&case, dtype));
                assert_eq!(first, again, "{runner}, {dtype:?}, {}", case.name);
            }
        }
    }
}
