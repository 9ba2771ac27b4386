//! One batch on the host, in the forms that the library takes.

use burn::tensor::DType;
use policy_loss::{
    AdvantageBatch, AdvantageEstimatorConfig, AdvantageOutput, Among, Deviation,
    GeneralizedAdvantage, GroupBaseline, GroupRelative, MeanScale, ReturnToGo, Rewards,
    SingleScore, TokenBaseline, Whitening, WhiteningOver,
};

use super::oracle::{Answer, Batch, estimate, whiten, whiten_by_sequences};
use crate::case::round;
use crate::runner::{Runner, values};
use policy_loss_oracle::Random;

/// Rewards in one of the forms that a batch accepts.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum HostRewards {
    Token(Vec<f64>),
    Sequence(Vec<f64>),
}

/// One batch on the host.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Case {
    pub sequences: usize,
    pub tokens: usize,
    pub rewards: HostRewards,
    /// Absent: every token is valid.
    pub mask: Option<Vec<bool>>,
    pub values: Vec<f64>,
    pub group_ids: Vec<i64>,
    pub baselines: Vec<f64>,
    pub log_probs: Vec<f64>,
    pub sums_of_squares: Vec<f64>,
    /// Absent: 1.
    pub importance_weights: Option<Vec<f64>>,
}

/// Every preset, and every setting that no preset has.
pub fn configs() -> Vec<AdvantageEstimatorConfig> {
    let presets = policy_loss::AdvantagePreset::ALL.map(|preset| preset.config());
    let rescaling = Whitening::new().with_shift_mean(false);
    let mut configs = presets.to_vec();
    let by_sequences = Whitening::new().with_over(WhiteningOver::Sequences);
    let more: [AdvantageEstimatorConfig; 20] = [
        ReturnToGo::new(0.9)
            .with_token_baseline(TokenBaseline::new().with_tail(SingleScore::Zero))
            .into(),
        ReturnToGo::new(1.0)
            .with_token_baseline(TokenBaseline::new().with_epsilon(0.5))
            .with_whitening(Whitening::new())
            .into(),
        ReturnToGo::new(0.5).with_whitening(by_sequences).into(),
        GroupRelative::new(GroupBaseline::LeaveOneOut)
            .with_whitening(by_sequences)
            .into(),
        GroupRelative::new(GroupBaseline::Mean)
            .with_whitening(by_sequences.with_shift_mean(false))
            .into(),
        GeneralizedAdvantage::new(0.9, 0.8).into(),
        GeneralizedAdvantage::new(1.0, 1.0).into(),
        GeneralizedAdvantage::new(0.99, 0.0).into(),
        GeneralizedAdvantage::new(0.0, 0.5)
            .with_whitening(rescaling)
            .into(),
        GeneralizedAdvantage::new(0.9, 0.7)
            .with_length_adaptive(0.6)
            .with_whitening(Whitening::new())
            .into(),
        GeneralizedAdvantage::new(0.9, 0.7)
            .with_return_lambda(0.2)
            .into(),
        ReturnToGo::new(0.9).into(),
        ReturnToGo::new(0.0)
            .with_subtract_baseline(true)
            .with_whitening(rescaling)
            .into(),
        GroupRelative::new(GroupBaseline::LeaveOneOut)
            .with_deviation(Deviation {
                epsilon: 0.5,
                ..Deviation::default()
            })
            .into(),
        GroupRelative::new(GroupBaseline::LengthWeighted)
            .with_deviation(Deviation::of(Among::Others))
            .into(),
        GroupRelative::new(GroupBaseline::LeaveOneOut)
            .with_deviation(Deviation::of(Among::Batch))
            .into(),
        GroupRelative::new(GroupBaseline::BestOther)
            .with_mean_scale(MeanScale { epsilon: 0.25 })
            .with_active_share(true)
            .into(),
        GroupRelative::new(GroupBaseline::Mean)
            .with_single(SingleScore::Zero)
            .with_whitening(Whitening::new())
            .into(),
        GroupRelative::new(GroupBaseline::LengthWeighted)
            .with_deviation(Deviation::default())
            .with_active_share(true)
            .with_whitening(rescaling)
            .into(),
        GroupRelative::new(GroupBaseline::BestOther).into(),
    ];
    configs.extend(more);
    configs
}

/// How the advantages of an estimator are whitened.
///
/// # Panics
///
/// The estimator is not known.
pub fn whitening(config: &AdvantageEstimatorConfig) -> Option<Whitening> {
    match config {
        AdvantageEstimatorConfig::Generalized(c) => c.whitening,
        AdvantageEstimatorConfig::ReturnToGo(c) => c.whitening,
        AdvantageEstimatorConfig::GroupRelative(c) => c.whitening,
        other => panic!("unknown: {other:?}"),
    }
}

impl Case {
    /// One reward, value and baseline of 0, with probabilities of a half in a vocabulary of two.
    pub fn new([sequences, tokens]: [usize; 2]) -> Self {
        let length = sequences * tokens;
        Self {
            sequences,
            tokens,
            rewards: HostRewards::Token(vec![0.0; length]),
            mask: None,
            values: vec![0.0; length],
            group_ids: vec![0; sequences],
            baselines: vec![0.0; sequences],
            log_probs: vec![0.5_f64.ln(); length],
            sums_of_squares: vec![0.5; length],
            importance_weights: None,
        }
    }

    /// Random numbers; holes and padding in the mask, perhaps empty rows, groups of several sizes
    /// in any order, and equal scores among them.
    pub fn random([sequences, tokens]: [usize; 2], seed: u64) -> Self {
        let random = &mut Random(seed);
        let mut numbers = |count: usize, choices: &[f64]| -> Vec<f64> {
            (0..count)
                .map(|_| random.pick(choices) + random.between(-0.01, 0.01))
                .collect()
        };
        let length = sequences * tokens;
        let values = numbers(length, &[-1.0, 0.0, 0.3, 1.2]);
        let baselines = numbers(sequences, &[0.0, 0.5, 1.0]);
        let dense = numbers(length, &[-0.5, 0.0, 0.0, 0.2, 1.0]);
        let scores = (0..sequences).map(|_| random.pick(&[0.0, 0.0, 0.25, 1.0, -2.0]));
        let scores = scores.collect();
        // The squared probabilities of the other words are what the token's own leaves, or less.
        let log_probs: Vec<f64> = (0..length).map(|_| random.between(-3.0, -0.3)).collect();
        let sums_of_squares = log_probs.iter().map(|log_prob| {
            let p = log_prob.exp();
            p * p + random.between(0.0, 1.0) * (1.0 - p) * (1.0 - p)
        });
        let sums_of_squares = sums_of_squares.collect();
        let importance_weights =
            (seed % 4 == 1).then(|| (0..length).map(|_| random.between(0.5, 2.0)).collect());
        Self {
            sequences,
            tokens,
            rewards: match seed % 3 {
                0 => HostRewards::Token(dense),
                _ => HostRewards::Sequence(scores),
            },
            mask: (seed % 5 != 4).then(|| {
                // Every other seed has full rows and empty ones as well.
                let rows: Vec<usize> = (0..sequences).map(|_| random.below(6)).collect();
                (0..length)
                    .map(|i| match (rows[i / tokens], seed % 2) {
                        (0, 0) => false,
                        (1, 0) => true,
                        _ => random.below(3) > 0,
                    })
                    .collect()
            }),
            values,
            group_ids: (0..sequences)
                .map(|_| [7, -3, i64::MAX, 0, i64::MIN][random.below(5)])
                .collect(),
            baselines,
            log_probs,
            sums_of_squares,
            importance_weights,
        }
    }

    /// Whether the token at `i` (row by row) is valid.
    pub fn is_valid(&self, i: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask[i])
    }

    /// Whether a sequence holds a valid token.
    pub fn is_present(&self, sequence: usize) -> bool {
        (sequence * self.tokens..(sequence + 1) * self.tokens).any(|i| self.is_valid(i))
    }

    /// Every input rounded to a type.
    pub fn rounded(&self, dtype: DType) -> Self {
        let mut case = self.clone();
        let rewards = match &mut case.rewards {
            HostRewards::Token(rewards) | HostRewards::Sequence(rewards) => rewards,
        };
        for x in rewards
            .iter_mut()
            .chain(&mut case.values)
            .chain(&mut case.baselines)
            .chain(&mut case.log_probs)
            .chain(&mut case.sums_of_squares)
            .chain(case.importance_weights.iter_mut().flatten())
        {
            *x = round(dtype, *x);
        }
        case
    }

    /// As an estimator accepts it: without negative rewards, where it divides by their mean.
    pub fn suited_to(&self, config: &AdvantageEstimatorConfig) -> Self {
        let mut case = self.clone();
        if matches!(config, AdvantageEstimatorConfig::GroupRelative(c) if c.mean_scale.is_some()) {
            let (HostRewards::Token(rewards) | HostRewards::Sequence(rewards)) = &mut case.rewards;
            rewards.iter_mut().for_each(|x| *x = x.abs());
        }
        case
    }

    /// With rewards per token, as the oracle reads them.
    fn host(&self) -> Batch<'_> {
        let rewards = match &self.rewards {
            HostRewards::Token(rewards) => rewards.clone(),
            HostRewards::Sequence(scores) => {
                let mut rewards = vec![0.0; self.sequences * self.tokens];
                for (sequence, score) in scores.iter().enumerate() {
                    let mut row = sequence * self.tokens..(sequence + 1) * self.tokens;
                    if let Some(last) = row.rfind(|i| self.is_valid(*i)) {
                        rewards[last] = *score;
                    }
                }
                rewards
            }
        };
        Batch {
            case: self,
            rewards,
        }
    }

    /// What the oracle makes of it.
    pub fn answer(&self, config: &AdvantageEstimatorConfig) -> Answer {
        self.answer_with_offset(config, 0.0)
    }

    /// The same, with means divided as [`whiten`] says.
    pub fn answer_with_offset(&self, config: &AdvantageEstimatorConfig, offset: f64) -> Answer {
        let mut answer = estimate(config, &self.host());
        if let Some(whitening) = whitening(config) {
            answer.advantages = self.whitened(whitening, &answer.advantages, offset);
        }
        answer
    }

    fn whitened(&self, whitening: Whitening, values: &[f64], offset: f64) -> Vec<f64> {
        let valid: Vec<bool> = (0..values.len()).map(|i| self.is_valid(i)).collect();
        match whitening.over {
            WhiteningOver::Tokens => whiten(values, &valid, whitening.shift_mean, offset),
            WhiteningOver::Sequences => {
                whiten_by_sequences(values, &valid, self.tokens, whitening.shift_mean)
            }
        }
    }

    /// What the oracle makes of its rewards and of those of another case with the same mask and
    /// groups, which weigh `weight`.
    ///
    /// # Panics
    ///
    /// The rewards have different forms.
    pub fn answer_with_more(
        &self,
        config: &AdvantageEstimatorConfig,
        weight: f64,
        more: &Self,
    ) -> Answer {
        let sums = |one: &[f64], other: &[f64]| -> Vec<f64> {
            one.iter().zip(other).map(|(a, b)| a + weight * b).collect()
        };
        let mut sum = self.clone();
        sum.rewards = HostRewards::Token(sums(&self.host().rewards, &more.host().rewards));
        let AdvantageEstimatorConfig::GroupRelative(c) = config else {
            return sum.answer(config);
        };
        let by_itself = c.with_active_share(false).with_whitening(None);
        let of = |case: &Self| estimate(&by_itself.into(), &case.host()).advantages;
        let mut advantages = sums(&of(self), &of(more));
        if c.active_share {
            let host = sum.host();
            let row =
                |s: usize| (s * self.tokens..(s + 1) * self.tokens).filter(|i| sum.is_valid(*i));
            let score = |s: usize| row(s).map(|i| host.rewards[i]).sum::<f64>();
            let present: Vec<usize> = (0..self.sequences)
                .filter(|s| self.is_present(*s))
                .collect();
            let active = present.iter().filter(|s| score(**s) != 0.0).count();
            let share = present.len() as f64 / active.max(1) as f64;
            advantages.iter_mut().for_each(|x| *x *= share);
        }
        if let Some(whitening) = c.whitening {
            advantages = self.whitened(whitening, &advantages, 0.0);
        }
        Answer {
            advantages,
            returns: None,
        }
    }

    /// The rewards on a runner's device.
    pub fn rewards(&self, runner: &Runner, dtype: DType) -> Rewards {
        let (sequences, tokens) = (self.sequences, self.tokens);
        match &self.rewards {
            HostRewards::Token(x) => runner.tensor(x, [sequences, tokens], dtype).into(),
            HostRewards::Sequence(x) => runner.tensor(x, [sequences], dtype).into(),
        }
    }

    /// The batch on a runner's device, with everything that any estimator reads.
    pub fn batch(&self, runner: &Runner, dtype: DType) -> AdvantageBatch {
        let shape = [self.sequences, self.tokens];
        let batch = AdvantageBatch::new(self.rewards(runner, dtype))
            .with_values(runner.tensor(&self.values, shape, dtype))
            .with_group_ids(self.group_ids.clone())
            .with_baselines(runner.tensor(&self.baselines, [self.sequences], dtype))
            .with_log_probs(runner.tensor(&self.log_probs, shape, dtype))
            .with_sums_of_squares(runner.tensor(&self.sums_of_squares, shape, dtype));
        let batch = match &self.importance_weights {
            Some(weights) => batch.with_importance_weights(runner.tensor(weights, shape, dtype)),
            None => batch,
        };
        match &self.mask {
            Some(mask) => batch.with_action_mask(runner.mask(mask, shape)),
            None => batch,
        }
    }

    /// What the library makes of it.
    ///
    /// # Panics
    ///
    /// It refuses the configuration or the batch, or the result has another shape or type than
    /// documented.
    pub fn run(&self, runner: &Runner, config: &AdvantageEstimatorConfig, dtype: DType) -> Answer {
        self.run_batch(runner, config, dtype, self.batch(runner, dtype))
    }

    /// The same of another batch of this shape.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn run_batch(
        &self,
        runner: &Runner,
        config: &AdvantageEstimatorConfig,
        dtype: DType,
        batch: AdvantageBatch,
    ) -> Answer {
        let estimator = config.init().expect("the configuration is sound");
        let AdvantageOutput {
            advantages,
            returns,
        } = estimator
            .forward(batch)
            .unwrap_or_else(|error| panic!("{runner}: {config:?}: {error}"));
        let arithmetic = match dtype {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        for tensor in [Some(&advantages), returns.as_ref()].into_iter().flatten() {
            assert_eq!(tensor.dims(), [self.sequences, self.tokens], "{runner}");
            assert_eq!(tensor.dtype(), arithmetic, "{runner}");
        }
        Answer {
            advantages: values(advantages),
            returns: returns.map(values),
        }
    }
}
