//! What the value loss is, for every batch.

use burn::tensor::{DType, Tensor};
use policy_loss::{
    BatchError, GlobalTotals, Reduction, ValueBatch, ValueLossConfig, ValueLossOutput,
};

use crate::compare::{Tolerance, assert_all_near, assert_names, assert_near};
use crate::runner::{Runner, values};
use crate::value_loss::case::{Case, configs};
use crate::value_loss::oracle::Answer;
use policy_loss_oracle::Random;

/// `B` and `T`: nothing, one, and several.
const SHAPES: [[usize; 2]; 7] = [[0, 0], [0, 3], [2, 0], [1, 1], [1, 6], [5, 1], [4, 7]];

/// Random batches of every shape, in every type.
pub fn agrees_with_the_oracle(runner: &Runner) {
    let (shapes, seeds) = match runner.is_slow() {
        true => (&SHAPES[6..], 0..2),
        false => (&SHAPES[..], 0..8),
    };
    for config in runner.share(configs()) {
        for shape in shapes {
            for seed in seeds.clone() {
                let case = Case::random(config, *shape, seed);
                let half = runner.half_dtypes();
                for dtype in runner.exact_dtypes().into_iter().chain(half) {
                    case.check(runner, dtype);
                }
            }
        }
    }
}

fn bits(answer: &Answer) -> Vec<u64> {
    let metrics = answer.metrics.iter().map(|(_, value)| *value);
    let lists = [&answer.gradient, &answer.token_losses];
    std::iter::once(answer.loss)
        .chain(metrics)
        .chain(lists.into_iter().flatten().copied())
        .map(f64::to_bits)
        .collect()
}

/// Whatever stands at masked positions changes no bit, and has gradient exactly 0.
pub fn masked_content_changes_nothing(runner: &Runner) {
    let kinds = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e30, -1e30, 7.0];
    let mut put = 0;
    for config in runner.share(configs()) {
        for seed in 0..3 {
            let clean = Case::random(config, [4, 7], seed);
            let mut case = clean.clone();
            let mut kind = kinds.iter().cycle();
            for i in (0..case.values.len()).filter(|i| !clean.is_valid(*i)) {
                case.values[i] = *kind.next().expect("endless");
                case.returns[i] = *kind.next().expect("endless");
                case.old_values[i] = *kind.next().expect("endless");
                put += 1;
            }
            for dtype in runner.exact_dtypes() {
                let (one, two) = (clean.run(runner, dtype), case.run(runner, dtype));
                assert_eq!(bits(&one), bits(&two), "{runner}, {dtype:?}, {config:?}");
                for (i, gradient) in two.gradient.iter().enumerate() {
                    assert!(case.is_valid(i) || *gradient == 0.0, "{runner}: [{i}]");
                }
            }
        }
    }
    assert!(put > 10);
}

/// A batch of nothing but garbage, with and without totals.
pub fn nothing_valid(runner: &Runner) {
    for config in configs() {
        let mut case = Case::new(config, [2, 3]);
        case.values = vec![f64::NAN; 6];
        case.returns = vec![f64::INFINITY; 6];
        case.old_values = vec![1e30; 6];
        case.mask = Some(vec![false; 6]);
        let totals = GlobalTotals::new().with_tokens(10).with_sequences(4);
        for totals in [None, Some(totals)] {
            case.totals = totals;
            for dtype in runner.exact_dtypes() {
                for bits in bits(&case.run(runner, dtype)) {
                    assert_eq!(f64::from_bits(bits), 0.0, "{runner}, {dtype:?}, {config:?}");
                }
            }
        }
    }
}

/// For any split of a batch into shards, their losses and gradients add up to the whole.
pub fn shards_add_up(runner: &Runner) {
    let dtype = runner.exact_dtypes()[0];
    for config in runner.share(configs()) {
        let whole = Case::random(config, [9, 4], 1);
        let host = whole.run(runner, dtype);
        let metric = |name: &str| {
            let found = host.metrics.iter().find(|(known, _)| *known == name);
            found.expect(name).1 as usize
        };
        for (ranks, parts) in [(1, 3), (2, 2), (3, 5)] {
            let totals = GlobalTotals::new()
                .with_tokens(metric("valid_tokens"))
                .with_sequences(metric("valid_sequences"))
                .with_world_size(ranks);
            let mut random = Random(parts as u64);
            let mut shards = vec![Vec::new(); parts];
            for row in 0..whole.sequences {
                shards[random.below(parts)].push(row);
            }
            let (mut loss, mut gradient) = (0.0, vec![0.0; whole.values.len()]);
            for rows in shards {
                let mut shard = whole.rows(&rows);
                shard.totals = Some(totals);
                let part = shard.run(runner, dtype);
                // Averaging across ranks divides by their number.
                loss += part.loss / ranks as f64;
                for (nth, local) in part.gradient.iter().enumerate() {
                    let i = rows[nth / whole.tokens] * whole.tokens + nth % whole.tokens;
                    gradient[i] += local / ranks as f64;
                }
            }
            let what = format!("{runner}, {ranks} ranks, {parts} parts, {config:?}");
            let tolerance = Tolerance::value(dtype);
            assert_near(tolerance, &what, loss, host.loss);
            if runner.is_tracked() {
                assert_all_near(tolerance, &what, &gradient, &host.gradient);
            }
        }
    }
}

/// Non-finite values at valid positions are counted, and reach the loss where they are read.
pub fn non_finite_values_are_seen(runner: &Runner) {
    for dtype in runner.exact_dtypes() {
        for input in 0..3 {
            let mut case = Case::random(ValueLossConfig::new(), [2, 3], 3);
            let inputs = [&mut case.values, &mut case.returns, &mut case.old_values];
            let [values, returns, old_values] = inputs;
            [values, returns, old_values][input][4] = f64::NAN;
            let answer = case.run(runner, dtype);
            let (_, count) = answer.metrics[answer.metrics.len() - 1];
            assert_eq!(count, 1.0, "{runner}, {dtype:?}, input {input}");
            // An old value that is NaN bounds nothing.
            assert_eq!(answer.loss.is_nan(), input < 2, "{runner}, input {input}");
        }
    }
}

/// Each metric on its own is what reading all of them gives.
pub fn metrics_one_by_one(runner: &Runner) {
    let case = Case::random(ValueLossConfig::new(), [4, 7], 2);
    let dtype = runner.exact_dtypes()[0];
    let loss = case.config.init().expect("sound");
    let batch = case.batch(runner, case.leaf(runner, dtype), dtype);
    let ValueLossOutput { metrics, .. } = loss.forward(batch).expect("accepted");
    let read = metrics.read().expect("the metrics can be read");
    let single = [
        metrics.clip_fraction(),
        metrics.value_mean(),
        metrics.return_mean(),
        metrics.squared_error(),
        metrics.explained_variance(),
        metrics.valid_tokens(),
        metrics.valid_sequences(),
        metrics.non_finite(),
    ];
    for ((name, expected), tensor) in read.named().into_iter().zip(single) {
        assert_eq!(values(tensor), [expected], "{runner}: {name}");
    }
}

/// What a batch is refused for.
pub fn errors(runner: &Runner) {
    let zeros = |shape: [usize; 2]| Tensor::<2>::zeros(shape, &runner.device);
    let right = || zeros([2, 3]);
    let wrong = || zeros([3, 2]);
    let new = || ValueBatch::new(right(), right()).with_old_values(right());
    let there = || Tensor::<2>::zeros([2, 3], &runner.elsewhere());
    let totals = |totals: GlobalTotals| new().with_totals(totals);
    let cases: Vec<(ValueBatch, &[&str])> = vec![
        (
            ValueBatch::new(right(), wrong()).with_old_values(right()),
            &["`returns`", "[3, 2]", "[2, 3]", "`values`"],
        ),
        (new().with_old_values(wrong()), &["`old_values`", "[3, 2]"]),
        (
            new().with_action_mask(wrong().equal_elem(0)),
            &["`action_mask`", "[3, 2]"],
        ),
        (
            ValueBatch::new(right(), right()),
            &["`old_values`", "`clip`", "ValueBatch::with_old_values"],
        ),
        (
            ValueBatch::new(right(), there()).with_old_values(right()),
            &["`returns`", "`values`", "to_device"],
        ),
        (
            totals(GlobalTotals::new().with_world_size(2)),
            &["totals.tokens", "missing"],
        ),
        (
            totals(GlobalTotals::new().with_tokens(0)),
            &["totals.tokens"],
        ),
        (
            totals(GlobalTotals::new().with_sequences(3)),
            &["totals.tokens", "missing"],
        ),
    ];
    let loss = ValueLossConfig::new().init().expect("sound");
    for (batch, parts) in cases {
        let unreduced = loss.forward_no_reduction(batch.clone()).err();
        let error = loss.forward(batch).expect_err("the batch is refused");
        assert_eq!(unreduced.as_ref(), Some(&error), "{runner}");
        assert_names(&error, parts);
    }
    // What is not read is checked all the same.
    let unclipped = ValueLossConfig::new()
        .with_clip(None)
        .init()
        .expect("sound");
    let error = unclipped.forward(new().with_old_values(wrong()));
    assert!(matches!(error, Err(BatchError::Shape { .. })), "{runner}");
    let by_sequence = ValueLossConfig::new().with_reduction(Reduction::SequenceMean);
    let error = by_sequence
        .init()
        .expect("sound")
        .forward(totals(GlobalTotals::new().with_tokens(3)));
    assert!(matches!(error, Err(BatchError::Totals { .. })), "{runner}");
    if !policy_loss::device::computes(&runner.device, DType::BF16) && runner.backend != "ndarray" {
        let odd = Tensor::<2>::empty([2, 3], (&runner.device, DType::BF16));
        let error = unclipped.forward(ValueBatch::new(right(), odd));
        assert!(matches!(error, Err(BatchError::Dtype { .. })), "{runner}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both branches are taken, outside of both bounds.
    #[test]
    fn random_batches_are_rich() {
        let mut seen = [0; 4];
        for seed in 0..8 {
            let case = Case::random(ValueLossConfig::new(), [4, 7], seed);
            let answer = case.answer(DType::F64);
            for i in (0..28).filter(|i| case.is_valid(*i)) {
                let moved = case.values[i] - case.old_values[i];
                let is_clipped = answer.gradient[i] == 0.0;
                if moved.abs() > 0.2 {
                    let at = usize::from(moved > 0.0) * 2 + usize::from(is_clipped);
                    seen[at] += 1;
                }
            }
        }
        assert!(seen.iter().all(|count| *count > 5), "{seen:?}");
    }
}
