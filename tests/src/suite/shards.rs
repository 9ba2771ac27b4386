//! Data parallelism and gradient accumulation: for any split of a batch, the parts add up to the
//! whole. Losses, gradients, and every metric.

use burn::tensor::{DType, Tensor};
use policy_loss::{
    BatchError, Clip, GlobalTotals, MetricValues, PolicyBatch, PolicyLossConfig, PolicyLossMetrics,
    PolicyLossOutput, Ratio, Reduction, Sum, Sums, Surrogate, presets,
};
use policy_loss_kernels::Kind;
use policy_loss_oracle::{Metrics, Random};

use crate::busy::{MASKED_ROW, busy};
use crate::case::Case;
use crate::compare::{Tolerance, assert_all_near, assert_metrics, assert_near};
use crate::configs::describe;
use crate::row::Row;
use crate::runner::{Mode, Runner};
use crate::suite::inspection::{inspection, masses};

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
        let objective = config.objective;
        let clip = matches!(objective.surrogate, Surrogate::Clip(_));
        objective.is_exact_over_shards() && !(clip && objective.kl_penalty.is_none())
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
            let totals = totals_of(&whole).with_world_size(*ranks);
            let mut loss = 0.0;
            let mut gradient = vec![0.0; whole.log_probs.len()];
            let mut entropy_gradient = vec![0.0; whole.log_probs.len()];
            for rows in shards(whole.sequences, ranks * micro_batches) {
                let shard = shard_of(&whole, &rows, totals);
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

/// The totals of the global batch replace the local counts.
pub fn totals(runner: &Runner) {
    let row = |name: &str, totals: GlobalTotals| {
        let mut row = Row::new(name, &[0.0; 3]);
        row.case.totals = Some(totals);
        row
    };
    let tokens = GlobalTotals::new().with_tokens(10);
    row("4 ranks", tokens.with_world_size(4))
        .loss(-1.2)
        .gradient(&[-0.4; 3])
        .metric("clip_ratio", 0.0)
        .metric("ratio_mean", 1.0)
        .check(runner);
    row("one rank", tokens).loss(-0.3).check(runner);
    let sequences = GlobalTotals::new().with_sequences(10);
    row("sequences", sequences.with_world_size(4))
        .config(PolicyLossConfig::new().with_reduction(Reduction::SequenceMean))
        .loss(-0.4)
        .gradient(&[-0.4 / 3.0; 3])
        .check(runner);
    let mut prompts = row("prompts", GlobalTotals::new().with_prompts(5));
    prompts.case.prompt_tokens = Some(vec![4]);
    prompts
        .config(PolicyLossConfig::new().with_reduction(Reduction::PromptMean))
        .loss(-3.0 / 4.0 / 5.0)
        .gradient(&[-1.0 / 4.0 / 5.0; 3])
        .check(runner);
    // The total that the reduction does not count is not in the way.
    row("both", tokens.with_sequences(99))
        .loss(-0.3)
        .check(runner);
}

/// For every split of a batch, the metrics of the parts, merged on the device, and their sums,
/// merged on the host, are those of the undivided batch; so is the loss that they make.
pub fn metrics_add_up(runner: &Runner) {
    let dtype = runner.exact_dtypes()[0];
    let configs = runner.configs().into_iter();
    let exact = configs.filter(|config| config.objective.is_exact_over_shards());
    for (nth, config) in exact.enumerate() {
        // The gradient has no part in it, but in other modes other kernels run.
        let reductions = match runner.mode {
            Mode::Plain => Reduction::all(9).to_vec(),
            Mode::Autodiff | Mode::Checkpointed => vec![config.objective.reduction],
        };
        for reduction in runner.share(reductions) {
            let whole = whole(config.with_reduction(reduction));
            let mut random = Random(nth as u64);
            let parts = random_split(whole.sequences, &mut random);
            assert_metrics_add_up(runner, dtype, &whole, &parts);
        }
    }
}

fn assert_metrics_add_up(runner: &Runner, dtype: DType, whole: &Case, parts: &[Vec<usize>]) {
    let objective = &whole.config.objective;
    let what = format!("{runner}, {parts:?}, {}", describe(&whole.config));
    let output = |case: &Case| -> PolicyLossOutput {
        let batch = runner.batch(case, runner.leaf(case, dtype), dtype);
        runner.forward(&what, &runner.init(&case.config), batch)
    };
    let undivided = output(whole);
    let of_part = |rows: &Vec<usize>| output(&shard_of(whole, rows, totals_of(whole))).metrics;
    let metrics: Vec<PolicyLossMetrics> = parts.iter().map(of_part).collect();

    let mut on_host = Sums::default();
    for part in &metrics {
        on_host.merge(&part.sums().expect(&what));
    }
    let on_device = metrics
        .into_iter()
        .reduce(|one, other| one.merge(&other).expect(&what))
        .expect("there is a part");
    assert_eq!(on_device.sums().expect(&what), on_host, "{what}");
    let merged = on_device.read().expect(&what);
    assert_eq!(merged, MetricValues::of(&on_host, objective), "{what}");

    let tolerance = Tolerance::value(dtype);
    let sizes = whole.rounded(dtype, dtype).answer().sizes.sums;
    // Rounding errors are relative to what was added up, also where it cancels.
    let of_size = |size: f64| Tolerance {
        absolute: tolerance.relative * size + tolerance.absolute,
        ..tolerance
    };
    let expected = undivided.metrics.sums().expect(&what);
    let rows = [on_host, expected, sizes].map(|sums| sums.to_row());
    for (i, sum) in Sum::ALL.iter().enumerate() {
        let what = format!("{what}: {}", sum.name());
        let [actual, expected, size] = [0, 1, 2].map(|row| rows[row][i]);
        match sum.kind() {
            Kind::Sum => assert_near(of_size(size), &what, actual, expected),
            Kind::Count | Kind::Least | Kind::Largest => assert_eq!(actual, expected, "{what}"),
        }
    }
    let undivided = undivided.read().expect(&what);
    let expected = Metrics(undivided.metrics.named());
    assert_metrics(tolerance, &what, &merged, &expected);
    let count = objective.reduction.count(
        whole.valid_tokens() as f64,
        whole.valid_sequences() as f64,
        whole.count_prompts().0 as f64,
    );
    let loss = on_host.mean_loss(objective);
    let tolerance = of_size(sizes.loss / count);
    assert_near(tolerance, &format!("{what}: loss"), loss, undivided.loss);
}

/// For every split of a batch, what is seen on a closer look of the parts is what is seen of the
/// whole, merged on the device and on the host.
pub fn inspections_add_up(runner: &Runner) {
    let dtype = runner.exact_dtypes()[0];
    let mut exact = runner.some_configs();
    exact.retain(|config| config.objective.is_exact_over_shards());
    for (nth, config) in runner.share(exact).into_iter().enumerate() {
        let whole = whole(config);
        let parts = random_split(whole.sequences, &mut Random(nth as u64));
        let what = format!("{runner}, {parts:?}, {}", describe(&config));
        let undivided = inspection(runner, &whole, dtype).read().expect(&what);
        let parts = parts.iter().map(|rows| {
            let part = shard_of(&whole, rows, totals_of(&whole));
            inspection(runner, &part, dtype)
        });
        let parts: Vec<_> = parts.collect();
        let read = parts.iter().map(|part| part.read().expect(&what));
        let on_host = read.reduce(|mut sum, part| {
            sum.merge(&part);
            sum
        });
        let on_device = parts
            .into_iter()
            .reduce(|one, other| one.merge(&other).expect(&what));
        let merged = on_device.expect("there is a part").read().expect(&what);
        assert_eq!(on_host, Some(merged.clone()), "{what}");
        assert_eq!(merged.log_ratio, undivided.log_ratio, "{what}");
        assert_eq!(merged.log_weight, undivided.log_weight, "{what}");
        assert_eq!(merged.rollout_gap, undivided.rollout_gap, "{what}");
        let expected = masses(undivided.gradient);
        for ((name, mass), (_, expected)) in masses(merged.gradient).into_iter().zip(expected) {
            let what = format!("{what}: {name}");
            assert_near(Tolerance::value(dtype), &what, mass, expected);
        }
    }
}

/// Rows of different objectives mean different things, and rows on different devices are apart.
pub fn other_metrics_are_not_merged(runner: &Runner) {
    let metrics = |config: PolicyLossConfig| {
        let zeros = || Tensor::<2>::zeros([2, 3], &runner.device);
        let batch = PolicyBatch::new(zeros(), zeros(), zeros());
        runner
            .forward("a batch", &runner.init(&config), batch)
            .metrics
    };
    let config = PolicyLossConfig::new();
    let one = metrics(config);
    assert!(one.merge(&metrics(config)).is_ok(), "{runner}");
    for other in [
        config.with_surrogate(Clip::new(0.2, 0.3)),
        config.with_ratio(Ratio::SEQUENCE),
        config.with_reduction(Reduction::SequenceMean),
    ] {
        let looked_at = |config| inspection(runner, &busy(0).with_config(config), DType::F32);
        let error = looked_at(config).merge(&looked_at(other));
        assert_eq!(error.err(), Some(BatchError::Merge), "{runner}");
        let error = one.merge(&metrics(other)).expect_err("another objective");
        assert_eq!(error, BatchError::Merge, "{runner}");
        assert!(error.to_string().contains("objective"), "{runner}: {error}");
    }
    let there = || Tensor::<2>::zeros([2, 3], &runner.elsewhere());
    let elsewhere = PolicyBatch::new(there(), there(), there());
    let elsewhere = config.init().expect("valid").forward(elsewhere);
    let error = one.merge(&elsewhere.expect("accepted").metrics);
    let error = error.expect_err("another device");
    assert!(
        matches!(
            error,
            BatchError::MergeDevices {
                tensor: "metrics",
                ..
            }
        ),
        "{runner}: {error}"
    );
}

/// One to five parts of uneven size: some without a row, some without a valid token.
fn random_split(rows: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let count = 1 + random.below(5);
    let mut parts = vec![Vec::new(); count];
    let sets_masked_rows_apart = count > 1 && random.below(2) == 0;
    for row in 0..rows {
        let part = match sets_masked_rows_apart {
            // The last part has nothing but rows without a valid token.
            true if row % BUSY_ROWS == MASKED_ROW => count - 1,
            true => random.below(count - 1),
            // The first parts get more.
            false => random.below(count).min(random.below(count)),
        };
        parts[part].push(row);
    }
    parts
}

fn objectives() -> Vec<PolicyLossConfig> {
    let clip = Clip::new(0.2, 0.28).with_dual_clip(2.0);
    let (low, high) = (0.5, 2.0);
    let weighted = PolicyLossConfig::new()
        .with_surrogate(clip)
        .with_rollout_correction(presets::seq_mask_tis(low, high));
    let sequence = PolicyLossConfig::new().with_ratio(Ratio::SEQUENCE);
    [PolicyLossConfig::new(), weighted, sequence]
        .into_iter()
        .flat_map(|config| {
            [
                Reduction::TokenMean,
                Reduction::SequenceMean,
                Reduction::PromptMean,
            ]
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

/// The rows of [`busy`].
const BUSY_ROWS: usize = 4;

/// Twelve rows, three of them without a valid token.
fn whole(config: PolicyLossConfig) -> Case {
    joined(&[busy(4), busy(5), busy(6)].map(|case| case.with_config(config)))
}

fn joined(cases: &[Case]) -> Case {
    let mut joined = cases[0].clone();
    for mut case in cases[1..].iter().cloned() {
        joined.sequences += case.sequences;
        let columns = joined.columns_mut().into_iter().zip(case.columns_mut());
        columns.for_each(|((_, all), (_, more))| all.append(more));
    }
    let turns = cases.iter().flat_map(|case| case.segment_ids.clone());
    joined.segment_ids = Some(turns.flatten().collect());
    let masks = cases.iter().flat_map(|case| case.action_mask.clone());
    joined.action_mask = Some(masks.flatten().collect());
    // Some prompts have answers in each of the cases, and some in one.
    let ids = cases.iter().enumerate().flat_map(|(nth, case)| {
        let ids = case.prompt_ids.clone().expect("busy has some");
        ids.into_iter()
            .map(move |id| if id > 0 { id } else { id - nth as i64 })
    });
    joined.prompt_ids = Some(ids.collect());
    joined
}

/// What a part of a batch is told of the whole.
fn totals_of(whole: &Case) -> GlobalTotals {
    GlobalTotals::new()
        .with_tokens(whole.valid_tokens())
        .with_sequences(whole.valid_sequences())
        .with_prompts(whole.count_prompts().0)
}

/// Some rows of a batch, as one that knows of the others.
fn shard_of(whole: &Case, rows: &[usize], totals: GlobalTotals) -> Case {
    let mut shard = rows_of(whole, rows);
    shard.totals = Some(totals);
    let mask = whole.config.objective.entropy_mask;
    shard.entropy_threshold = mask.and_then(|mask| whole.threshold_of(mask));
    shard.second_moment_limit = whole.limit_of(&whole.config.objective.surrogate);
    shard.prompt_tokens = Some(pick(&whole.count_prompts().1, rows, 1));
    shard
}

/// A batch of some rows of another one.
pub fn rows_of(case: &Case, rows: &[usize]) -> Case {
    let mut part = case.clone();
    part.sequences = rows.len();
    for (_, column) in part.columns_mut() {
        // There may be one advantage for each sequence.
        *column = pick(column, rows, column.len() / case.sequences);
    }
    part.segment_ids = case
        .segment_ids
        .as_deref()
        .map(|ids| pick(ids, rows, case.tokens));
    part.prompt_ids = case.prompt_ids.as_deref().map(|ids| pick(ids, rows, 1));
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

    #[test]
    fn splits_are_of_every_kind() {
        let whole = whole(PolicyLossConfig::new());
        let mut random = Random(0);
        let mut seen = [0; 4];
        let mut counts = [0; 5];
        for _ in 0..50 {
            let parts = random_split(whole.sequences, &mut random);
            counts[parts.len() - 1] += 1;
            let mut rows = parts.concat();
            rows.sort_unstable();
            assert!(rows.into_iter().eq(0..whole.sequences));
            let is_empty = |part: &Vec<usize>| part.is_empty();
            let is_masked =
                |part: &Vec<usize>| !part.is_empty() && rows_of(&whole, part).valid_tokens() == 0;
            let is_large = |part: &Vec<usize>| part.len() > whole.sequences / 2;
            seen[0] += usize::from(parts.iter().any(is_empty));
            seen[1] += usize::from(parts.iter().any(is_masked));
            seen[2] += usize::from(parts.len() > 1 && parts.iter().any(is_large));
            seen[3] += usize::from(parts.len() > 1 && !parts.iter().any(is_empty));
        }
        assert!(counts.iter().all(|count| *count > 2), "{counts:?}");
        assert!(seen.iter().all(|count| *count > 2), "{seen:?}");
    }

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
