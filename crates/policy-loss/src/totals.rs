//! The size of the global batch.

use policy_loss_kernels::objective::Denominator;

use crate::{BatchError, Reduction};

const TOKENS: &str = "totals.tokens";
const SEQUENCES: &str = "totals.sequences";
const PROMPTS: &str = "totals.prompts";

/// The size of the *global* batch, of which this one is a shard or a micro-batch.
///
/// A local mean of local means is wrong when shards hold different numbers of tokens:
///
/// ```text
/// token_mean         sum(token_loss) / tokens * world_size
/// sequence_mean      sum_b(sum_t(token_loss) / n_b) / sequences * world_size
/// prompt_mean        sum_b(sum_t(token_loss) / n_p) / prompts * world_size
/// sequence_sum_mean  sum(token_loss) / sequences * world_size
/// fixed_length       sum(token_loss) / (sequences * length) * world_size
/// token_sum          sum(token_loss) * world_size
/// ```
///
/// `n_p` are the valid tokens of the global batch that answer the prompt of the sequence
/// ([`PolicyBatch::with_prompt_tokens`](crate::PolicyBatch::with_prompt_tokens)).
///
/// `world_size` undoes the averaging of gradients across ranks; leave it out (1) for gradient
/// accumulation. For any split of a batch, the shards' gradients then sum up to the gradient of
/// the undivided batch, and their losses to its loss, if the objective [is exact over
/// shards](crate::Objective::is_exact_over_shards).
///
/// Metrics are those of the shard; [`merge`](crate::PolicyLossMetrics::merge) makes metrics of the
/// whole batch of them, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GlobalTotals {
    /// Valid tokens of the global batch; the token mean needs it.
    pub tokens: Option<usize>,
    /// Sequences of the global batch that hold a valid token; every reduction that
    /// divides by sequences needs it.
    pub sequences: Option<usize>,
    /// Prompts of the global batch that a valid token answers; the mean over prompts needs it.
    pub prompts: Option<usize>,
    /// Ranks whose gradients are averaged; 1 when left out.
    pub world_size: Option<usize>,
}

impl GlobalTotals {
    /// No totals yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// Sets the number of valid tokens of the global batch.
        with_tokens(tokens: usize);
        /// Sets the number of sequences of the global batch that hold a valid token.
        with_sequences(sequences: usize);
        /// Sets the number of prompts of the global batch that a valid token answers.
        with_prompts(prompts: usize);
        /// Sets the number of ranks whose gradients are averaged.
        with_world_size(world_size: usize);
    }

    /// The fields that are given although `reduction` divides by something else, named as in
    /// [`BatchError::Totals`]; they have no effect. `token_sum` divides by nothing.
    pub fn without_effect(&self, reduction: Reduction) -> Vec<&'static str> {
        let divisor = self.divisor(reduction).map(|(field, _)| field);
        let given = self
            .counts()
            .into_iter()
            .filter(|(_, total)| total.is_some());
        let given = given.map(|(field, _)| field);
        given.filter(|field| Some(*field) != divisor).collect()
    }

    /// What can be divided by: the field, and its total.
    fn counts(&self) -> [(&'static str, Option<usize>); 3] {
        [
            (TOKENS, self.tokens),
            (SEQUENCES, self.sequences),
            (PROMPTS, self.prompts),
        ]
    }

    /// What a reduction divides by; absent where nothing is counted.
    fn divisor(&self, reduction: Reduction) -> Option<(&'static str, Option<usize>)> {
        let [tokens, sequences, prompts] = self.counts();
        match reduction.denominator() {
            Denominator::Tokens => Some(tokens),
            Denominator::Sequences => Some(sequences),
            Denominator::Prompts => Some(prompts),
            Denominator::One => None,
        }
    }

    /// What the sum is multiplied by instead of being divided by a local count.
    pub(crate) fn scale(&self, reduction: Reduction) -> Result<f64, BatchError> {
        let accepted = "an integer above 0";
        let world_size = ("totals.world_size", self.world_size);
        for (field, value) in self.counts().into_iter().chain([world_size]) {
            if value == Some(0) {
                return Err(BatchError::Totals {
                    field,
                    value: "0".into(),
                    accepted,
                    reduction: reduction.name(),
                });
            }
        }
        let world_size = self.world_size.unwrap_or(1) as f64;
        let Some((field, total)) = self.divisor(reduction) else {
            // Nothing is counted; the ranks' gradients are averaged all the same.
            return Ok(world_size);
        };
        match total {
            Some(total) => Ok(world_size / (total as f64 * reduction.length())),
            None => Err(BatchError::Totals {
                field,
                value: "missing, while other totals are given".into(),
                accepted,
                reduction: reduction.name(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_that_nothing_divides_by_has_no_effect() {
        let all = GlobalTotals::new()
            .with_tokens(10)
            .with_sequences(4)
            .with_prompts(2);
        for (reduction, expected) in [
            (Reduction::TokenMean, vec![SEQUENCES, PROMPTS]),
            (Reduction::SequenceMean, vec![TOKENS, PROMPTS]),
            (Reduction::PromptMean, vec![TOKENS, SEQUENCES]),
            (Reduction::FixedLength { length: 5 }, vec![TOKENS, PROMPTS]),
            (Reduction::TokenSum, vec![TOKENS, SEQUENCES, PROMPTS]),
        ] {
            assert_eq!(all.without_effect(reduction), expected);
            let none = GlobalTotals::new().with_world_size(2);
            assert!(none.without_effect(reduction).is_empty());
        }
    }
}
