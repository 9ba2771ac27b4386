//! Batches that own their memory.

use std::collections::BTreeMap;

use half::{bf16, f16};
use policy_loss_kernels::cpu::{Arch, Arithmetic, Batch, Evaluated, Floats, Mask, evaluate_on};
use policy_loss_kernels::objective::EntropyMask;
use policy_loss_kernels::{Columns, Objective};
use policy_loss_oracle as oracle;
use policy_loss_oracle::{Answer, Prompts, Random, Scale, Told};

/// The one that the batches here bring the threshold of.
pub const ENTROPY_MASK: EntropyMask = EntropyMask::new(0.6);

/// The type of a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    F64,
    F32,
    F16,
    Bf16,
}

pub const KINDS: [Kind; 4] = [Kind::F64, Kind::F32, Kind::F16, Kind::Bf16];

/// A column that owns its memory.
#[derive(Clone, Debug)]
pub enum Column {
    F64(Vec<f64>),
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Column {
    pub fn new(kind: Kind, values: &[f64]) -> Self {
        match kind {
            Kind::F64 => Self::F64(values.to_vec()),
            Kind::F32 => Self::F32(values.iter().map(|&value| value as f32).collect()),
            Kind::F16 => Self::F16(values.iter().map(|&value| f16::from_f64(value)).collect()),
            Kind::Bf16 => Self::Bf16(values.iter().map(|&value| bf16::from_f64(value)).collect()),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::F64(_) => Kind::F64,
            Self::F32(_) => Kind::F32,
            Self::F16(_) => Kind::F16,
            Self::Bf16(_) => Kind::Bf16,
        }
    }

    pub fn floats(&self) -> Floats<'_> {
        match self {
            Self::F64(values) => values.as_slice().into(),
            Self::F32(values) => values.as_slice().into(),
            Self::F16(values) => values.as_slice().into(),
            Self::Bf16(values) => values.as_slice().into(),
        }
    }

    /// The values as rounded to the column's type.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::F64(values) => values.clone(),
            Self::F32(values) => values.iter().map(|&value| value.into()).collect(),
            Self::F16(values) => values.iter().map(|&value| value.into()).collect(),
            Self::Bf16(values) => values.iter().map(|&value| value.into()).collect(),
        }
    }

    /// The same column with other values.
    pub fn edit(&mut self, change: impl FnOnce(&mut [f64])) {
        let mut values = self.to_f64();
        change(&mut values);
        *self = Self::new(self.kind(), &values);
    }
}

/// A batch that owns its memory. Its columns are all there, but for those that it is [`Told`].
#[derive(Clone, Debug)]
pub struct Data {
    pub sequences: usize,
    pub tokens: usize,
    pub columns: Columns<Column>,
    pub mask: Option<Vec<bool>>,
    /// The prompt that each sequence answers.
    pub prompts: Vec<i64>,
    /// What the tokens of each sequence count for in a mean over prompts.
    weights: Vec<f64>,
}

/// What a random batch looks like.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub shape: (usize, usize),
    pub kinds: Columns<Kind>,
    /// There is one advantage for each sequence.
    pub per_sequence: bool,
    pub masked: bool,
}

impl Form {
    /// All columns of one type.
    pub fn of(kind: Kind, shape: (usize, usize)) -> Self {
        Self {
            shape,
            kinds: Columns::default().map(|()| kind),
            per_sequence: false,
            masked: false,
        }
    }
}

impl Data {
    /// Realistic values, with enough spread to reach every branch.
    pub fn random(random: &mut Random, form: Form) -> Self {
        let (sequences, tokens) = form.shape;
        let total = sequences * tokens;
        let old: Vec<f64> = (0..total).map(|_| random.between(-4.0, 0.0)).collect();
        // A drift for each row, so that ratios of sequences leave the clip range too.
        let drift: Vec<f64> = (0..sequences).map(|_| random.between(-0.4, 0.4)).collect();
        let mut near = |spread: f64, drift_factor: f64| -> Vec<f64> {
            (0..total)
                .map(|index| {
                    let drift = drift_factor * drift[index / tokens];
                    old[index] + drift + random.between(-spread, spread)
                })
                .collect()
        };
        let mut log_probs = near(0.5, 1.0);
        let rollout = near(0.6, -1.0);
        let mut reference = near(0.7, 0.0);
        for values in [&mut log_probs, &mut reference] {
            for value in values.iter_mut() {
                if random.below(40) == 0 {
                    *value += random.between(-30.0, 30.0);
                }
            }
        }
        let entropies: Vec<f64> = (0..total).map(|_| random.between(0.0, 3.0)).collect();
        let count = if form.per_sequence { sequences } else { total };
        let advantages: Vec<f64> = (0..count)
            .map(|_| match random.below(12) {
                0 => 0.0,
                _ => random.between(-2.0, 2.0),
            })
            .collect();
        let mask = form.masked.then(|| {
            let share: Vec<usize> = (0..sequences).map(|_| random.below(5)).collect();
            (0..total)
                .map(|index| random.below(4) < share[index / tokens])
                .collect()
        });
        let values = Columns {
            log_probs,
            old_log_probs: old,
            rollout_log_probs: rollout,
            ref_log_probs: reference,
            entropies,
            advantages,
            ..Columns::default()
        };
        // Some that answer one prompt, in no order.
        let prompts = (0..sequences).map(|row| (row * 5 % 7 % 3) as i64).collect();
        let columns = values
            .zip(form.kinds)
            .map(|(values, kind)| Column::new(kind, &values));
        Self::new(form.shape, columns, mask, prompts)
    }

    fn new(
        (sequences, tokens): (usize, usize),
        columns: Columns<Column>,
        mask: Option<Vec<bool>>,
        prompts: Vec<i64>,
    ) -> Self {
        let is_valid = |i: usize| mask.as_ref().is_none_or(|mask| mask[i]);
        let mut tokens_of = BTreeMap::<i64, usize>::new();
        for (row, prompt) in prompts.iter().enumerate() {
            let valid = (row * tokens..(row + 1) * tokens).filter(|i| is_valid(*i));
            *tokens_of.entry(*prompt).or_default() += valid.count();
        }
        let weight = |prompt: &i64| 1.0 / tokens_of[prompt].max(1) as f64;
        Self {
            sequences,
            tokens,
            columns,
            weights: prompts.iter().map(weight).collect(),
            prompts,
            mask,
        }
    }

    /// One row of f64, without a mask.
    pub fn row(
        log_probs: &[f64],
        old_log_probs: &[f64],
        rollout: &[f64],
        advantages: &[f64],
    ) -> Self {
        let column = |values| Column::new(Kind::F64, values);
        let columns = Columns {
            log_probs: column(log_probs),
            old_log_probs: column(old_log_probs),
            rollout_log_probs: column(rollout),
            ref_log_probs: column(old_log_probs),
            entropies: column(advantages),
            advantages: column(advantages),
            future_weights: column(&[]),
            segment_log_ratios: column(&[]),
            segment_rejections: column(&[]),
        };
        Self::new((1, log_probs.len()), columns, None, vec![0])
    }

    /// The same numbers in rows, each of which answers a prompt of its own.
    pub fn of_rows(self, shape: (usize, usize), mask: Vec<bool>) -> Self {
        let prompts = (0..shape.0 as i64).collect();
        Self::new(shape, self.columns, Some(mask), prompts)
    }

    pub fn length(&self) -> usize {
        self.sequences * self.tokens
    }

    pub fn is_valid(&self, index: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask[index])
    }

    /// The batch, with what it is told.
    pub fn batch<'a>(&'a self, told: &'a Told) -> Batch<'a> {
        let columns = self.columns.as_ref().map(|column| Some(column.floats()));
        Batch {
            sequences: self.sequences,
            tokens: self.tokens,
            columns: Columns {
                future_weights: Some(told.future_weights.as_slice().into()),
                segment_log_ratios: Some(told.segment_log_ratios.as_slice().into()),
                segment_rejections: Some(told.segment_rejections.as_slice().into()),
                ..columns
            },
            mask: self.mask.as_deref().map(Mask::from),
            weight_mean: told.weight_mean,
            entropy_threshold: self.entropy_threshold(),
            sequence_weights: Some(self.weights.as_slice().into()),
        }
    }

    /// That of [`ENTROPY_MASK`].
    fn entropy_threshold(&self) -> f64 {
        let entropies = self.columns.entropies.to_f64().into_iter().enumerate();
        let valid = entropies.filter(|(i, _)| self.is_valid(*i));
        let threshold = ENTROPY_MASK.threshold(valid.map(|(_, entropy)| entropy));
        threshold.unwrap_or(0.0)
    }

    /// What the kernels make of it, with weights that are normalized already.
    pub fn run<T: Arithmetic>(
        &self,
        arch: Arch,
        objective: &Objective,
        scale: Option<f64>,
    ) -> Evaluated<T> {
        self.run_told(arch, objective, scale, &self.told::<T>(objective), true)
    }

    /// What the kernels make of it where they are told this. The gradient is that of the log-probs
    /// alone: what flows through the mean log-ratios of segments has been added to it.
    pub fn run_told<T: Arithmetic>(
        &self,
        arch: Arch,
        objective: &Objective,
        scale: Option<f64>,
        told: &Told,
        with_gradient: bool,
    ) -> Evaluated<T> {
        let mut found = evaluate_on(arch, objective, &self.batch(told), scale, with_gradient)
            .unwrap_or_else(|error| panic!("{error}"));
        self.pass_through_segments(&mut found);
        found
    }

    /// What the batch is told under an objective, as if that did not divide weights by their mean.
    pub fn told<T: Arithmetic>(&self, objective: &Objective) -> Told {
        let mut objective = *objective;
        if let Some(correction) = &mut objective.rollout_correction {
            correction.normalize = false;
        }
        self.answer::<T>(&objective, None).told
    }

    /// A segment's mean log-ratio moves by `1 / n` with each of its tokens.
    fn pass_through_segments<T: Arithmetic>(&self, found: &mut Evaluated<T>) {
        let by_mean = std::mem::take(&mut found.segment_gradient);
        if by_mean.is_empty() {
            return;
        }
        for (i, slope) in by_mean.iter().enumerate() {
            let is_zero = slope.to_f64().to_bits() == 0;
            assert!(is_zero || self.is_valid(i), "{i} is masked");
        }
        for segment in self.oracle_batch::<T>().segments() {
            let sum: f64 = segment.iter().map(|&i| by_mean[i].to_f64()).sum();
            for &i in &segment {
                let own = found.gradient[i].to_f64();
                found.gradient[i] = T::from_f64(own + sum / segment.len() as f64);
            }
        }
    }

    /// What the oracle makes of it, in the numbers that arithmetic in `T` sees.
    pub fn answer<T: Arithmetic>(&self, objective: &Objective, scale: Option<Scale>) -> Answer {
        oracle::solve(objective, &self.oracle_batch::<T>(), scale)
    }

    /// The batch in the numbers that arithmetic in `T` sees.
    pub fn oracle_batch<T: Arithmetic>(&self) -> oracle::Batch {
        let values = self.columns.as_ref().map(|column| {
            let values = column.to_f64().into_iter();
            let values = values.map(|value| T::from_f64(value).to_f64());
            values.collect::<Vec<_>>()
        });
        let advantages = match values.advantages.len() == self.length() {
            true => values.advantages,
            false => (0..self.length())
                .map(|index| values.advantages[index / self.tokens])
                .collect(),
        };
        oracle::Batch {
            sequences: self.sequences,
            tokens: self.tokens,
            constant_log_probs: values.log_probs.clone(),
            log_probs: values.log_probs,
            old_log_probs: Some(values.old_log_probs),
            advantages,
            valid: (0..self.length()).map(|i| self.is_valid(i)).collect(),
            rollout: Some(values.rollout_log_probs),
            reference: Some(values.ref_log_probs),
            entropies: Some(values.entropies),
            segment_ids: None,
            prompts: Some(Prompts::OfBatch(self.prompts.clone())),
            entropy_threshold: None,
            second_moment_limit: None,
        }
    }
}
