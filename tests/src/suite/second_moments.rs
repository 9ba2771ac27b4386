//! How far tokens may have moved away, as a mean of squares: which are dropped, and which clipped.

use burn::tensor::Tensor;
use policy_loss::{
    GlobalTotals, PolicyLossConfig, SecondMomentClip, SecondMomentMask, within_second_moment,
};

use crate::case::HostAdvantages;
use crate::compare::assert_names;
use crate::row::Row;
use crate::runner::{Runner, values};

/// Log-ratios of which the first four move away; the squares of these are 0.01, 0.04, 0.09, 0.25.
const LOG_RATIOS: [f64; 6] = [0.1, -0.2, 0.3, -0.5, -2.0, 3.0];
const ADVANTAGES: [f64; 6] = [1.0, -1.0, 2.0, -2.0, 1.0, 0.0];

fn row(name: &str, config: PolicyLossConfig) -> Row {
    Row::new(name, &LOG_RATIOS)
        .advantages(HostAdvantages::Token(ADVANTAGES.to_vec()))
        .config(config)
}

/// What tokens give that are neither dropped nor clipped: the sum, and each.
fn free(without: &[usize]) -> (f64, [f64; 6]) {
    let each = std::array::from_fn(|i| match without.contains(&i) {
        true => 0.0,
        false => -LOG_RATIOS[i].exp() * ADVANTAGES[i] / 6.0,
    });
    (each.iter().sum(), each)
}

/// The furthest are dropped until the mean of the rest is small enough; it may be as large as the
/// threshold.
pub fn masks(runner: &Runner) {
    // Means: 0.01, 0.025, 0.0467, 0.0975.
    for (threshold, dropped) in [
        (0.1, &[][..]),
        (0.09, &[3]),
        (0.03, &[2, 3]),
        (0.011, &[1, 2, 3]),
        (0.001, &[0, 1, 2, 3]),
    ] {
        let config = PolicyLossConfig::new().with_surrogate(SecondMomentMask::new(threshold));
        let (loss, gradient) = free(dropped);
        row(&format!("a mask of {threshold}"), config)
            .loss(loss)
            .gradient(&gradient)
            .metric("clip_ratio", dropped.len() as f64 / 6.0)
            .check(runner);
    }
    // Of two that are as far, none is left.
    let config = PolicyLossConfig::new().with_surrogate(SecondMomentMask::new(0.1));
    let ratio = 0.25_f64.exp();
    Row::new("a tie", &[0.25, 0.5, 0.5])
        .config(config)
        .loss(-ratio / 3.0)
        .gradient(&[-ratio / 3.0, 0.0, 0.0])
        .check(runner);
    Row::new("padding", &[0.25, 9.0, 0.25])
        .config(config)
        .mask(&[true, false, true])
        .loss(-ratio)
        .check(runner);
}

/// The largest square that all squares may be moved back to: its token lies on the bound.
pub fn clips(runner: &Runner) {
    let config = |threshold: f64, low: f64, high: f64| {
        PolicyLossConfig::new().with_surrogate(SecondMomentClip::new(threshold, low, high))
    };
    // Means of the lesser: 0.01, 0.0325, 0.0575, 0.0975.
    for (name, threshold, cap, clipped) in [
        ("all within", 0.1, 9.0, &[][..]),
        ("the third", 0.06, 0.3, &[2, 3]),
        ("the second", 0.04, 0.2, &[1, 2, 3]),
        ("none", 0.005, 0.0, &[0, 1, 2, 3]),
    ] {
        let (loss, gradient) = free(clipped);
        let bounded = |i: &usize| {
            let bound = if ADVANTAGES[*i] > 0.0 { cap } else { -cap };
            -f64::exp(bound) * ADVANTAGES[*i] / 6.0
        };
        let loss = loss + clipped.iter().map(bounded).sum::<f64>();
        row(name, config(threshold, 0.0, 0.0))
            .loss(loss)
            .gradient(&gradient)
            .metric("clip_ratio", clipped.len() as f64 / 6.0)
            .check(runner);
    }
    // A range that may not be so narrow: 1 - 0.35 is above exp(-0.5), and exp(0.3) is within 1 + 0.4.
    let (loss, gradient) = free(&[3]);
    row("floors", config(0.04, 0.35, 0.4))
        .loss(loss + 0.65 * 2.0 / 6.0)
        .gradient(&gradient)
        .check(runner);
}

/// A part of a batch is told the limit of the whole; without it, it is refused.
pub fn limits(runner: &Runner) {
    let totals = GlobalTotals::new().with_tokens(12);
    let part = |config: PolicyLossConfig, limit: Option<f64>| {
        let mut row = row("a part", config);
        row.case.totals = Some(totals);
        row.case.second_moment_limit = limit;
        row
    };
    let mask = PolicyLossConfig::new().with_surrogate(SecondMomentMask::default());
    let clip = PolicyLossConfig::new().with_surrogate(SecondMomentClip::new(1.0, 0.0, 0.0));
    for (limit, dropped) in [
        (f64::INFINITY, &[][..]),
        (0.25, &[3]),
        // As good as on it.
        (0.25 * (1.0 + 1e-7), &[3]),
        (0.0, &[0, 1, 2, 3]),
    ] {
        let (loss, gradient) = free(dropped);
        let gradient = gradient.map(|of_token| of_token / 2.0);
        part(mask, Some(limit))
            .loss(loss / 2.0)
            .gradient(&gradient)
            .check(runner);
        part(clip, Some(limit)).gradient(&gradient).check(runner);
    }
    if !runner.covers(&mask) {
        return;
    }
    for config in [mask, clip] {
        let missing = [
            "`second_moment_limit` is missing",
            "`totals`",
            "with_second_moment_limit",
        ];
        assert_names(runner.refusal(&part(config, None).case), &missing);
        for limit in [-1.0, f64::NAN] {
            let error = runner.refusal(&part(config, Some(limit)).case);
            let names = ["`second_moment_limit`", &limit.to_string(), "0 or above"];
            assert_names(error, &names);
        }
    }
}

/// The action mask: a mean below the threshold, one token at least, and what is not known.
pub fn action_masks(runner: &Runner) {
    let dtype = runner.exact_dtypes()[0];
    let run = |log_ratios: &[f64], mask: Option<&[bool]>, threshold: f64| {
        let shape = [1, log_ratios.len()];
        let log_ratios: Tensor<2> = runner.tensor(log_ratios, shape, dtype);
        let mask = mask.map(|mask| runner.mask(mask, shape));
        within_second_moment(log_ratios, mask, threshold)
    };
    let kept = |log_ratios: &[f64], mask: Option<&[bool]>, threshold: f64| -> Vec<usize> {
        let mask = run(log_ratios, mask, threshold).expect("accepted");
        let mask = values(mask.float()).into_iter().enumerate();
        mask.filter(|(_, kept)| *kept == 1.0)
            .map(|(i, _)| i)
            .collect()
    };
    let gaps = [0.5, -0.25, 1.0, 0.0];
    assert_eq!(kept(&gaps, None, 0.33), [0, 1, 2, 3], "{runner}");
    assert_eq!(kept(&gaps, None, 0.2), [0, 1, 3], "{runner}");
    // A mean is not below itself.
    assert_eq!(kept(&gaps, None, 0.03125), [3], "{runner}");
    assert_eq!(kept(&gaps[..3], None, 1e-3), [1], "{runner}");
    let mask = [true, false, true, false];
    assert_eq!(kept(&gaps, Some(&mask), 0.3), [0], "{runner}");
    let garbage = [0.5, f64::NAN, 1.0, f64::INFINITY];
    assert_eq!(kept(&garbage, Some(&mask), 0.3), [0], "{runner}");
    assert_eq!(kept(&garbage, None, 0.3), [0, 1], "{runner}");
    assert!(kept(&gaps, Some(&[false; 4]), 0.3).is_empty(), "{runner}");
    assert!(kept(&[], None, 0.3).is_empty(), "{runner}");
    for threshold in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = run(&gaps, None, threshold).expect_err("refused");
        assert_names(error, &["`threshold`", &threshold.to_string(), "above 0"]);
    }
    let wide: Tensor<2> = runner.tensor(&[0.0; 6], [2, 3], dtype);
    let mask = wide.clone().equal_elem(0).reshape([3, 2]);
    let error = within_second_moment(wide, Some(mask), 0.1);
    assert_names(error.expect_err("refused"), &["[3, 2]"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_one_of_the_squares() {
        let squares = [0.25, 0.01, f64::NAN, 0.09, 0.04];
        let mask = |threshold: f64| SecondMomentMask::new(threshold).limit(squares);
        assert_eq!(mask(0.1), f64::INFINITY);
        assert_eq!(mask(0.03), 0.09);
        assert_eq!(mask(0.001), 0.01);
        let clip = |threshold: f64| SecondMomentClip::new(threshold, 0.0, 0.0).limit(squares);
        assert_eq!(clip(0.1), f64::INFINITY);
        assert_eq!(clip(0.06), 0.09);
        assert_eq!(clip(0.005), 0.0);
        assert_eq!(SecondMomentMask::default().limit([]), f64::INFINITY);
        assert_eq!(SecondMomentClip::default().limit([]), f64::INFINITY);
    }
}
