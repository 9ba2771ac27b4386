//! What costs more than the metrics, and is computed only when it is asked for: how numbers of tokens
//! are distributed, and what becomes of the gradient.

use burn::tensor::{Bool, Tensor, TensorData, TensorReadError};
use serde::Serialize;

use crate::composed::{self, arithmetic, token_losses};
use crate::output::{PolicyLossMetrics, PolicyLossOutput, PolicyLossValues};
use crate::valid::{as_numbers, sum_per_row, total};
use crate::{
    BatchError, Clip, MetricValues, MissingRolloutLogProbs, Objective, PolicyBatch, PolicyLoss,
    PolicyLossConfig, TokenDetails,
};

/// The sizes of the edges; each is one on either side of 0.
const SIZES: [f64; 17] = [
    1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0,
];
const EDGES: usize = 2 * SIZES.len();
/// Tokens that are compared with all edges at once.
const CHUNK: usize = 1 << 16;

/// What a loss makes of a batch, detached and still on the device: [`PolicyLoss::inspect`]. Those of
/// micro-batches and shards [add up](Self::merge).
#[derive(Debug, Clone)]
pub struct Inspection {
    /// `[K, N]`, a row for each batch.
    rows: Tensor<2>,
    objective: Objective,
    /// Whether a batch had the log-probs of the sampler.
    has_gap: bool,
}

/// The values of an [`Inspection`], read back.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct InspectionValues {
    /// Valid tokens by the logarithm of their ratio `r`, against the base of the objective.
    pub log_ratio: Histogram,
    /// Valid tokens by the logarithm of their weight `w`; what is dropped has the weight 0, and is
    /// counted below every edge. Absent without a rollout correction.
    pub log_weight: Option<Histogram>,
    /// Valid tokens by `old_log_probs - rollout_log_probs`, whatever the objective does with it. Absent
    /// without the sampler's log-probs.
    pub rollout_gap: Option<Histogram>,
    /// What becomes of the gradient.
    pub gradient: GradientMass,
}

/// Counts of tokens by the size of a logarithm. NaN is in no count. They are exact up to 2^24 tokens of a
/// batch where it is added up in f32.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Histogram {
    counts: Vec<u64>,
}

/// What becomes of the gradient that there would be without bounds.
///
/// The mass of a token is `|d L / d log_probs|` of the loss `L = -r A` with the ratio and the reduction
/// of the objective, before the reduction divides: without a bound, a mask, a weight, a KL penalty or an
/// entropy bonus. It belongs to the first of these that holds for the token:
///
/// | | |
/// |---|---|
/// | `masked` | the off-policy mask or the entropy mask dropped it |
/// | `dropped` | its weight was set to 0, or it is dropped because the sampler gave no log-prob |
/// | `clipped` | a bound of the surrogate was met; those that bound a weight leave a part of the gradient |
/// | `truncated` | its weight was moved to a bound, which leaves a part of the gradient |
/// | `kept` | none of it |
///
/// The masses of batches add up; [`shares`](Self::shares) are what to look at. A mass that is not
/// finite is left out. Beyond a log-ratio of ±20 there is none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[allow(missing_docs, reason = "the table says it")]
pub struct GradientMass {
    pub kept: f64,
    pub truncated: f64,
    pub clipped: f64,
    pub dropped: f64,
    pub masked: f64,
}

impl Histogram {
    /// Where the counts are cut, in ascending order: 34 natural logarithms, 1, 2 and 5 times a power of
    /// 10 from 1e-4 to 20 on either side of 0.
    #[must_use]
    pub fn edges() -> [f64; EDGES] {
        let mut edges = [0.0; EDGES];
        for (place, size) in SIZES.into_iter().enumerate() {
            edges[SIZES.len() - 1 - place] = -size;
            edges[SIZES.len() + place] = size;
        }
        edges
    }

    /// 35 counts: below the first edge, from each edge on and below the next, and from the last edge
    /// on.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Of how many values are numbers, and how many reach each edge.
    fn of(reached: &[f64]) -> Self {
        let next = reached[1..].iter().chain([&0.0]);
        let counts = reached.iter().zip(next).map(|(from, to)| from - to);
        Self {
            counts: counts.map(|count| count as u64).collect(),
        }
    }

    fn merge(&mut self, other: &Self) {
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
    }
}

impl GradientMass {
    fn of([kept, truncated, clipped, dropped, masked]: [f64; 5]) -> Self {
        Self {
            kept,
            truncated,
            clipped,
            dropped,
            masked,
        }
    }

    fn masses(&self) -> [f64; 5] {
        [
            self.kept,
            self.truncated,
            self.clipped,
            self.dropped,
            self.masked,
        ]
    }

    /// The same as shares of 1; all 0 where there is no gradient.
    #[must_use]
    pub fn shares(&self) -> Self {
        let total: f64 = self.masses().iter().sum();
        let share = |mass: f64| if total > 0.0 { mass / total } else { 0.0 };
        Self::of(self.masses().map(share))
    }

    /// The share that was clipped or dropped, from 0 to 1: that of `clipped`, `dropped` and `masked`.
    #[must_use]
    pub fn lost(&self) -> f64 {
        let shares = self.shares();
        shares.clipped + shares.dropped + shares.masked
    }
}

impl InspectionValues {
    /// Numbers in a row: three histograms, and the masses.
    const LENGTH: usize = 3 * (1 + EDGES) + 5;

    /// Adds those of another batch, which may come from another process.
    pub fn merge(&mut self, other: &Self) {
        self.log_ratio.merge(&other.log_ratio);
        for (one, other) in [
            (&mut self.log_weight, &other.log_weight),
            (&mut self.rollout_gap, &other.rollout_gap),
        ] {
            match (one, other) {
                (Some(one), Some(other)) => one.merge(other),
                (one @ None, other) => *one = other.clone(),
                (Some(_), None) => {}
            }
        }
        let (one, other) = (self.gradient.masses(), other.gradient.masses());
        self.gradient = GradientMass::of(std::array::from_fn(|nth| one[nth] + other[nth]));
    }
}

impl PolicyLoss {
    /// Looks closer at what the loss makes of a batch than its metrics do. That takes about as long as
    /// two composed losses and a backward pass; nobody pays for it who does not ask. Nothing is read
    /// back: [`PolicyLossOutput::read_with`] brings it back together with the metrics.
    ///
    /// ```
    /// # #[cfg(feature = "flex")] {
    /// # use burn::tensor::{Device, Tensor};
    /// # use policy_loss::{PolicyBatch, PolicyLossConfig};
    /// # let device = Device::flex();
    /// # let log_probs = Tensor::<2>::from_floats([[-1.2, -0.4, -2.0]], &device);
    /// # let old_log_probs = Tensor::<2>::from_floats([[-1.0, -1.5, -2.0]], &device);
    /// # let batch = PolicyBatch::new(log_probs, old_log_probs, Tensor::<1>::ones([1], &device));
    /// let loss = PolicyLossConfig::dapo().init()?;
    /// let inspection = loss.inspect(batch.clone())?;
    /// let (values, inspection) = loss.forward(batch)?.read_with(&inspection)?;
    /// assert_eq!(values.metrics.valid_tokens, 3.0);
    /// assert_eq!(inspection.log_ratio.counts().iter().sum::<u64>(), 3);
    /// assert!(inspection.gradient.lost() > 0.3);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`token_details`](Self::token_details), but a batch without a token counts nothing.
    pub fn inspect(&self, batch: PolicyBatch) -> Result<Inspection, BatchError> {
        let objective = self.config().objective;
        let mut checked = batch.clone().check(&objective)?.padded();
        let mut unbounded = batch.clone().check(&without_bounds(&objective))?.padded();
        let mismatch = match batch.rollout_log_probs {
            Some(_) => Some(batch.check_mismatch()?),
            None => None,
        };
        let dtype = arithmetic(checked.log_probs.dtype());
        let device = checked.log_probs.device().without_autodiff();
        let has_gap = mismatch.is_some();
        let inspection = |rows| Inspection {
            rows,
            objective,
            has_gap,
        };
        if checked.is_empty() {
            let shape = [1, InspectionValues::LENGTH];
            return Ok(inspection(Tensor::zeros(shape, (&device, dtype))));
        }
        let constant = |x: Tensor<2>| x.without_autodiff().cast(dtype);
        let leaf = constant(unbounded.log_probs).autodiff().require_grad();
        unbounded.log_probs = leaf.clone();
        let value = composed::numerator(&without_bounds(&objective), unbounded).value;
        let mut gradients = value.backward();
        let gradient = match leaf.grad_remove(&mut gradients) {
            Some(gradient) => constant(gradient),
            // The objective does not depend on them.
            None => leaf.without_autodiff().zeros_like(),
        };
        checked.log_probs = checked.log_probs.without_autodiff();
        checked.entropies = checked.entropies.map(Tensor::without_autodiff);
        let (token_loss, valid, observed) = token_losses(&objective, checked);
        let details = TokenDetails::new(token_loss, valid, observed);
        let gap = mismatch.and_then(|batch| {
            let rollout_log_probs = batch.rollout_log_probs.map(constant)?;
            Some(constant(batch.old_log_probs) - rollout_log_probs)
        });
        let masses = masses(gradient, &details, &objective);
        let logarithms = [
            Some(details.ratio.log()),
            details.weight.map(Tensor::log),
            gap,
        ];
        let nothing = || Tensor::zeros([1 + EDGES], (&device, dtype));
        let reached = logarithms.map(|values| match values {
            Some(values) => reached(values, details.valid.clone()),
            None => nothing(),
        });
        let row = Tensor::cat(reached.into_iter().chain(masses).collect(), 0);
        Ok(inspection(row.reshape([1, InspectionValues::LENGTH])))
    }
}

/// The same ratio and the same reduction, and nothing that bounds or drops: `r A`.
fn without_bounds(objective: &Objective) -> Objective {
    let mut unbounded = PolicyLossConfig::new().objective;
    unbounded.ratio = objective.ratio;
    unbounded.reduction = objective.reduction;
    unbounded.surrogate = Clip::new(1e30, 1e30).into();
    let stands_in = objective.missing_rollout_log_probs != MissingRolloutLogProbs::Propagate;
    if stands_in && unbounded.reads_rollout() {
        unbounded.missing_rollout_log_probs = MissingRolloutLogProbs::UseOld;
    }
    unbounded
}

/// The masses of a gradient in the order of [`GradientMass`], each `[1]`.
fn masses(gradient: Tensor<2>, details: &TokenDetails, objective: &Objective) -> [Tensor<1>; 5] {
    let either = |conditions: &[&Option<Tensor<2, Bool>>]| {
        let conditions = conditions
            .iter()
            .filter_map(|condition| (*condition).clone());
        conditions.reduce(Tensor::bool_or)
    };
    let drops_missing = objective.missing_rollout_log_probs == MissingRolloutLogProbs::Drop;
    let missing = details.missing_rollout_log_probs.clone();
    let missing = missing.filter(|_| drops_missing);
    let clipped = Some(details.clipped.clone());
    let fates = [
        either(&[&details.off_policy_dropped, &details.low_entropy_dropped]),
        either(&[&details.weight_zeroed, &missing]),
        either(&[&clipped, &details.dual_clipped]),
        details.weight_truncated.clone(),
    ];
    let size = gradient.abs();
    let finite = size.clone().lower_equal_elem(f32::MAX);
    let counted = details.valid.clone().bool_and(finite);
    let mut rest = size.mask_fill(counted.bool_not(), 0);
    let [masked, dropped, clipped, truncated] = fates.map(|fate| match fate {
        Some(fate) => {
            let mass = total(rest.clone().mask_fill(fate.clone().bool_not(), 0));
            rest = rest.clone().mask_fill(fate, 0);
            mass
        }
        None => total(rest.zeros_like()),
    });
    [total(rest), truncated, clipped, dropped, masked]
}

/// How many of the values at valid tokens are numbers, and how many reach each edge,
/// `[1 + EDGES]`.
fn reached(values: Tensor<2>, valid: Tensor<2, Bool>) -> Tensor<1> {
    // Below every number, and every number reaches it.
    const LEAST: f64 = -1e30;
    let (device, dtype) = (values.device(), values.dtype());
    let [rows, tokens] = values.dims();
    let count = rows * tokens;
    let left_out = valid.bool_not().bool_or(values.clone().is_nan());
    let values = values.clamp_min(LEAST).mask_fill(left_out, f32::MIN);
    let values = values.reshape([1, count]);
    let edges: Vec<f64> = std::iter::once(LEAST).chain(Histogram::edges()).collect();
    let edges = TensorData::new(edges, [1 + EDGES, 1]).convert_dtype(dtype);
    let edges = Tensor::<2>::from_data(edges, (&device, dtype));
    let mut reached = Tensor::<2>::zeros([1 + EDGES, 1], (&device, dtype));
    for start in (0..count).step_by(CHUNK) {
        let end = count.min(start + CHUNK);
        let shape = [1 + EDGES, end - start];
        let chunk = values.clone().slice([0..1, start..end]).expand(shape);
        let is_reached = chunk.greater_equal(edges.clone().expand(shape));
        reached = reached + sum_per_row(as_numbers(&is_reached, dtype));
    }
    reached.reshape([1 + EDGES])
}

impl Inspection {
    /// That of both batches together. Nothing is read back.
    ///
    /// # Errors
    ///
    /// They are of different objectives, or on different devices; between devices, add up what is
    /// [read](Self::read) of them ([`InspectionValues::merge`]).
    pub fn merge(&self, other: &Self) -> Result<Self, BatchError> {
        if self.objective != other.objective {
            return Err(BatchError::Merge);
        }
        Ok(Self {
            rows: crate::output::below("inspection", &self.rows, &other.rows)?,
            objective: self.objective,
            has_gap: self.has_gap || other.has_gap,
        })
    }

    /// Reads it back, in one transfer.
    ///
    /// # Errors
    ///
    /// The device failed to execute what was queued, or to deliver it.
    pub fn read(&self) -> Result<InspectionValues, TensorReadError> {
        Ok(self.values(&self.flat().try_into_vec_as::<f64>()?))
    }

    /// Its rows one behind the other.
    fn flat(&self) -> Tensor<1> {
        let length: usize = self.rows.dims().iter().product();
        self.rows.clone().reshape([length])
    }

    fn values(&self, rows: &[f64]) -> InspectionValues {
        let mut sum = vec![0.0; InspectionValues::LENGTH];
        for row in rows.chunks(InspectionValues::LENGTH) {
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += value;
            }
        }
        let (histograms, masses) = sum.split_at(3 * (1 + EDGES));
        let histogram = |nth: usize| Histogram::of(&histograms[nth * (1 + EDGES)..][..1 + EDGES]);
        InspectionValues {
            log_ratio: histogram(0),
            log_weight: (self.objective.rollout_correction.is_some()).then(|| histogram(1)),
            rollout_gap: self.has_gap.then(|| histogram(2)),
            gradient: GradientMass::of(std::array::from_fn(|nth| masses[nth])),
        }
    }
}

impl PolicyLossOutput {
    /// Reads the loss, every metric and an inspection back, in one transfer.
    ///
    /// # Errors
    ///
    /// The device failed to execute what was queued, or to deliver it.
    pub fn read_with(
        &self,
        inspection: &Inspection,
    ) -> Result<(PolicyLossValues, InspectionValues), TensorReadError> {
        let (own, others) = together(self.flat(), inspection)?;
        Ok((self.values(&own), others))
    }
}

impl PolicyLossMetrics {
    /// Reads every metric and an inspection back, in one transfer.
    ///
    /// # Errors
    ///
    /// The device failed to execute what was queued, or to deliver it.
    pub fn read_with(
        &self,
        inspection: &Inspection,
    ) -> Result<(MetricValues, InspectionValues), TensorReadError> {
        let (own, others) = together(self.flat(), inspection)?;
        Ok((self.values(&own), others))
    }
}

/// Numbers and an inspection: in one transfer, unless they lie on different devices.
fn together(
    own: Tensor<1>,
    inspection: &Inspection,
) -> Result<(Vec<f64>, InspectionValues), TensorReadError> {
    let others = inspection.flat();
    if own.device() != others.device() {
        return Ok((own.try_into_vec_as::<f64>()?, inspection.read()?));
    }
    let [length] = own.dims();
    let others = others.cast(own.dtype());
    let values = Tensor::cat(vec![own, others], 0).try_into_vec_as::<f64>()?;
    let (own, others) = values.split_at(length);
    Ok((own.to_vec(), inspection.values(others)))
}
