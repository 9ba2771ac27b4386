//! What is looked at only when it is asked for.

use burn::tensor::{Bool, DType, Tensor};
use policy_loss::{
    Clip, GradientMass, Histogram, Inspection, MissingRolloutLogProbs, PolicyLossConfig,
    TokenDetails,
};

use crate::busy::busy;
use crate::case::Case;
use crate::compare::{Tolerance, assert_near};
use crate::configs::describe;
use crate::runner::{Runner, values};

/// The inspection of a case.
///
/// # Panics
///
/// It is refused.
pub fn inspection(runner: &Runner, case: &Case, dtype: DType) -> Inspection {
    let batch = runner.batch(case, runner.leaf(case, dtype), dtype);
    let inspection = runner.init(&case.config).inspect(batch);
    inspection.unwrap_or_else(|error| panic!("{runner}: {} was refused: {error}", case.name))
}

/// The masses of a gradient by name.
pub fn masses(mass: GradientMass) -> [(&'static str, f64); 5] {
    [
        ("kept", mass.kept),
        ("truncated", mass.truncated),
        ("clipped", mass.clipped),
        ("dropped", mass.dropped),
        ("masked", mass.masked),
    ]
}

/// Counts are those of what is told of each token, and masses are the oracle's gradient of `r A`, by
/// what is told of each token; they are read with the metrics as they are read alone.
pub fn counts_and_masses(runner: &Runner) {
    for config in runner.share(runner.some_configs()) {
        let case = busy(3).with_config(config);
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", describe(&config));
            let lazy = inspection(runner, &case, dtype);
            let read = lazy.read().expect(&what);
            let batch = || runner.batch(&case, runner.leaf(&case, dtype), dtype);
            let loss = runner.init(&config);
            let output = runner.forward(&what, &loss, batch());
            let alone = output.read().expect(&what);
            let both = output.read_with(&lazy).expect(&what);
            assert_eq!(both, (alone, read.clone()), "{what}");
            let both = output.metrics.read_with(&lazy).expect(&what);
            assert_eq!(both, (alone.metrics, read.clone()), "{what}");

            let details = loss.token_details(batch()).expect(&what);
            let logarithms = |x: Tensor<2>| values(x.log());
            let expected = counts(&case, &logarithms(details.ratio.clone()));
            assert_eq!(read.log_ratio.counts(), expected, "{what}: ratio");
            let weight = details.weight.clone().map(logarithms);
            assert_eq!(
                read.log_weight.as_ref().map(Histogram::counts),
                weight.map(|weight| counts(&case, &weight)).as_deref(),
                "{what}: weight"
            );
            let rounded = case.rounded(dtype, dtype);
            let gap = rounded.old_log_probs.iter();
            let gap = gap.zip(rounded.rollout_log_probs.as_ref().expect("it has some"));
            let gap: Vec<f64> = gap.map(|(old, rollout)| old - rollout).collect();
            let read_gap = read.rollout_gap.as_ref().map(Histogram::counts);
            assert_eq!(read_gap, Some(&counts(&case, &gap)[..]), "{what}: gap");

            let expected = masses(fates(&case.rounded(dtype, dtype), &details)).into_iter();
            let shares = masses(read.gradient.shares());
            for ((name, share), (_, expected)) in shares.into_iter().zip(expected) {
                let what = format!("{what}: {name}");
                assert_near(Tolerance::value(dtype), &what, share, expected);
            }
            let lost = shares[2].1 + shares[3].1 + shares[4].1;
            assert_near(Tolerance::of(1e-12), &what, read.gradient.lost(), lost);
        }
    }
}

/// Counts of the valid ones.
fn counts(case: &Case, logarithms: &[f64]) -> Vec<u64> {
    let edges = Histogram::edges();
    let mut counts = vec![0; edges.len() + 1];
    for (i, logarithm) in logarithms.iter().enumerate() {
        if case.is_valid(i) {
            let reached = edges.iter().filter(|edge| logarithm >= *edge).count();
            counts[reached] += 1;
        }
    }
    counts
}

/// The shares of the gradient that there would be without bounds.
fn fates(case: &Case, details: &TokenDetails) -> GradientMass {
    let objective = case.config.objective;
    let mut unbounded = PolicyLossConfig::new()
        .with_ratio(objective.ratio)
        .with_reduction(objective.reduction)
        .with_surrogate(Clip::new(1e30, 1e30));
    if unbounded.objective.reads_rollout() {
        unbounded.objective.missing_rollout_log_probs = MissingRolloutLogProbs::UseOld;
    }
    let gradient = case.clone().with_config(unbounded).answer().gradient;
    let told = |condition: &Option<Tensor<2, Bool>>| match condition {
        Some(condition) => values(condition.clone().float()),
        None => vec![0.0; gradient.len()],
    };
    let drops = objective.missing_rollout_log_probs == MissingRolloutLogProbs::Drop;
    let missing = details.missing_rollout_log_probs.clone();
    let missing = told(&missing.filter(|_| drops));
    let [off_policy, low_entropy] =
        [&details.off_policy_dropped, &details.low_entropy_dropped].map(told);
    let [zeroed, truncated] = [&details.weight_zeroed, &details.weight_truncated].map(told);
    let [clipped, dual] = [&Some(details.clipped.clone()), &details.dual_clipped].map(told);
    let mut mass = GradientMass::default();
    for (i, slope) in gradient.iter().enumerate() {
        let fate = match () {
            () if off_policy[i] + low_entropy[i] > 0.0 => &mut mass.masked,
            () if zeroed[i] + missing[i] > 0.0 => &mut mass.dropped,
            () if clipped[i] + dual[i] > 0.0 => &mut mass.clipped,
            () if truncated[i] > 0.0 => &mut mass.truncated,
            () => &mut mass.kept,
        };
        *fate += slope.abs();
    }
    mass.shares()
}

/// Every value lies between the edges that the documentation names, those beyond them and infinities
/// included; NaN is in no count, and makes no mass.
pub fn every_size(runner: &Runner) {
    let dtype = runner.exact_dtypes()[0];
    let log_ratios = [0.0, 1.5e-4, -1.5e-4, 0.3, -0.3, 15.0, -15.0, 19.0, f64::NAN];
    let mut case = Case::new("sizes", [1, log_ratios.len()]);
    case.log_probs = log_ratios.to_vec();
    let gaps = [-25.0, 25.0, f64::INFINITY, f64::NEG_INFINITY];
    let mut rollout = vec![f64::NAN; log_ratios.len()];
    for (i, gap) in gaps.into_iter().enumerate() {
        rollout[i] = case.old_log_probs[i] - gap;
    }
    case.rollout_log_probs = Some(rollout);
    let read = inspection(runner, &case, dtype).read().expect("it is read");
    let counted = |histogram: &Histogram, place: usize| histogram.counts()[place];
    let sum = |histogram: &Histogram| histogram.counts().iter().sum::<u64>();
    let edges = Histogram::edges();
    assert!(edges.is_sorted() && edges.len() == 34, "{edges:?}");
    assert_eq!(sum(&read.log_ratio), 8, "{runner}: {read:?}");
    let middle = edges.len() / 2;
    for (place, expected) in [(middle, 1), (middle + 1, 1), (middle - 1, 1), (33, 2)] {
        let count = counted(&read.log_ratio, place);
        assert_eq!(count, expected, "{runner}: {place}: {read:?}");
    }
    let gap = read.rollout_gap.expect("there is a sampler");
    let ends = [counted(&gap, 0), counted(&gap, edges.len())];
    assert_eq!(ends, [2, 2], "{runner}: {gap:?}");
    assert_eq!(sum(&gap), 4, "{runner}: {gap:?}");
    assert_eq!(read.log_weight, None, "{runner}");
    let total: f64 = masses(read.gradient.shares())
        .map(|(_, mass)| mass)
        .iter()
        .sum();
    assert_near(Tolerance::of(1e-9), "the shares", total, 1.0);
}

/// More tokens than are compared with the edges at once are each counted once.
pub fn many_tokens(runner: &Runner) {
    let dtype = *runner.exact_dtypes().last().expect("there is one");
    let shape = [3, 40_000];
    let mut case = Case::new("many tokens", shape);
    let log_ratios = (0..shape[0] * shape[1]).map(|i| [0.03, -0.3, 3.0][i % 3]);
    case.log_probs = log_ratios.collect();
    let read = inspection(runner, &case, dtype).read().expect("it is read");
    let expected = counts(&case, &case.log_probs);
    assert_eq!(read.log_ratio.counts(), expected, "{runner}");
    assert_eq!(expected.iter().filter(|count| **count == 40_000).count(), 3);
}

/// A batch without a valid token, and one without a token, count nothing.
pub fn nothing_is_counted(runner: &Runner) {
    let dtype = runner.exact_dtypes()[0];
    let mut masked = busy(0);
    masked.action_mask = Some(vec![false; 24]);
    let mut empty = Case::new("empty", [0, 5]);
    empty.rollout_log_probs = Some(Vec::new());
    for case in [masked, empty] {
        let read = inspection(runner, &case, dtype).read().expect("it is read");
        let gap = read.rollout_gap.expect("there is a sampler");
        for histogram in [&read.log_ratio, &gap] {
            assert_eq!(histogram.counts(), [0; 35], "{runner}: {}", case.name);
        }
        let shares = masses(read.gradient.shares());
        assert!(shares.iter().all(|(_, share)| *share == 0.0), "{runner}");
        assert_eq!(read.gradient.lost(), 0.0, "{runner}");
    }
}
