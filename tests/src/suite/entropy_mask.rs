//! Tokens of low entropy: which are dropped, and what of a token that is.

use burn::tensor::DType;
use policy_loss::{
    EntropyBonus, EntropyMask, GlobalTotals, KlPenalty, PolicyBatch, PolicyLossConfig,
};

use crate::compare::assert_names;
use crate::row::Row;
use crate::runner::Runner;

fn masked(share: f64) -> PolicyLossConfig {
    PolicyLossConfig::new().with_entropy_mask(EntropyMask::new(share))
}

fn row(name: &str, share: f64, entropies: &[f64]) -> Row {
    let mut row = Row::new(name, &vec![0.0; entropies.len()]).config(masked(share));
    row.case.entropies = Some(entropies.to_vec());
    row
}

/// `1 + floor(share (n - 1))` tokens are kept, and those that tie with the last of them. A share of
/// whole tokens loses none to a rounding.
pub fn quantiles(runner: &Runner) {
    let entropies = [0.5, 0.1, 0.4, 0.4, 0.2];
    for (share, kept) in [
        (0.2, [1.0, 0.0, 0.0, 0.0, 0.0]),
        (0.25, [1.0, 0.0, 1.0, 1.0, 0.0]),
        (0.5, [1.0, 0.0, 1.0, 1.0, 0.0]),
        (0.75, [1.0, 0.0, 1.0, 1.0, 1.0]),
        (1.0, [1.0; 5]),
    ] {
        let count: f64 = kept.iter().sum();
        row(&format!("a share of {share}"), share, &entropies)
            .loss(-count / 5.0)
            .gradient(&kept.map(|kept: f64| 0.0 - kept / 5.0))
            .metric("low_entropy_dropped", 1.0 - count / 5.0)
            .check(runner);
    }
    row("no choice anywhere", 0.2, &[0.0; 3])
        .loss(-1.0)
        .check(runner);
    for share in [0.1, 0.3, 0.6, 0.7, 0.9] {
        let entropies: Vec<f64> = (0..11).map(|i| f64::from(i * 7 % 11) / 8.0).collect();
        row(&format!("{share} of 10 and 1"), share, &entropies)
            .metric("low_entropy_dropped", (10.0 - 10.0 * share) / 11.0)
            .check(runner);
    }
    // What is masked takes no part in the quantile.
    row("padding", 0.5, &[0.5, 0.1, f64::NAN, 9.0])
        .mask(&[true, true, false, false])
        .loss(-0.5)
        .check(runner);
}

/// A share of 1 keeps all, however many: the rounding is not to lead beyond the last.
pub fn all_of_many(runner: &Runner) {
    if runner.is_slow() || runner.is_tracked() {
        return;
    }
    let shape = [1, 1_100_000];
    let entropies: Vec<f64> = (0..shape[1]).map(|i| (i % 8) as f64).collect();
    let entropies = runner.tensor::<2>(&entropies, shape, DType::F32);
    let zeros = entropies.zeros_like();
    let batch = PolicyBatch::on_policy(zeros.clone(), zeros + 1.0).with_entropies(entropies);
    let output = runner.init(&masked(1.0)).forward(batch);
    let values = output.expect("it fits").read().expect("numbers");
    assert_eq!(values.loss, -1.0, "{runner}");
    assert_eq!(values.metrics.low_entropy_dropped, Some(0.0), "{runner}");
}

/// A dropped token keeps its KL penalty, and gets no bonus.
pub fn what_is_dropped(runner: &Runner) {
    let config = masked(0.5)
        .with_kl_penalty(KlPenalty::new(1.0))
        .with_entropy_bonus(EntropyBonus::new(2.0));
    let mut row = row("a penalty and a bonus", 0.5, &[0.5, 0.25]).config(config);
    row.case.ref_log_probs = Some(vec![-1.0; 2]);
    let kl = (-1_f64).exp_m1() + 1.0;
    row.loss((-1.0 - 2.0 * 0.5 + 2.0 * kl) / 2.0)
        .metric("entropy", 0.375)
        .check(runner);
}

/// A part of a batch is told the quantile of the whole; without it, it is refused.
pub fn thresholds(runner: &Runner) {
    let totals = GlobalTotals::new().with_tokens(10);
    let with = |threshold: Option<f64>| {
        let mut row = row("a part", 0.2, &[0.5, 0.1, 0.4]);
        row.case.totals = Some(totals);
        row.case.entropy_threshold = threshold;
        row
    };
    with(Some(0.4)).loss(-0.2).check(runner);
    with(Some(0.6)).loss(0.0).check(runner);
    with(Some(-1.0)).loss(-0.3).check(runner);
    let missing = [
        "`entropy_threshold` is missing",
        "`totals`",
        "with_entropy_threshold",
    ];
    assert_names(runner.refusal(&with(None).case), &missing);
    let error = runner.refusal(&with(Some(f64::NAN)).case);
    assert_names(error, &["`entropy_threshold` is NaN", "finite"]);
    let mut without = with(Some(0.4)).case;
    without.entropies = None;
    let error = runner.refusal(&without);
    assert_names(error, &["`entropies` is missing", "`entropy_mask`"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_one_of_the_entropies() {
        let mask = EntropyMask::new(0.25);
        let entropies = [0.3, f64::NAN, 0.9, 0.1, 0.5];
        assert_eq!(mask.threshold(entropies), Some(0.5));
        assert_eq!(mask.threshold([0.7]), Some(0.7));
        assert_eq!(EntropyMask::new(1.0).threshold(entropies), Some(0.1));
        assert_eq!(mask.threshold([]), None);
        assert_eq!(mask.threshold([f64::NAN]), None);
    }
}
