//! What an estimator is given, and every check of it.

use burn::tensor::{Bool, DType, Device, Tensor};

use super::{
    AdvantageEstimatorConfig, GeneralizedAdvantage, GroupBaseline, GroupRelative, ReturnToGo,
    TokenBaseline, token_baseline::Evidence,
};
use crate::BatchError;
use crate::alike::{Alike, needed};

/// One batch of `B` sequences of `T` tokens, to estimate advantages for.
///
/// | tensor | shape | meaning | read by |
/// |---|---|---|---|
/// | `rewards` | `[B, T]` or `[B]` | per token, or per sequence; one kind or [several](Self::with_more_rewards) | every estimator |
/// | `action_mask` | `[B, T]` bool | true where the policy generated the token; absent: all | every estimator |
/// | `values` | `[B, T]` | the critic's estimates | `GeneralizedAdvantage` |
/// | `group_ids` | `B` numbers | equal for sequences that are compared with one another | `GroupRelative`, `TokenBaseline` |
/// | `baselines` | `[B]` | what each sequence's return is compared with | `ReturnToGo` with a baseline |
/// | `log_probs` | `[B, T]` | of the sampled tokens, by the policy that is about to be updated | `TokenBaseline` |
/// | `sums_of_squares` | `[B, T]` | of the probabilities of all words, as [`LogProbs`](crate::LogProbs) has them | `TokenBaseline` |
/// | `importance_weights` | `[B, T]` | what the loss is going to multiply each token by; absent: 1 | `TokenBaseline` |
///
/// What an estimator does not read may be there or not. `T` is that of the mask, the values or the
/// `log_probs` where rewards are per sequence, and 1 where there is none of them.
///
/// Group ids are numbers on the host: every trainer knows there which prompt it sampled from, and
/// from numbers on the device the size of the largest group would have to be read back.
#[derive(Debug, Clone)]
pub struct AdvantageBatch {
    /// Each with its weight; at least one.
    pub(super) rewards: Vec<(f64, Rewards)>,
    pub(super) action_mask: Option<Tensor<2, Bool>>,
    pub(super) values: Option<Tensor<2>>,
    pub(super) group_ids: Option<Vec<i64>>,
    pub(super) baselines: Option<Tensor<1>>,
    pub(super) log_probs: Option<Tensor<2>>,
    pub(super) sums_of_squares: Option<Tensor<2>>,
    pub(super) importance_weights: Option<Tensor<2>>,
}

/// Rewards, per token or per sequence.
#[derive(Debug, Clone)]
pub enum Rewards {
    /// `[B, T]`.
    Token(Tensor<2>),
    /// `[B]`: the reward of a whole sequence, given at its last valid token.
    Sequence(Tensor<1>),
}

impl From<Tensor<2>> for Rewards {
    fn from(rewards: Tensor<2>) -> Self {
        Self::Token(rewards)
    }
}

impl From<Tensor<1>> for Rewards {
    fn from(rewards: Tensor<1>) -> Self {
        Self::Sequence(rewards)
    }
}

impl Rewards {
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Token(rewards) => rewards.dtype(),
            Self::Sequence(rewards) => rewards.dtype(),
        }
    }

    pub(crate) fn device(&self) -> Device {
        match self {
            Self::Token(rewards) => rewards.device(),
            Self::Sequence(rewards) => rewards.device(),
        }
    }

    pub(crate) fn check(&self, alike: &Alike<2>) -> Result<(), BatchError> {
        match self {
            Self::Token(rewards) => alike.tokens("rewards", rewards),
            Self::Sequence(rewards) => alike.sequences("rewards", rewards),
        }
    }

    /// Outside autodiff, in another type.
    pub(crate) fn constant(self, dtype: DType) -> Self {
        match self {
            Self::Token(rewards) => Self::Token(rewards.without_autodiff().cast(dtype)),
            Self::Sequence(rewards) => Self::Sequence(rewards.without_autodiff().cast(dtype)),
        }
    }
}

impl AdvantageBatch {
    /// A batch in which every token is valid; see [`AdvantageBatch`] for the shapes.
    pub fn new(rewards: impl Into<Rewards>) -> Self {
        Self {
            rewards: vec![(1.0, rewards.into())],
            action_mask: None,
            values: None,
            group_ids: None,
            baselines: None,
            log_probs: None,
            sums_of_squares: None,
            importance_weights: None,
        }
    }

    /// Adds another kind of reward with its weight, such as one for the format beside the one for the
    /// answer. What `new` was given has the weight 1, unless it is changed by
    /// [`with_reward_weight`](Self::with_reward_weight).
    ///
    /// `GroupRelative` compares each kind within the groups by itself, scales it by its own deviation,
    /// and adds up `weight * advantage`: a kind that varies little counts as much as one that varies
    /// much (GDPO, [arXiv 2601.05242](https://arxiv.org/abs/2601.05242)). To all other estimators the
    /// reward is the sum of `weight * rewards`.
    #[must_use]
    pub fn with_more_rewards(mut self, weight: f64, rewards: impl Into<Rewards>) -> Self {
        self.rewards.push((weight, rewards.into()));
        self
    }

    /// Sets the weight of the rewards that `new` was given; 1 unless it is set.
    #[must_use]
    pub fn with_reward_weight(mut self, weight: f64) -> Self {
        self.rewards[0].0 = weight;
        self
    }

    setters! {
        /// Sets which tokens the policy generated.
        with_action_mask(action_mask: Tensor<2, Bool>);
        /// Adds the critic's estimates.
        with_values(values: Tensor<2>);
    }

    /// Adds a number for each sequence, equal where sequences are compared with one another: the
    /// index of the prompt, for instance. Any numbers will do, in any order.
    pub fn with_group_ids(mut self, group_ids: impl Into<Vec<i64>>) -> Self {
        self.group_ids = Some(group_ids.into());
        self
    }

    setters! {
        /// Adds what each sequence's return is compared with.
        with_baselines(baselines: Tensor<1>);
        /// Adds the log-probs of the sampled tokens, by the policy that is about to be updated.
        with_log_probs(log_probs: Tensor<2>);
        /// Adds the sums of the squared probabilities of all words at each token, which the head gives
        /// where [`LogProbsConfig::with_sum_of_squares`](crate::LogProbsConfig::with_sum_of_squares) is set.
        with_sums_of_squares(sums_of_squares: Tensor<2>);
        /// Adds what the loss is going to multiply each token by, such as the weights of a rollout
        /// correction.
        with_importance_weights(importance_weights: Tensor<2>);
    }

    /// Every check, none of which touches the device's queue.
    pub(super) fn check(
        self,
        config: &AdvantageEstimatorConfig,
    ) -> Result<Checked<'_>, BatchError> {
        let (reference, shape) = self.shape();
        let alike = Alike {
            reference,
            shape,
            device: self.rewards[0].1.device(),
        };
        for (weight, rewards) in &self.rewards {
            rewards.check(&alike)?;
            if !weight.is_finite() {
                return Err(BatchError::OutOfRange {
                    field: "the weight of rewards",
                    value: weight.to_string(),
                    accepted: "a finite number".into(),
                });
            }
        }
        let floats = [
            ("values", &self.values),
            ("log_probs", &self.log_probs),
            ("sums_of_squares", &self.sums_of_squares),
            ("importance_weights", &self.importance_weights),
        ];
        for (name, tensor) in floats {
            if let Some(tensor) = tensor {
                alike.tokens(name, tensor)?;
            }
        }
        if let Some(baselines) = &self.baselines {
            alike.sequences("baselines", baselines)?;
        }
        if let Some(action_mask) = &self.action_mask {
            alike.shaped("action_mask", action_mask)?;
        }
        if let Some(group_ids) = &self.group_ids {
            alike.shape("group_ids", &[group_ids.len()], &shape[..1])?;
        }
        // A mask that was not given has no lengths, although every token of it is valid.
        let masked = self.action_mask.as_ref().map(|_| ());
        let has_token_rewards = self.token_rewards().is_some();
        let needs = match config {
            AdvantageEstimatorConfig::Generalized(config) => {
                let by = "the generalised advantage";
                let values = needed(self.values, "values", by, "AdvantageBatch::with_values")?;
                Needs::Generalized(config, values)
            }
            AdvantageEstimatorConfig::ReturnToGo(config) if config.subtract_baseline => {
                let (by, add) = ("`subtract_baseline`", "AdvantageBatch::with_baselines");
                Needs::Baselines(config, needed(self.baselines, "baselines", by, add)?)
            }
            AdvantageEstimatorConfig::ReturnToGo(config) => match config.token_baseline {
                None => Needs::ReturnToGo(config),
                Some(baseline) => {
                    let by = "`token_baseline`";
                    let add = "AdvantageBatch::with_log_probs";
                    let log_probs = needed(self.log_probs, "log_probs", by, add)?;
                    let add = "AdvantageBatch::with_sums_of_squares";
                    let squares = needed(self.sums_of_squares, "sums_of_squares", by, add)?;
                    let add = "AdvantageBatch::with_group_ids";
                    let evidence = Evidence {
                        log_probs,
                        sums_of_squares: squares,
                        importance_weights: self.importance_weights,
                        group_ids: needed(self.group_ids, "group_ids", by, add)?,
                    };
                    Needs::TokenBaseline(config, baseline, Box::new(evidence))
                }
            },
            AdvantageEstimatorConfig::GroupRelative(config) => {
                let add = "AdvantageBatch::with_action_mask";
                let by = "`baseline = length_weighted`";
                let unknown_lengths = config.baseline == GroupBaseline::LengthWeighted
                    && !has_token_rewards
                    && self.values.is_none()
                    && self.log_probs.is_none();
                if unknown_lengths {
                    needed(masked, "action_mask", by, add)?;
                }
                let add = "AdvantageBatch::with_group_ids";
                let by = "the comparison within groups";
                Needs::GroupRelative(config, needed(self.group_ids, "group_ids", by, add)?)
            }
        };
        Ok(Checked {
            shape,
            action_mask: alike.mask(self.action_mask)?,
            rewards: self.rewards,
            needs,
        })
    }

    /// `[B, T]`, and the tensor that says so.
    fn shape(&self) -> (&'static str, [usize; 2]) {
        let given = (&self.action_mask, &self.values, &self.log_probs);
        match (self.token_rewards(), given, &self.rewards[0].1) {
            (Some(rewards), ..) | (None, _, Rewards::Token(rewards)) => ("rewards", rewards.dims()),
            (None, (Some(mask), ..), _) => ("action_mask", mask.dims()),
            (None, (_, Some(values), _), _) => ("values", values.dims()),
            (None, (.., Some(log_probs)), _) => ("log_probs", log_probs.dims()),
            (None, (None, None, None), Rewards::Sequence(rewards)) => {
                ("rewards", [rewards.dims()[0], 1])
            }
        }
    }

    /// The first rewards that are given for each token.
    fn token_rewards(&self) -> Option<&Tensor<2>> {
        self.rewards.iter().find_map(|(_, rewards)| match rewards {
            Rewards::Token(rewards) => Some(rewards),
            Rewards::Sequence(_) => None,
        })
    }
}

/// A batch that has passed every check, with what its estimator reads.
pub(super) struct Checked<'a> {
    pub shape: [usize; 2],
    /// Each with its weight.
    pub rewards: Vec<(f64, Rewards)>,
    pub action_mask: Tensor<2, Bool>,
    pub needs: Needs<'a>,
}

/// An estimator with what it reads beside rewards and mask.
pub(super) enum Needs<'a> {
    /// With the values.
    Generalized(&'a GeneralizedAdvantage, Tensor<2>),
    ReturnToGo(&'a ReturnToGo),
    /// With those of the sequences.
    Baselines(&'a ReturnToGo, Tensor<1>),
    /// With what that of a token is made of.
    TokenBaseline(&'a ReturnToGo, TokenBaseline, Box<Evidence>),
    /// With the group ids.
    GroupRelative(&'a GroupRelative, Vec<i64>),
}
