//! A batch under several objectives.

use burn::tensor::{Tensor, TensorReadError};
use policy_loss::{
    BatchError, MetricValues, PolicyBatch, PolicyLoss, PolicyLossConfig, RolloutCorrection,
    RolloutWeight,
};
use serde::Serialize;

use crate::histogram::Histogram;
use crate::map::{Channel, Layout};
use crate::objective::{Computed, Entry, Tokens, conditions, numbers, refused};

/// Dots of a picture with one for each sequence; of more some are left out.
const DOTS: usize = 1000;
/// Tokens that a page holds as text.
const WORDS: usize = 100_000;

/// Why a batch has no picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// There is no objective.
    #[error("there is no objective; give one at least")]
    NoObjective,
    /// An objective refuses the batch.
    #[error("{name}: {source}")]
    Batch {
        /// The place of the objective among those that were given.
        index: usize,
        /// Its name.
        name: String,
        /// Why.
        source: Box<BatchError>,
    },
    /// Something that was added has another length than the batch.
    #[error("`{tensor}` holds {got} values; expected {expected}")]
    Length {
        /// What was added.
        tensor: &'static str,
        /// The length that would be accepted.
        expected: usize,
        /// The length that was given.
        got: usize,
    },
    /// The device failed while it computed.
    #[error("the device failed while it computed: {0}")]
    Device(#[from] TensorReadError),
}

/// A batch under one or more objectives: everything on the page but warnings and curves.
#[derive(Debug, Clone, Serialize)]
pub struct BatchPicture {
    shape: [usize; 2],
    valid_tokens: usize,
    objectives: Vec<Entry>,
    sentences: &'static [(&'static str, &'static str)],
    #[serde(skip_serializing_if = "Option::is_none")]
    gaps: Option<Histogram>,
    sequences: Sequences,
    map: Layout,
    advantage: Channel,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<Channel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<Words>,
    #[serde(skip)]
    metrics: Vec<MetricValues>,
}

/// Sequences with a valid token.
#[derive(Debug, Clone, Serialize)]
struct Sequences {
    /// Every how many one is shown.
    every: usize,
    numbers: Vec<usize>,
    lengths: Vec<usize>,
    /// Means over valid tokens.
    advantages: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rewards: Option<Vec<f64>>,
}

/// Tokens as text.
#[derive(Debug, Clone, Serialize)]
struct Words {
    /// Each text once.
    texts: Vec<String>,
    /// For each row of the map its tokens, as places in `texts`.
    rows: Vec<Vec<usize>>,
    /// How many rows of the map have text.
    complete: bool,
}

impl BatchPicture {
    /// Computes every objective on a batch, with its gradient.
    ///
    /// `log_probs` are those of the batch, `[B, T]` and tracked; the batch may not be packed.
    /// Objectives have names, by which the page calls them.
    ///
    /// # Errors
    ///
    /// There is no objective, one of them refuses the batch, or the device fails.
    pub fn new(
        batch: &PolicyBatch,
        log_probs: &Tensor<2>,
        objectives: &[(String, PolicyLoss)],
    ) -> Result<Self, ReportError> {
        let Some((first_name, first)) = objectives.first() else {
            return Err(ReportError::NoObjective);
        };
        let tokens = Tokens::read(batch, first_name, first, log_probs.dims())?;
        let computed = objectives.iter().enumerate();
        let computed = computed
            .map(|(index, (name, loss))| Computed::new(index, name, loss, batch, log_probs));
        let computed = computed.collect::<Result<Vec<_>, _>>()?;
        let map = Layout::new(tokens.shape, 2 + 3 * computed.len());
        let valid_tokens = tokens.valid.iter().filter(|valid| **valid).count();
        let entries: Vec<Entry> = computed
            .iter()
            .map(|one| Entry::new(one, &computed, &tokens, &map))
            .collect();
        let bounds: Vec<f64> = entries.iter().flat_map(Entry::bounds_of_gaps).collect();
        Ok(Self {
            shape: tokens.shape,
            valid_tokens,
            objectives: entries,
            sentences: MetricValues::SENTENCES,
            gaps: tokens
                .gap
                .as_ref()
                .map(|gap| Histogram::new(&tokens.pairs(gap, false), &bounds)),
            sequences: tokens.sequences(),
            advantage: map.channel(&tokens.advantages, &tokens.valid),
            gap: tokens
                .gap
                .as_ref()
                .map(|gap| map.channel(gap, &tokens.valid)),
            map,
            words: None,
            metrics: computed.iter().map(|one| one.metrics).collect(),
        })
    }

    /// The metrics of each objective.
    #[must_use]
    pub fn metrics(&self) -> &[MetricValues] {
        &self.metrics
    }

    /// Adds the reward of each of the `B` sequences.
    ///
    /// # Errors
    ///
    /// There are not `B` of them.
    pub fn with_rewards(mut self, rewards: &[f64]) -> Result<Self, ReportError> {
        let expected = self.shape[0];
        if rewards.len() != expected {
            return Err(ReportError::Length {
                tensor: "rewards",
                expected,
                got: rewards.len(),
            });
        }
        let numbers = self.sequences.numbers.iter();
        self.sequences.rewards = Some(numbers.map(|number| rewards[*number]).collect());
        Ok(self)
    }

    /// Adds the text of each of the `B * T` tokens, row by row.
    ///
    /// # Errors
    ///
    /// There are not `B * T` of them.
    pub fn with_text<T: AsRef<str>>(mut self, texts: &[T]) -> Result<Self, ReportError> {
        let [batch, tokens] = self.shape;
        if texts.len() != batch * tokens {
            return Err(ReportError::Length {
                tensor: "texts",
                expected: batch * tokens,
                got: texts.len(),
            });
        }
        let mut places = std::collections::HashMap::new();
        let mut words = Words {
            texts: Vec::new(),
            rows: Vec::new(),
            complete: true,
        };
        for (shown, row) in self.map.rows.iter().enumerate() {
            if (shown + 1) * tokens > WORDS {
                words.complete = false;
                break;
            }
            let row = texts[row * tokens..(row + 1) * tokens].iter().map(|text| {
                let text = text.as_ref();
                *places.entry(text.to_owned()).or_insert_with(|| {
                    words.texts.push(text.to_owned());
                    words.texts.len() - 1
                })
            });
            let row = row.collect();
            words.rows.push(row);
        }
        self.words = Some(words);
        Ok(self)
    }
}

impl Tokens {
    fn read(
        batch: &PolicyBatch,
        name: &str,
        loss: &PolicyLoss,
        shape: [usize; 2],
    ) -> Result<Self, ReportError> {
        let refused = refused(0, name);
        let details = loss.token_details(batch.clone()).map_err(&refused)?;
        // The gap belongs to the batch; the correction that shows it changes nothing.
        let raw = PolicyLossConfig::new()
            .with_reduction(loss.config().objective.reduction)
            .with_rollout_correction(RolloutCorrection::weigh(RolloutWeight::raw()));
        let raw = match raw.init() {
            Ok(raw) => raw,
            Err(error) => unreachable!("a raw weight has no numbers: {error}"),
        };
        let gap = match raw.token_details(batch.clone()) {
            Ok(details) => details.rollout_gap,
            Err(BatchError::Missing { .. }) => None,
            Err(error) => return Err(refused(error)),
        };
        Ok(Self {
            shape,
            valid: conditions(details.valid)?,
            advantages: numbers(details.advantages)?,
            gap: gap.map(numbers).transpose()?,
        })
    }

    /// The places of the valid tokens of each sequence that has one, with its number.
    fn rows(&self) -> impl Iterator<Item = (usize, Vec<usize>)> + '_ {
        let [batch, tokens] = self.shape;
        let rows = (0..batch).map(move |row| {
            let places = row * tokens..(row + 1) * tokens;
            (row, places.filter(|place| self.valid[*place]).collect())
        });
        rows.filter(|(_, places): &(usize, Vec<usize>)| !places.is_empty())
    }

    /// Pairs of a value and an advantage: of valid tokens, or of the first of each sequence.
    pub fn pairs(&self, values: &[f64], of_sequences: bool) -> Vec<(f64, f64)> {
        let pair = |place: usize| (values[place], self.advantages[place]);
        let rows = self.rows();
        match of_sequences {
            true => rows.map(|(_, places)| pair(places[0])).collect(),
            false => rows.flat_map(|(_, places)| places).map(pair).collect(),
        }
    }

    /// Least, mean and largest value of sequences, in the order of the means.
    pub fn spreads(&self, values: &[f64]) -> Vec<[f64; 3]> {
        let mut spreads: Vec<[f64; 3]> = self
            .rows()
            .map(|(_, places)| {
                let values = || places.iter().map(|place| values[*place]);
                [
                    values().fold(f64::INFINITY, f64::min),
                    values().sum::<f64>() / places.len() as f64,
                    values().fold(f64::NEG_INFINITY, f64::max),
                ]
            })
            .filter(|spread| spread.iter().all(|value| value.is_finite()))
            .collect();
        spreads.sort_by(|one, other| one[1].total_cmp(&other[1]));
        let every = spreads.len().div_ceil(DOTS).max(1);
        spreads.into_iter().step_by(every).collect()
    }

    fn sequences(&self) -> Sequences {
        let every = self.rows().count().div_ceil(DOTS).max(1);
        let mut sequences = Sequences {
            every,
            numbers: Vec::new(),
            lengths: Vec::new(),
            advantages: Vec::new(),
            rewards: None,
        };
        for (number, places) in self.rows().step_by(every) {
            let sum: f64 = places.iter().map(|place| self.advantages[*place]).sum();
            let mean = sum / places.len() as f64;
            sequences.numbers.push(number);
            sequences.lengths.push(places.len());
            sequences.advantages.push(mean);
        }
        sequences
    }
}
