//! One batch on the host, with the loss to apply to it.

use burn::tensor::{DType, Tensor};
use policy_loss::{GlobalTotals, Reduction, ValueBatch, ValueLossConfig, ValueLossOutput};

use super::oracle::{Answer, solve};
use crate::case::round;
use crate::compare::{Tolerance, assert_all_near, assert_near};
use crate::runner::{Runner, gradient, values};
use policy_loss_oracle::Random;

/// One batch on the host.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Case {
    pub config: ValueLossConfig,
    pub sequences: usize,
    pub tokens: usize,
    pub values: Vec<f64>,
    pub returns: Vec<f64>,
    pub old_values: Vec<f64>,
    /// Absent: every token is valid.
    pub mask: Option<Vec<bool>>,
    pub totals: Option<GlobalTotals>,
}

/// With and without a clip, with either reduction.
pub fn configs() -> Vec<ValueLossConfig> {
    let clips = [Some(0.2), None, Some(1.5)];
    let reductions = [Reduction::TokenMean, Reduction::SequenceMean];
    clips
        .into_iter()
        .flat_map(|clip| {
            let config = ValueLossConfig::new().with_clip(clip);
            reductions.map(|reduction| config.with_reduction(reduction))
        })
        .collect()
}

impl Case {
    /// Every token valid, every number 0.
    pub fn new(config: ValueLossConfig, [sequences, tokens]: [usize; 2]) -> Self {
        let zeros = vec![0.0; sequences * tokens];
        Self {
            config,
            sequences,
            tokens,
            values: zeros.clone(),
            returns: zeros.clone(),
            old_values: zeros,
            mask: None,
            totals: None,
        }
    }

    /// Values on both sides of both bounds, returns on both sides of the values; holes in the mask,
    /// and perhaps a row without a valid token.
    pub fn random(config: ValueLossConfig, shape: [usize; 2], seed: u64) -> Self {
        let mut case = Self::new(config, shape);
        let random = &mut Random(seed);
        for i in 0..case.values.len() {
            case.old_values[i] = random.between(-2.0, 2.0);
            let moved = random.pick(&[0.0, 0.1, -0.1, 0.5, -0.5, 3.0, -3.0]);
            case.values[i] = case.old_values[i] + moved + random.between(-0.05, 0.05);
            let missed = random.pick(&[0.05, -0.05, 0.7, -0.7, 2.0, -2.0]);
            case.returns[i] = case.values[i] + missed + random.between(-0.01, 0.01);
        }
        let rows: Vec<bool> = (0..case.sequences).map(|_| random.below(4) > 0).collect();
        let mask = (0..case.values.len()).map(|i| rows[i / case.tokens] && random.below(4) > 0);
        let mask = mask.collect();
        case.mask = (seed % 4 != 3).then_some(mask);
        case
    }

    /// Whether the token at `i` (row by row) is valid.
    pub fn is_valid(&self, i: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask[i])
    }

    /// A batch of some rows.
    pub fn rows(&self, rows: &[usize]) -> Self {
        let width = self.tokens;
        fn pick<E: Copy>(values: &[E], rows: &[usize], width: usize) -> Vec<E> {
            let row = |row: &usize| &values[row * width..(row + 1) * width];
            rows.iter().flat_map(row).copied().collect()
        }
        Self {
            sequences: rows.len(),
            values: pick(&self.values, rows, width),
            returns: pick(&self.returns, rows, width),
            old_values: pick(&self.old_values, rows, width),
            mask: self.mask.as_ref().map(|mask| pick(mask, rows, width)),
            ..self.clone()
        }
    }

    /// What the oracle makes of it, once it is rounded to a type.
    pub fn answer(&self, dtype: DType) -> Answer {
        let mut batch = self.clone();
        for column in [&mut batch.values, &mut batch.returns, &mut batch.old_values] {
            column.iter_mut().for_each(|x| *x = round(dtype, *x));
        }
        let total = self.totals.map(|totals| {
            let total = match self.config.reduction {
                Reduction::SequenceMean => totals.sequences,
                _ => totals.tokens,
            };
            let total = total.expect("the total that the reduction counts") as f64;
            (total, totals.world_size.unwrap_or(1) as f64)
        });
        solve(&batch, total)
    }

    /// The values on a runner's device, tracked where the mode tracks.
    pub fn leaf(&self, runner: &Runner, dtype: DType) -> Tensor<2> {
        runner.tracked(&self.values, [self.sequences, self.tokens], dtype)
    }

    /// The batch around given values; old values only where a clip needs them.
    pub fn batch(&self, runner: &Runner, leaf: Tensor<2>, dtype: DType) -> ValueBatch {
        let shape = [self.sequences, self.tokens];
        let mut batch = ValueBatch::new(leaf, runner.tensor(&self.returns, shape, dtype));
        if self.config.clip.is_some() {
            batch = batch.with_old_values(runner.tensor(&self.old_values, shape, dtype));
        }
        if let Some(mask) = &self.mask {
            batch = batch.with_action_mask(runner.mask(mask, shape));
        }
        match self.totals {
            Some(totals) => batch.with_totals(totals),
            None => batch,
        }
    }

    /// What the library makes of it. The gradient is empty without autodiff.
    ///
    /// # Panics
    ///
    /// It refuses the configuration or the batch.
    pub fn run(&self, runner: &Runner, dtype: DType) -> Answer {
        let loss = self.config.init().expect("the configuration is sound");
        let leaf = self.leaf(runner, dtype);
        let output = loss.forward(self.batch(runner, leaf.clone(), dtype));
        let output: ValueLossOutput = output.unwrap_or_else(|error| panic!("{runner}: {error}"));
        let read = output.read().expect("the output can be read");
        let alone = output.metrics.read().expect("the metrics can be read");
        // As text, in which NaN is NaN.
        assert_eq!(format!("{alone:?}"), format!("{:?}", read.metrics));
        let batch = self.batch(runner, leaf.clone(), dtype);
        let token_losses = loss.forward_no_reduction(batch).expect("accepted");
        Answer {
            loss: read.loss,
            gradient: match runner.is_tracked() {
                true => gradient(&leaf, &output.loss.backward()),
                false => Vec::new(),
            },
            token_losses: values(token_losses),
            metrics: read.metrics.named(),
        }
    }

    /// Fails unless the library makes of it what the oracle says.
    ///
    /// # Panics
    ///
    /// It does not.
    pub fn check(&self, runner: &Runner, dtype: DType) {
        let what = format!("{runner}, {dtype:?}, {:?}", self.config);
        let (actual, expected) = (self.run(runner, dtype), self.answer(dtype));
        let tolerance = Tolerance::value(match dtype {
            DType::F64 => DType::F64,
            _ => DType::F32,
        });
        assert_near(tolerance, &what, actual.loss, expected.loss);
        let of_tokens = format!("{what}: token losses");
        let (tokens, expected_tokens) = (&actual.token_losses, &expected.token_losses);
        assert_all_near(tolerance, &of_tokens, tokens, expected_tokens);
        for ((name, actual), (expected_name, expected)) in
            actual.metrics.iter().zip(&expected.metrics)
        {
            assert_eq!(name, expected_name, "{what}");
            // A quotient of two sums.
            let tolerance = match *name {
                "explained_variance" => tolerance.at_least(match dtype {
                    DType::F64 => 1e-11,
                    _ => 1e-4,
                }),
                _ => tolerance,
            };
            assert_near(tolerance, &format!("{what}: {name}"), *actual, *expected);
        }
        assert_eq!(actual.metrics.len(), expected.metrics.len(), "{what}");
        if runner.is_tracked() {
            let tolerance = Tolerance::gradient(dtype).at_least(match dtype {
                DType::F64 => 0.0,
                _ => 1e-6,
            });
            let what = format!("{what}: gradient");
            assert_all_near(tolerance, &what, &actual.gradient, &expected.gradient);
        }
    }
}
