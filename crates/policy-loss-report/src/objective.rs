//! What one objective makes of a batch.

use burn::tensor::{Bool, Tensor};
use policy_loss::{
    BatchError, Behavior, GradientMass, MetricValues, MissingRolloutLogProbs, PolicyBatch,
    PolicyLoss, PolicyLossConfig, RatioLevel, RolloutCorrection, WeightLevel, WeightMode,
};
use serde::Serialize;

use crate::batch::ReportError;
use crate::gradient::{cosine, norm};
use crate::histogram::Histogram;
use crate::map::{Channel, Layout};

/// Marks of a token, one bit each; the page has the same.
const CLIPPED: u8 = 1;
const TRUNCATED: u8 = 2;
const DROPPED: u8 = 4;
const MASKED: u8 = 8;

/// One objective on the batch, as numbers of tokens.
pub(crate) struct Computed {
    name: String,
    config: PolicyLossConfig,
    loss: f64,
    pub metrics: MetricValues,
    pub gradient: Vec<f64>,
    /// Shares of the gradient that there would be without bounds.
    mass: GradientMass,
    pub ratio: Vec<f64>,
    weight: Option<Vec<f64>>,
    marks: Vec<u8>,
}

/// What was read back of a batch and does not depend on the objective.
pub(crate) struct Tokens {
    pub shape: [usize; 2],
    pub valid: Vec<bool>,
    pub advantages: Vec<f64>,
    /// `old_log_probs - rollout_log_probs`.
    pub gap: Option<Vec<f64>>,
}

/// Says which objective refuses the batch.
pub(crate) fn refused(index: usize, name: &str) -> impl Fn(BatchError) -> ReportError {
    move |source| ReportError::Batch {
        index,
        name: name.to_owned(),
        source: Box::new(source),
    }
}

/// Numbers of tokens, row by row.
pub(crate) fn numbers(x: Tensor<2>) -> Result<Vec<f64>, ReportError> {
    Ok(x.try_into_vec_as::<f64>()?)
}

/// Conditions of tokens, row by row.
pub(crate) fn conditions(x: Tensor<2, Bool>) -> Result<Vec<bool>, ReportError> {
    let numbers = numbers(x.float())?;
    Ok(numbers.into_iter().map(|number| number != 0.0).collect())
}

impl Computed {
    /// Computes an objective with its gradient.
    pub fn new(
        index: usize,
        name: &str,
        loss: &PolicyLoss,
        batch: &PolicyBatch,
        log_probs: &Tensor<2>,
    ) -> Result<Self, ReportError> {
        let refused = refused(index, name);
        let output = loss.forward(batch.clone()).map_err(&refused)?;
        let values = output.read()?;
        let gradient = gradient(output.loss, log_probs)?;
        let details = loss.token_details(batch.clone()).map_err(&refused)?;
        let inspection = loss.inspect(batch.clone()).map_err(&refused)?;
        let objective = &loss.config().objective;
        let drops_missing = objective.missing_rollout_log_probs == MissingRolloutLogProbs::Drop;
        let missing = details.missing_rollout_log_probs;
        let mut marks = vec![0; gradient.len()];
        for (mark, marked) in [
            (CLIPPED, Some(details.clipped)),
            (CLIPPED, details.dual_clipped),
            (TRUNCATED, details.weight_truncated),
            (DROPPED, details.weight_zeroed),
            (DROPPED, missing.filter(|_| drops_missing)),
            (MASKED, details.off_policy_dropped),
            (MASKED, details.low_entropy_dropped),
        ] {
            if let Some(marked) = marked {
                let marked = conditions(marked)?;
                for (marks, marked) in marks.iter_mut().zip(marked) {
                    *marks |= mark * u8::from(marked);
                }
            }
        }
        Ok(Self {
            name: name.to_owned(),
            config: *loss.config(),
            loss: values.loss,
            metrics: values.metrics,
            gradient,
            mass: inspection.read()?.gradient.shares(),
            ratio: numbers(details.ratio)?,
            weight: details.weight.map(numbers).transpose()?,
            marks,
        })
    }
}

fn gradient(loss: Tensor<1>, log_probs: &Tensor<2>) -> Result<Vec<f64>, ReportError> {
    let gradients = loss.backward();
    match log_probs.grad(&gradients) {
        Some(gradient) => numbers(gradient),
        // The objective does not depend on them.
        None => numbers(log_probs.clone().without_autodiff().zeros_like()),
    }
}

/// One objective on the page. JSON has `null` for a number that is not finite, and the page a dash.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    name: String,
    config: PolicyLossConfig,
    loss: f64,
    gradient_norm: f64,
    cosines: Vec<f64>,
    metrics: Vec<(&'static str, Option<f64>)>,
    /// One count a sequence, where a sequence shares its ratio.
    ratio_of_sequences: bool,
    ratio_against: &'static str,
    ratios: Histogram,
    ratio_bounds: Vec<Bound>,
    /// Shares of the gradient that there would be without bounds.
    mass: GradientMass,
    /// Least, mean and largest weight of sequences, in the order of the means.
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<Vec<[f64; 3]>>,
    weight_bounds: Vec<Bound>,
    /// Where the weights are those of single tokens, their bounds are bounds of the gap.
    weight_of_tokens: bool,
    ratio: Channel,
    gradient: Channel,
    marks: String,
}

/// A line in a picture.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Bound {
    value: f64,
    label: String,
}

impl Entry {
    pub fn new(one: &Computed, all: &[Computed], tokens: &Tokens, layout: &Layout) -> Self {
        let objective = &one.config.objective;
        let of_sequences = match objective.ratio.level {
            RatioLevel::Token | RatioLevel::Segment => false,
            RatioLevel::Sequence | RatioLevel::SequenceToken | RatioLevel::SequenceSum => true,
        };
        let ratio_bounds = objective.surrogate.ratio_bounds();
        let shown = ratio_bounds.iter().map(|(bound, _)| *bound);
        let shown: Vec<f64> = shown.filter(|bound| *bound > 0.0).map(f64::ln).collect();
        let log_ratio: Vec<f64> = one.ratio.iter().map(|ratio| ratio.ln()).collect();
        let (weight_bounds, weight_of_tokens) = weight_bounds(objective.rollout_correction);
        Self {
            name: one.name.clone(),
            config: one.config,
            loss: one.loss,
            gradient_norm: norm(&one.gradient),
            cosines: all
                .iter()
                .map(|other| cosine(&one.gradient, &other.gradient))
                .collect(),
            metrics: one.metrics.named(),
            ratio_of_sequences: of_sequences,
            ratio_against: match objective.ratio.against {
                Behavior::Old => "old_log_probs",
                Behavior::Rollout => "rollout_log_probs",
            },
            ratios: Histogram::new(&tokens.pairs(&log_ratio, of_sequences), &shown),
            ratio_bounds: ratio_bounds
                .into_iter()
                .map(|(value, label)| Bound {
                    value,
                    label: label.to_owned(),
                })
                .collect(),
            mass: one.mass,
            weights: one.weight.as_ref().map(|weight| tokens.spreads(weight)),
            weight_bounds,
            weight_of_tokens,
            ratio: layout.channel(&log_ratio, &tokens.valid),
            gradient: layout.channel(&one.gradient, &tokens.valid),
            marks: layout.marks(&one.marks),
        }
    }
}

impl Entry {
    /// The logarithms of what bounds the weight of single tokens.
    pub fn bounds_of_gaps(&self) -> impl Iterator<Item = f64> + '_ {
        let bounds = self.weight_bounds.iter().filter(|_| self.weight_of_tokens);
        bounds.map(|bound| bound.value.ln())
    }
}

/// The bounds of the weight, and whether they are bounds of single tokens.
fn weight_bounds(correction: Option<RolloutCorrection>) -> (Vec<Bound>, bool) {
    let Some(weight) = correction.and_then(|correction| correction.weight) else {
        return (Vec::new(), false);
    };
    let (bounds, what) = match weight.mode {
        WeightMode::Truncate(bounds) => (bounds, "truncated"),
        WeightMode::Mask(bounds) => (bounds, "dropped"),
        WeightMode::Raw => return (Vec::new(), weight.level == WeightLevel::Token),
    };
    let line = |value: Option<f64>, side: &str| {
        value.map(|value| Bound {
            value,
            label: format!("{what} {side}"),
        })
    };
    let low = line(bounds.low, "below");
    let high = line(bounds.high, "above");
    (
        low.into_iter().chain(high).collect(),
        weight.level == WeightLevel::Token,
    )
}
