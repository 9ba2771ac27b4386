//! What a teacher's log-probs do to the advantages: on-policy distillation before the loss.

use burn::tensor::{Bool, Tensor};
use policy_loss_kernels::objective::check::{if_given, not_negative, positive, share, unit};
use serde::{Deserialize, Serialize};

use crate::advantages::backwards;
use crate::alike::{Alike, needed};
use crate::composed::arithmetic;
use crate::device::read_back;
use crate::valid::Valid;
use crate::{Advantages, BatchError, ConfigError};

/// The least sum of distances that early tokens are weighed by.
const LEAST_DISTANCE: f64 = 1e-8;

/// How a teacher's log-probs change the advantages: the configuration of a [`TeacherSignal`].
///
/// ```
/// use policy_loss::{ReverseKlAdvantage, TeacherSignalConfig};
///
/// let config = TeacherSignalConfig::from(ReverseKlAdvantage::new(1.0).with_clamp(5.0));
/// let signal = config.init()?;
/// # Ok::<(), policy_loss::ConfigError>(())
/// ```
///
/// As JSON (fields that are left out take their default, unknown ones are refused):
///
/// ```
/// # use policy_loss::{ReverseKlAdvantage, TeacherSignalConfig};
/// let config: TeacherSignalConfig = serde_json::from_str(
///     r#"{ "reverse_kl": { "coefficient": 1.0, "clamp": 5.0 } }"#,
/// )?;
/// assert_eq!(config, ReverseKlAdvantage::new(1.0).with_clamp(5.0).into());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TeacherSignalConfig {
    /// Adds the distance to the teacher.
    ReverseKl(ReverseKlAdvantage),
    /// Multiplies by the teacher's opinion.
    Factor(TeacherFactor),
}

/// The distance to the teacher at each sampled token, added to its advantage: its expectation under
/// the policy is `-KL(policy, teacher)`, so that the batch is a training signal without any reward.
///
/// ```text
/// x_t = teacher_log_probs - log_probs             at valid tokens, 0 elsewhere
///   clamp:        clamp(x_t, -clamp, clamp)
///   early_weight: * (1 + early_weight (1 - sum_{s<t} |x_s| / max(sum |x|, 1e-8)))
///   discount:     sum_k discount^k x_{t+k}        over positions, masked ones counted
/// advantage_t = A_t + coefficient x_t
/// ```
///
/// Sources: [Lu 2025](https://thinkingmachines.ai/blog/on-policy-distillation/), tinker-cookbook,
/// slime, miles and NeMo-RL (MOPD, [arXiv 2601.02780](https://arxiv.org/abs/2601.02780)); the
/// weights of early tokens are those of IW-OPD in TRL.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReverseKlAdvantage {
    /// What the distance is multiplied by. Finite, 0 or above.
    pub coefficient: f64,
    /// The largest distance that counts, in either direction, if any. Finite and above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clamp: Option<f64>,
    /// How much of a distance the tokens before it answer for. From 0, each token for itself, to 1.
    pub discount: f64,
    /// How much more the first token weighs than the last, if the order counts. Finite, 0 or above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_weight: Option<f64>,
}

impl Default for ReverseKlAdvantage {
    fn default() -> Self {
        Self::new(1.0)
    }
}

impl ReverseKlAdvantage {
    /// With this coefficient, and nothing else.
    #[must_use]
    pub const fn new(coefficient: f64) -> Self {
        Self {
            coefficient,
            clamp: None,
            discount: 0.0,
            early_weight: None,
        }
    }

    /// Sets the largest distance that counts.
    #[must_use]
    pub fn with_clamp(mut self, clamp: impl Into<Option<f64>>) -> Self {
        self.clamp = clamp.into();
        self
    }

    /// Sets how much of a distance the tokens before it answer for.
    #[must_use]
    pub const fn with_discount(mut self, discount: f64) -> Self {
        self.discount = discount;
        self
    }

    /// Sets how much more the first token weighs than the last.
    #[must_use]
    pub fn with_early_weight(mut self, early_weight: impl Into<Option<f64>>) -> Self {
        self.early_weight = early_weight.into();
        self
    }

    /// `gap` is 0 at padding; gives what is added to the advantages, before it is masked.
    fn of(&self, mut gap: Tensor<2>) -> Tensor<2> {
        if let Some(clamp) = self.clamp {
            gap = gap.clamp(-clamp, clamp);
        }
        if let Some(early_weight) = self.early_weight {
            let shape = gap.dims();
            let ahead = backwards(gap.ones_like(), gap.clone().abs());
            let sum = ahead.clone().narrow(1, 0, 1).expand(shape);
            let limit = sum.clone().clamp_min(LEAST_DISTANCE);
            let left = (limit.clone() - (sum - ahead)) / limit;
            gap = gap * (left * early_weight + 1);
        }
        if self.discount > 0.0 {
            gap = backwards(gap.full_like(self.discount), gap);
        }
        gap * self.coefficient
    }

    fn validate(&self) -> Result<(), ConfigError> {
        not_negative("reverse_kl.coefficient", self.coefficient)?;
        if_given(self.clamp, |it| positive("reverse_kl.clamp", *it))?;
        if_given(self.early_weight, |it| {
            not_negative("reverse_kl.early_weight", *it)
        })?;
        unit("reverse_kl.discount", self.discount)
    }
}

/// The teacher's opinion on each token as a factor of its advantage, whose sign it never changes:
///
/// ```text
/// factor_t    = clamp(exp(sign(A_t) (teacher_log_probs - log_probs)), 1 - clip, 1 + clip)
/// advantage_t = A_t ((1 - mix) + mix factor_t)
/// ```
///
/// Rewards say which answers are good, the teacher which of their tokens made them so.
///
/// Paper: RLSD, [arXiv 2604.03128](https://arxiv.org/abs/2604.03128), as ms-swift computes it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TeacherFactor {
    /// The share of the factor, the rest being 1. From 0 to 1.
    pub mix: f64,
    /// How far the factor may be from 1. Above 0, 1 at most.
    pub clip: f64,
    /// Whether advantages of 0 or above stay what they are.
    pub negative_only: bool,
}

impl Default for TeacherFactor {
    fn default() -> Self {
        Self {
            mix: 0.5,
            clip: 0.2,
            negative_only: false,
        }
    }
}

impl TeacherFactor {
    /// Sets the share of the factor.
    #[must_use]
    pub const fn with_mix(mut self, mix: f64) -> Self {
        self.mix = mix;
        self
    }

    /// Sets how far the factor may be from 1.
    #[must_use]
    pub const fn with_clip(mut self, clip: f64) -> Self {
        self.clip = clip;
        self
    }

    /// Sets whether advantages of 0 or above stay what they are.
    #[must_use]
    pub const fn with_negative_only(mut self, negative_only: bool) -> Self {
        self.negative_only = negative_only;
        self
    }

    fn of(&self, advantages: Tensor<2>, gap: Tensor<2>) -> Tensor<2> {
        let factor = (advantages.clone().sign() * gap).exp();
        let factor = factor.clamp(1.0 - self.clip, 1.0 + self.clip);
        let mixed = advantages.clone() * (factor * self.mix + (1.0 - self.mix));
        match self.negative_only {
            true => mixed.mask_where(advantages.clone().greater_equal_elem(0), advantages),
            false => mixed,
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        unit("factor.mix", self.mix)?;
        share("factor.clip", self.clip)
    }
}

impl From<ReverseKlAdvantage> for TeacherSignalConfig {
    fn from(config: ReverseKlAdvantage) -> Self {
        Self::ReverseKl(config)
    }
}

impl From<TeacherFactor> for TeacherSignalConfig {
    fn from(config: TeacherFactor) -> Self {
        Self::Factor(config)
    }
}

impl TeacherSignalConfig {
    /// Checks the configuration.
    ///
    /// # Errors
    ///
    /// A number outside its range: the error names the field, the value and what would be accepted.
    pub fn init(&self) -> Result<TeacherSignal, ConfigError> {
        match self {
            Self::ReverseKl(config) => config.validate()?,
            Self::Factor(config) => config.validate()?,
        }
        Ok(TeacherSignal { config: *self })
    }
}

/// Log-probs of a teacher and of the policy that sampled, with the advantages that they change.
///
/// | tensor | shape | meaning |
/// |---|---|---|
/// | `teacher_log_probs` | `[B, T]` | of the teacher, at the sampled tokens |
/// | `log_probs` | `[B, T]` | of the policy that sampled |
/// | `advantages` | `[B, T]`, `[B, 1]` or `[B]` | absent: 0, the teacher alone; a [`TeacherFactor`] needs them |
/// | `action_mask` | `[B, T]` bool | true where the policy generated the token; absent: all |
#[derive(Debug, Clone)]
pub struct TeacherBatch {
    teacher_log_probs: Tensor<2>,
    log_probs: Tensor<2>,
    advantages: Option<Advantages>,
    action_mask: Option<Tensor<2, Bool>>,
}

impl TeacherBatch {
    /// A batch in which every token is valid; see [`TeacherBatch`] for the shapes.
    pub fn new(teacher_log_probs: Tensor<2>, log_probs: Tensor<2>) -> Self {
        Self {
            teacher_log_probs,
            log_probs,
            advantages: None,
            action_mask: None,
        }
    }

    /// Adds the advantages that the rewards gave.
    pub fn with_advantages(mut self, advantages: impl Into<Advantages>) -> Self {
        self.advantages = Some(advantages.into());
        self
    }

    /// Sets which tokens the policy generated.
    pub fn with_action_mask(mut self, action_mask: Tensor<2, Bool>) -> Self {
        self.action_mask = Some(action_mask);
        self
    }
}

/// Advantages with the teacher in them, detached and still on the device; f64 where `log_probs` is
/// f64, else f32.
#[derive(Debug, Clone)]
pub struct TeacherOutput {
    /// `[B, T]`, 0 at masked positions; as a `PolicyBatch` takes them.
    pub advantages: Tensor<2>,
    /// `[B, T]`, `teacher_log_probs - log_probs`, 0 at masked positions.
    pub gap: Tensor<2>,
    /// `[1]`, its mean over the valid tokens: an estimate of `-KL(policy, teacher)`; 0 where there
    /// is no valid token.
    pub mean_gap: Tensor<1>,
}

/// Changes advantages by what a teacher makes of the sampled tokens. A divergence of its whole
/// distribution, as a loss, is [`Distillation`](crate::Distillation).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TeacherSignal {
    config: TeacherSignalConfig,
}

impl TeacherSignal {
    /// The configuration that it was built from.
    pub fn config(&self) -> &TeacherSignalConfig {
        &self.config
    }

    /// Changes the advantages of a batch. No gradient flows. A log-prob that the teacher did not
    /// give is never read as 0: one number is read back from the device to find such a token.
    ///
    /// # Shapes
    ///
    /// - `batch`: see [`TeacherBatch`]
    /// - output: `[B, T]`
    ///
    /// # Errors
    ///
    /// Shapes or devices that differ, a type that the device does not compute, advantages that are
    /// needed and absent: found before any device work. A log-prob of the teacher that is not
    /// finite at a valid token, and a device that fails to deliver.
    pub fn forward(&self, batch: TeacherBatch) -> Result<TeacherOutput, BatchError> {
        let alike = Alike::of("log_probs", &batch.log_probs)?;
        alike.tokens("teacher_log_probs", &batch.teacher_log_probs)?;
        let advantages = match self.config {
            TeacherSignalConfig::ReverseKl(_) => batch.advantages,
            TeacherSignalConfig::Factor(_) => {
                let (by, add) = ("a factor of them", "TeacherBatch::with_advantages");
                Some(needed(batch.advantages, "advantages", by, add)?)
            }
        };
        let advantages = advantages.map(|given| column(given, &alike)).transpose()?;
        let mask = alike.mask(batch.action_mask)?;

        let dtype = arithmetic(batch.log_probs.dtype());
        let constant = |x: Tensor<2>| x.without_autodiff().cast(dtype);
        let log_probs = constant(batch.log_probs);
        if alike.shape.contains(&0) {
            return Ok(TeacherOutput {
                mean_gap: log_probs.clone().sum(),
                advantages: log_probs.clone(),
                gap: log_probs,
            });
        }
        let valid = Valid::new(mask, dtype);
        let teacher = constant(batch.teacher_log_probs);
        refuse_missing(&teacher, &valid)?;
        let gap = valid.select(teacher - log_probs);
        let advantages = match advantages {
            Some(advantages) => valid.select(constant(advantages).expand(alike.shape)),
            None => gap.zeros_like(),
        };
        let advantages = match self.config {
            TeacherSignalConfig::ReverseKl(config) => advantages + config.of(gap.clone()),
            TeacherSignalConfig::Factor(config) => config.of(advantages, gap.clone()),
        };
        Ok(TeacherOutput {
            advantages: valid.select(advantages),
            mean_gap: valid.mean(gap.clone()),
            gap,
        })
    }
}

/// `[B, T]` or `[B, 1]`.
fn column(advantages: Advantages, alike: &Alike<2>) -> Result<Tensor<2>, BatchError> {
    let [batch, _] = alike.shape;
    let per_sequence = match advantages {
        Advantages::Token(x) if x.dims() != [batch, 1] || x.dims() == alike.shape => {
            alike.tokens("advantages", &x)?;
            return Ok(x);
        }
        Advantages::Token(x) => x.reshape([batch]),
        Advantages::Sequence(x) => x,
    };
    alike.sequences("advantages", &per_sequence)?;
    Ok(per_sequence.reshape([batch, 1]))
}

/// Finds a valid token that the teacher has no finite log-prob for.
fn refuse_missing(teacher: &Tensor<2>, valid: &Valid) -> Result<(), BatchError> {
    let selected = valid.select(teacher.clone());
    let missing = valid.count(selected.clone().is_finite().bool_not());
    let count = read_back("teacher_log_probs", missing)?;
    if count.iter::<f64>().all(|count| count == 0.0) {
        return Ok(());
    }
    let values = read_back("teacher_log_probs", selected)?;
    let mut values = values.iter::<f64>().enumerate();
    match values.find(|(_, value)| !value.is_finite()) {
        Some((index, value)) => Err(BatchError::NotFinite {
            tensor: "teacher_log_probs",
            value,
            index,
            accepted: "finite log-probs; mask tokens that the teacher has not scored",
        }),
        None => Ok(()),
    }
}
