//! One batch on the host, with the objective to apply to it.

use std::collections::BTreeMap;

use burn::tensor::DType;
use half::{bf16, f16};
use policy_loss::{Behavior, Denominator, EntropyMask, GlobalTotals, PolicyLossConfig, Surrogate};
use policy_loss_oracle::{Answer, Batch, Prompts, Scale, solve};

/// Advantages in one of the forms that a batch accepts.
#[derive(Debug, Clone, PartialEq)]
pub enum HostAdvantages {
    /// `[B, T]`.
    Token(Vec<f64>),
    /// `[B, 1]`.
    Column(Vec<f64>),
    /// `[B]`.
    Sequence(Vec<f64>),
}

impl HostAdvantages {
    /// The numbers, whatever they stand for.
    pub fn values(&self) -> &[f64] {
        match self {
            Self::Token(values) | Self::Column(values) | Self::Sequence(values) => values,
        }
    }

    /// As [`values`](Self::values), to be changed.
    pub fn values_mut(&mut self) -> &mut Vec<f64> {
        match self {
            Self::Token(values) | Self::Column(values) | Self::Sequence(values) => values,
        }
    }
}

/// One batch on the host, with the objective to apply to it.
#[derive(Debug, Clone)]
pub struct Case {
    /// For failure messages.
    pub name: String,
    /// The objective.
    pub config: PolicyLossConfig,
    /// `B`.
    pub sequences: usize,
    /// `T`.
    pub tokens: usize,
    /// `[B, T]`.
    pub log_probs: Vec<f64>,
    /// `[B, T]`.
    pub old_log_probs: Vec<f64>,
    /// Whether `old_log_probs` are left out of the batch.
    pub on_policy: bool,
    /// In one of three forms.
    pub advantages: HostAdvantages,
    /// `[B, T]`; absent: every token is valid.
    pub action_mask: Option<Vec<bool>>,
    /// `[B, T]`.
    pub rollout_log_probs: Option<Vec<f64>>,
    /// `[B, T]`.
    pub ref_log_probs: Option<Vec<f64>>,
    /// `[B, T]`.
    pub entropies: Option<Vec<f64>>,
    /// `[B, T]`: the turn of each token.
    pub segment_ids: Option<Vec<i64>>,
    /// The prompt that each sequence answers.
    pub prompt_ids: Option<Vec<i64>>,
    /// How many tokens of the global batch answer the prompt of each sequence.
    pub prompt_tokens: Option<Vec<usize>>,
    /// The least entropy of the global batch that an entropy mask keeps.
    pub entropy_threshold: Option<f64>,
    /// From which squared log-ratio of the global batch on tokens are dropped or clipped.
    pub second_moment_limit: Option<f64>,
    /// Of the global batch, where this is a part of one.
    pub totals: Option<GlobalTotals>,
}

/// The names of the columns of numbers.
pub const COLUMNS: [&str; 6] = [
    "log_probs",
    "old_log_probs",
    "advantages",
    "rollout_log_probs",
    "ref_log_probs",
    "entropies",
];

impl Case {
    /// Every token valid and on policy, with an advantage of 1, every sequence with a prompt of its
    /// own.
    pub fn new(name: impl Into<String>, [sequences, tokens]: [usize; 2]) -> Self {
        let zeros = vec![0.0; sequences * tokens];
        Self {
            name: name.into(),
            config: PolicyLossConfig::new(),
            sequences,
            tokens,
            log_probs: zeros.clone(),
            advantages: HostAdvantages::Token(vec![1.0; zeros.len()]),
            old_log_probs: zeros,
            on_policy: false,
            action_mask: None,
            rollout_log_probs: None,
            ref_log_probs: None,
            entropies: None,
            segment_ids: None,
            prompt_ids: Some((0..sequences as i64).collect()),
            prompt_tokens: None,
            entropy_threshold: None,
            second_moment_limit: None,
            totals: None,
        }
    }

    /// The same batch under another objective.
    pub fn with_config(mut self, config: PolicyLossConfig) -> Self {
        self.config = config;
        self
    }

    /// The columns that are there, in the order of [`COLUMNS`], to be changed.
    pub fn columns_mut(&mut self) -> Vec<(&'static str, &mut Vec<f64>)> {
        let columns = [
            Some(&mut self.log_probs),
            Some(&mut self.old_log_probs),
            Some(self.advantages.values_mut()),
            self.rollout_log_probs.as_mut(),
            self.ref_log_probs.as_mut(),
            self.entropies.as_mut(),
        ];
        let named = COLUMNS.into_iter().zip(columns);
        named
            .filter_map(|(name, column)| Some((name, column?)))
            .collect()
    }

    /// Whether the token at `i` (row by row) is valid.
    pub fn is_valid(&self, i: usize) -> bool {
        self.action_mask.as_ref().is_none_or(|mask| mask[i])
    }

    /// The number of valid tokens.
    pub fn valid_tokens(&self) -> usize {
        (0..self.sequences * self.tokens)
            .filter(|i| self.is_valid(*i))
            .count()
    }

    /// The number of sequences that hold a valid token.
    pub fn valid_sequences(&self) -> usize {
        (0..self.sequences)
            .filter(|row| (0..self.tokens).any(|t| self.is_valid(row * self.tokens + t)))
            .count()
    }

    /// How many prompts a valid token answers, and how many do that of each sequence.
    ///
    /// # Panics
    ///
    /// There are no prompt ids.
    pub fn count_prompts(&self) -> (usize, Vec<usize>) {
        let ids = self.prompt_ids.as_ref().expect("prompt ids");
        let mut tokens = BTreeMap::new();
        for (row, id) in ids.iter().enumerate() {
            let valid = (row * self.tokens..(row + 1) * self.tokens).filter(|i| self.is_valid(*i));
            *tokens.entry(id).or_insert(0) += valid.count();
        }
        let answered = tokens.values().filter(|tokens| **tokens > 0).count();
        (answered, ids.iter().map(|id| tokens[id]).collect())
    }

    /// The least entropy that a mask keeps of the batch.
    pub fn threshold_of(&self, mask: EntropyMask) -> Option<f64> {
        let entropies = self.entropies.iter().flatten().enumerate();
        let valid = entropies.filter(|(i, _)| self.is_valid(*i));
        mask.threshold(valid.map(|(_, entropy)| *entropy))
    }

    /// From which squared log-ratio on the surrogate of second moments drops or clips tokens.
    pub fn limit_of(&self, surrogate: &Surrogate) -> Option<f64> {
        let batch = self.oracle_batch();
        let base = match self.config.objective.ratio.against {
            Behavior::Old => &self.old_log_probs,
            Behavior::Rollout => self.rollout_log_probs.as_ref()?,
        };
        let valid = (0..self.log_probs.len()).filter(|i| self.is_valid(*i));
        let squares = valid.filter_map(|i| {
            let d = self.log_probs[i] - base[i];
            (d * batch.advantages[i] > 0.0).then_some(d * d)
        });
        match surrogate {
            Surrogate::SecondMomentMask(mask) => Some(mask.limit(squares)),
            Surrogate::SecondMomentClip(clip) => Some(clip.limit(squares)),
            _ => None,
        }
    }

    /// Every input as it arrives on a device: rounded to `log_probs` for itself and to `others`
    /// for the rest, and then to the type of the arithmetic.
    pub fn rounded(&self, log_probs: DType, others: DType) -> Self {
        let arithmetic = match log_probs {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        let other = |x: &f64| round(arithmetic, round(others, *x));
        let mut case = self.clone();
        for (name, column) in case.columns_mut() {
            for x in column {
                *x = match name {
                    "log_probs" => round(log_probs, *x),
                    _ => other(x),
                };
            }
        }
        case.entropy_threshold = self.entropy_threshold.as_ref().map(other);
        case
    }

    /// What the oracle makes of it.
    pub fn answer(&self) -> Answer {
        solve(
            &self.config.objective,
            &self.batch(&self.log_probs),
            self.scale(),
        )
    }

    /// The same where every formula that stops the gradient sees `constant_log_probs`: its slope
    /// in `log_probs` is the gradient that the objective declares.
    pub fn answer_around(&self, constant_log_probs: &[f64]) -> Answer {
        solve(
            &self.config.objective,
            &self.batch(constant_log_probs),
            self.scale(),
        )
    }

    /// The batch as the oracle sees it.
    pub fn oracle_batch(&self) -> Batch {
        self.batch(&self.log_probs)
    }

    fn batch(&self, constant_log_probs: &[f64]) -> Batch {
        let length = self.sequences * self.tokens;
        let advantages = match &self.advantages {
            HostAdvantages::Token(values) => values.clone(),
            HostAdvantages::Column(values) | HostAdvantages::Sequence(values) => values
                .iter()
                .flat_map(|value| vec![*value; self.tokens])
                .collect(),
        };
        Batch {
            sequences: self.sequences,
            tokens: self.tokens,
            log_probs: self.log_probs.clone(),
            constant_log_probs: constant_log_probs.to_vec(),
            old_log_probs: (!self.on_policy).then(|| self.old_log_probs.clone()),
            advantages,
            valid: (0..length).map(|i| self.is_valid(i)).collect(),
            rollout: self.rollout_log_probs.clone(),
            reference: self.ref_log_probs.clone(),
            entropies: self.entropies.clone(),
            segment_ids: self.segment_ids.clone(),
            prompts: self.prompts(),
            entropy_threshold: self.entropy_threshold,
            second_moment_limit: self.second_moment_limit,
        }
    }

    fn prompts(&self) -> Option<Prompts> {
        match &self.prompt_tokens {
            Some(tokens) => Some(Prompts::OfGlobalBatch(
                tokens.iter().map(|tokens| *tokens as f64).collect(),
            )),
            None => self.prompt_ids.clone().map(Prompts::OfBatch),
        }
    }

    fn scale(&self) -> Option<Scale> {
        let totals = self.totals?;
        let total = match self.config.objective.reduction.denominator() {
            Denominator::Tokens => totals.tokens,
            Denominator::Sequences => totals.sequences,
            Denominator::Prompts => totals.prompts,
            Denominator::One => Some(1),
        };
        Some(Scale {
            total: total.expect("the total that the reduction counts") as f64,
            world_size: totals.world_size.unwrap_or(1) as f64,
        })
    }
}

/// The nearest value of a type.
pub fn round(dtype: DType, value: f64) -> f64 {
    match dtype {
        DType::F64 => value,
        DType::F32 => f64::from(value as f32),
        DType::F16 => f16::from_f64(value).to_f64(),
        DType::BF16 => bf16::from_f64(value).to_f64(),
        other => panic!("no float type of the loss: {other:?}"),
    }
}
