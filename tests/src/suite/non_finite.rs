//! What is not finite at a valid position is not hidden.

use policy_loss::{
    Bounds, KlBase, MissingRolloutLogProbs, OffPolicyMask, PolicyGradient, PolicyLossConfig,
    RolloutCorrection, RolloutWeight, Surrogate,
};

use crate::case::{COLUMNS, Case, HostAdvantages};
use crate::configs::describe;
use crate::runner::{Outcome, Runner};

/// One token of two sequences holds `value` in `input`; the last one is masked.
fn case(input: &str, value: f64) -> Case {
    let mut case = Case::new(format!("{input} = {value}"), [2, 3]);
    case.rollout_log_probs = Some(vec![0.1; 6]);
    case.ref_log_probs = Some(vec![-0.2; 6]);
    case.entropies = Some(vec![0.7; 6]);
    for (name, column) in case.columns_mut() {
        if name == input {
            column[4] = value;
        }
    }
    case.action_mask = Some(vec![true, true, true, true, true, false]);
    case
}

/// Whether the loss or a KL estimate shows it.
fn shows(outcome: &Outcome) -> bool {
    let metrics = &outcome.metrics;
    let mut seen = [outcome.loss, metrics.ppo_kl]
        .into_iter()
        .chain(metrics.rollout_kl);
    seen.any(|value| !value.is_finite())
}

/// It is counted, and it reaches the loss or a metric.
pub fn values_are_seen(runner: &Runner) {
    for config in runner.some_configs() {
        let objective = config.objective;
        let penalized_against = |base| {
            let penalty = objective.kl_penalty;
            penalty.is_some_and(|penalty| penalty.against == base)
        };
        // Without a correction, which has metrics of the gap.
        let against_rollout = objective.reads_rollout() && objective.rollout_correction.is_none();
        for input in COLUMNS {
            let is_rollout = input == "rollout_log_probs";
            let is_read = match input {
                "rollout_log_probs" => objective.reads_rollout(),
                "ref_log_probs" => penalized_against(KlBase::Reference),
                "entropies" => objective.reads_entropies(),
                _ => true,
            };
            if !is_read {
                continue;
            }
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                // That is a missing one, and has a test of its own.
                let stood_in_for =
                    objective.missing_rollout_log_probs != MissingRolloutLogProbs::Propagate;
                if is_rollout && value.is_nan() && stood_in_for {
                    continue;
                }
                let case = case(input, value).with_config(config);
                for dtype in runner.exact_dtypes() {
                    let outcome = runner.outcome(&case, dtype);
                    let config = describe(&config);
                    let what = format!("{runner}, {dtype:?}, {}, {config}", case.name);
                    assert_eq!(outcome.metrics.non_finite, 1.0, "{what}: non_finite");
                    // Against the rollout policy an infinite log-ratio is clamped like any other,
                    // and no metric holds the difference itself: there, the count is all.
                    let clamped = value.is_infinite()
                        && ((is_rollout && against_rollout) || input == "ref_log_probs");
                    // What a trust region drops takes no part in the loss.
                    let dropped = matches!(objective.surrogate, Surrogate::TrustRegion(_))
                        && outcome.metrics.clip_ratio > 0.0
                        && value.is_infinite()
                        && input == "advantages";
                    // An entropy mask looks where entropies stand, and not what they are.
                    let compared = input == "entropies" && objective.entropy_mask.is_some();
                    let is_told = clamped || dropped || compared;
                    assert!(is_told || shows(&outcome), "{what}: is hidden");
                    let at_the_mask = outcome.gradient.map_or(0.0, |gradient| gradient[5]);
                    assert_eq!(at_the_mask, 0.0, "{what}: reaches a masked token");
                }
            }
        }
    }
}

/// A ratio that is no number was neither moved to a bound nor dropped beyond one.
pub fn are_not_clipped(runner: &Runner) {
    for surrogate in [
        PolicyGradient::weighted(Bounds::at_most(5.0)),
        PolicyGradient::weighted_within(Bounds::new(0.5, 5.0)),
    ] {
        let config = PolicyLossConfig::new().with_surrogate(surrogate);
        let case = case("log_probs", f64::NAN).with_config(config);
        for dtype in runner.exact_dtypes() {
            let outcome = runner.outcome(&case, dtype);
            let what = format!("{runner}, {dtype:?}, {}", describe(&config));
            assert_eq!(outcome.metrics.clip_ratio, 0.0, "{what}");
            assert_eq!(outcome.metrics.non_finite, 1.0, "{what}");
        }
    }
}

/// What the off-policy mask drops takes no part in the loss, and is counted all the same.
pub fn dropped_values(runner: &Runner) {
    let mask = PolicyLossConfig::new()
        .with_surrogate(PolicyGradient::new())
        .with_off_policy_mask(OffPolicyMask::new(0.1));
    let raw = RolloutCorrection::weigh(RolloutWeight::raw());
    let mut advantage = Case::new("A = -inf", [1, 2]).with_config(mask);
    advantage.log_probs = vec![-6.0, -1.0];
    advantage.old_log_probs = vec![-1.0; 2];
    advantage.advantages = HostAdvantages::Token(vec![1.0, f64::NEG_INFINITY]);
    let mut weight = Case::new("rho = inf", [1, 2]).with_config(mask.with_rollout_correction(raw));
    weight.log_probs = vec![-2.0; 2];
    weight.old_log_probs = vec![-1.0; 2];
    weight.advantages = HostAdvantages::Token(vec![-1.0; 2]);
    weight.rollout_log_probs = Some(vec![-1000.0, -1.0]);
    for (case, loss, non_finite, dropped) in [(advantage, 3.0, 1.0, 0.5), (weight, 0.0, 0.0, 1.0)] {
        for dtype in runner.exact_dtypes() {
            let outcome = runner.outcome(&case, dtype);
            let what = format!("{runner}, {dtype:?}, {}", case.name);
            assert!(
                (outcome.loss - loss).abs() < 1e-5,
                "{what}: {}",
                outcome.loss
            );
            assert_eq!(outcome.metrics.non_finite, non_finite, "{what}");
            assert_eq!(outcome.metrics.off_policy_dropped, Some(dropped), "{what}");
            if let Some(gradient) = outcome.gradient {
                let expected = -loss / 6.0;
                assert!(
                    (gradient[0] - expected).abs() < 1e-5,
                    "{what}: {gradient:?}"
                );
            }
        }
    }
}

/// Large is not infinite.
pub fn large_values_are_finite(runner: &Runner) {
    for input in COLUMNS {
        for value in [1e30, -1e30] {
            let case = case(input, value);
            for dtype in runner.exact_dtypes() {
                let count = runner.outcome(&case, dtype).metrics.non_finite;
                assert_eq!(count, 0.0, "{runner}, {dtype:?}, {}", case.name);
            }
        }
    }
    // Two of them at one token: each is finite, and so is the token.
    let mut case = case("advantages", 1e25);
    case.old_log_probs[4] = -1e25;
    case.name += ", old_log_probs = -1e25";
    for dtype in runner.exact_dtypes() {
        let count = runner.outcome(&case, dtype).metrics.non_finite;
        assert_eq!(count, 0.0, "{runner}, {dtype:?}, {}", case.name);
    }
}
