//! Data parallelism and gradient accumulation: for any split of a batch, the parts add up to the
//! whole.

use policy_loss::{Clip, GlobalTotals, PolicyLossConfig, Ratio, Reduction, RolloutCorrection};

use crate::busy::{Random, busy};
use crate::case::{Case, HostAdvantages};
use crate::compare::{Tolerance, assert_all_near, assert_near};
use crate::configs::describe;
use crate::runner::Runner;

/// Ranks and micro-batches per rank.
const SPLITS: [[usize; 2]; 5] = [[1, 1], [1, 3], [2, 1], [3, 2], [4, 4]];

/// The shards' gradients, averaged across ranks and summed over micro-batches, are the gradient
/// of the undivided batch; so are the losses.
pub fn shards_add_up(runner: &Runner) {
    let dtype = runner.exact_dtypes()[0];
    let splits = match runner.is_slow() {
        true => &SPLITS[3..4],
        false => &SPLITS[..],
    };
    let known = objectives();
    // Every other objective that has the property, by one split each.
    let others = runner.configs().into_iter().filter(|config| {
        let clip = matches!(config.surrogate, policy_loss::Surrogate::Clip(_));
        config.is_exact_over_shards() && !(clip && config.kl_penalty.is_none())
    });
    let count = known.len();
    let mut all = runner.share(known);
    all.extend(others);
    for (nth, config) in all.into_iter().enumerate() {
        let whole = whole(config);
        let expected = runner.outcome(&whole, dtype);
        let splits = match nth < count {
            true => splits,
            false => &SPLITS[3..4],
        };
        for [ranks, micro_batches] in splits {
            let what = format!("{runner}, {ranks} x {micro_batches}, {}", describe(&config));
            let totals = GlobalTotals::new()
                .with_tokens(whole.valid_tokens())
                .with_sequences(whole.valid_sequences())
                .with_world_size(*ranks);
            let mut loss = 0.0;
            let mut gradient = vec![0.0; whole.log_probs.len()];
            let mut entropy_gradient = vec![0.0; whole.log_probs.len()];
            for rows in shards(whole.sequences, ranks * micro_batches) {
                let mut shard = rows_of(&whole, &rows);
                shard.totals = Some(totals);
                let outcome = runner.outcome(&shard, dtype);
                // Averaging across ranks divides by their number.
                loss += outcome.loss / *ranks as f64;
                for (sum, local) in [
                    (&mut gradient, &outcome.gradient),
                    (&mut entropy_gradient, &outcome.entropy_gradient),
                ] {
                    let Some(local) = local else { continue };
                    for (i, row) in rows.iter().enumerate() {
                        for t in 0..whole.tokens {
                            sum[row * whole.tokens + t] +=
                                local[i * whole.tokens + t] / *ranks as f64;
                        }
                    }
                }
            }
            let tolerance = Tolerance::value(dtype);
            assert_near(tolerance, &format!("{what}: loss"), loss, expected.loss);
            if let Some(expected) = &expected.gradient {
                let tolerance = Tolerance::gradient(dtype);
                assert_all_near(tolerance, &format!("{what}: gradient"), &gradient, expected);
            }
            if let Some(expected) = &expected.entropy_gradient {
                let what = format!("{what}: gradient of the entropies");
                assert_all_near(
                    Tolerance::gradient(dtype),
                    &what,
                    &entropy_gradient,
                    expected,
                );
            }
        }
    }
}

fn objectives() -> Vec<PolicyLossConfig> {
    let clip = Clip::new(0.2, 0.28).with_dual_clip(2.0);
    let (low, high) = (0.5, 2.0);
    let weighted = PolicyLossConfig::new()
        .with_surrogate(clip)
        .with_rollout_correction(RolloutCorrection::seq_mask_tis(low, high));
    let sequence = PolicyLossConfig::new().with_ratio(Ratio::SEQUENCE);
    [PolicyLossConfig::new(), weighted, sequence]
        .into_iter()
        .flat_map(|config| {
            [Reduction::TokenMean, Reduction::SequenceMean]
                .map(|reduction| config.with_reduction(reduction))
        })
        .collect()
}

/// Assigns every row to one of `count` parts, by lot; a part may stay empty.
fn shards(rows: usize, count: usize) -> Vec<Vec<usize>> {
    let mut random = Random(count as u64);
    let mut shards = vec![Vec::new(); count];
    for row in 0..rows {
        shards[random.below(count)].push(row);
    }
    shards
}

/// Twelve rows, three of them without a valid token.
fn whole(config: PolicyLossConfig) -> Case {
    joined(&[busy(4), busy(5), busy(6)].map(|case| case.with_config(config)))
}

fn joined(cases: &[Case]) -> Case {
    let concat =
        |part: fn(&Case) -> &[f64]| -> Vec<f64> { cases.iter().flat_map(part).copied().collect() };
    let mut joined = cases[0].clone();
    joined.sequences = cases.iter().map(|case| case.sequences).sum();
    joined.log_probs = concat(|case| &case.log_probs);
    joined.old_log_probs = concat(|case| &case.old_log_probs);
    joined.advantages = HostAdvantages::Token(concat(|case| case.advantages.values()));
    joined.rollout_log_probs = Some(concat(|case| {
        case.rollout_log_probs.as_deref().expect("busy has some")
    }));
    joined.ref_log_probs = Some(concat(|case| {
        case.ref_log_probs.as_deref().expect("busy has some")
    }));
    joined.entropies = Some(concat(|case| {
        case.entropies.as_deref().expect("busy has some")
    }));
    let masks = cases.iter().flat_map(|case| case.action_mask.clone());
    joined.action_mask = Some(masks.flatten().collect());
    joined
}

/// A batch of some rows of another one.
pub fn rows_of(case: &Case, rows: &[usize]) -> Case {
    let tokens = |values: &[f64]| -> Vec<f64> { pick(values, rows, case.tokens) };
    let mut part = case.clone();
    part.sequences = rows.len();
    part.log_probs = tokens(&case.log_probs);
    part.old_log_probs = tokens(&case.old_log_probs);
    part.advantages = match &case.advantages {
        HostAdvantages::Token(values) => HostAdvantages::Token(tokens(values)),
        HostAdvantages::Column(values) => HostAdvantages::Column(pick(values, rows, 1)),
        HostAdvantages::Sequence(values) => HostAdvantages::Sequence(pick(values, rows, 1)),
    };
    part.rollout_log_probs = case.rollout_log_probs.as_deref().map(tokens);
    part.ref_log_probs = case.ref_log_probs.as_deref().map(tokens);
    part.entropies = case.entropies.as_deref().map(tokens);
    part.action_mask = case
        .action_mask
        .as_deref()
        .map(|mask| pick(mask, rows, case.tokens));
    part
}

fn pick<E: Copy>(values: &[E], rows: &[usize], width: usize) -> Vec<E> {
    rows.iter()
        .flat_map(|row| values[row * width..(row + 1) * width].to_vec())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mean of means is another number: the law could fail on this batch.
    #[test]
    fn parts_without_totals_do_not_add_up() {
        for config in objectives() {
            let whole = whole(config);
            let parts = shards(whole.sequences, 4);
            let losses = parts.iter().map(|rows| rows_of(&whole, rows).answer().loss);
            let mean = losses.sum::<f64>() / 4.0;
            let exact = whole.answer().loss;
            let near = Tolerance::of(1e-3).accepts(mean, exact);
            assert!(!near, "{}: {mean} is {exact}", describe(&config));
        }
    }
}
