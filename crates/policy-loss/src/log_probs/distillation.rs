//! Distances between a student's and a teacher's distribution over the vocabulary.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::kind::Basic;
use burn::tensor::{Bool, DType, Int, Tensor};
use policy_loss_kernels::objective::check::{require, unit};
use serde::{Deserialize, Serialize};

use super::config::{Entropy, TokenLogProbs};
use super::prepared::{Chosen, Place, Work};
use super::seam;
use super::tokens::as_indices;
use super::{LinearHead, LogProbsTokens, checks, composed};
use crate::alike::Alike;
use crate::{BatchError, ConfigError};

/// How a student's distribution `s` differs from a teacher's `t`. Its gradient is the student's alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TeacherDivergence {
    /// `KL(t || s) = sum_v t_v (log t_v - log s_v)`: the student covers what the teacher does.
    ForwardKl,
    /// `KL(s || t) = sum_v s_v (log s_v - log t_v)`: the student stays where the teacher is likely.
    ReverseKl,
    /// `w KL(t || s) + (1 - w) KL(s || t)`.
    Mixed {
        /// The share `w` of the forward KL. From 0 to 1.
        forward_share: f64,
    },
    /// The generalized Jensen-Shannon divergence
    /// `b KL(t || m) + (1 - b) KL(s || m)`, `m = b t + (1 - b) s`.
    JensenShannon {
        /// The share `b` of the teacher in the mixture, called beta by others. Above 0 and below 1: at 0
        /// and at 1 the divergence itself is 0, where TRL's beta of 0 and of 1 is
        /// [`ForwardKl`](Self::ForwardKl) and [`ReverseKl`](Self::ReverseKl).
        teacher_share: f64,
    },
}

impl TeacherDivergence {
    /// Whether both are compared with a mixture of the two, and not with one another.
    pub(super) fn has_mixture(self) -> bool {
        matches!(self, Self::JensenShannon { .. })
    }

    /// What the divergences of the teacher and of the student weigh; in a mixture their shares, too.
    pub(super) fn weights(self) -> [f64; 2] {
        let teacher = match self {
            Self::ForwardKl => 1.0,
            Self::ReverseKl => 0.0,
            Self::Mixed { forward_share } => forward_share,
            Self::JensenShannon { teacher_share } => teacher_share,
        };
        [teacher, 1.0 - teacher]
    }

    /// The sum of what both come to with their weights. What weighs nothing is left out: 0 times an
    /// infinite divergence is NaN.
    pub(super) fn sum_of<T>(
        self,
        teacher: impl Fn(f64) -> T,
        student: impl Fn(f64) -> T,
        add: fn(T, T) -> T,
    ) -> T {
        match self.weights() {
            [weight, 0.0] => teacher(weight),
            [0.0, weight] => student(weight),
            [first, second] => add(teacher(first), student(second)),
        }
    }

    /// The divergence of each row of logarithms of probabilities, `[N, K]`, tracked for the student.
    /// What is -inf has no part in it.
    fn of(self, student: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
        let (of_teacher, of_student) = match self.has_mixture() {
            true => {
                let mixture = mixture(student.clone(), teacher.clone(), self.weights());
                (mixture.clone(), mixture)
            }
            false => (student.clone(), teacher.clone()),
        };
        let sum = self.sum_of(
            |weight| terms(teacher.clone(), of_teacher.clone()).sum_dim(1) * weight,
            |weight| terms(student.clone(), of_student.clone()).sum_dim(1) * weight,
            |sum, more| sum + more,
        );
        sum.squeeze_dim(1)
    }

    fn validate(self) -> Result<(), ConfigError> {
        match self {
            Self::ForwardKl | Self::ReverseKl => Ok(()),
            Self::Mixed { forward_share } => unit("divergence.mixed.forward_share", forward_share),
            Self::JensenShannon { teacher_share } => require(
                teacher_share > 0.0 && teacher_share < 1.0,
                "divergence.jensen_shannon.teacher_share",
                teacher_share,
                "a number above 0 and below 1; `forward_kl` and `reverse_kl` for the ends",
            ),
        }
    }
}

/// `p (log p - log q)`, from logarithms; 0 where `p` is. What is not there is replaced before it is
/// computed with, so that its gradient is 0, too.
fn terms(p: Tensor<2>, q: Tensor<2>) -> Tensor<2> {
    let impossible = p.clone().without_autodiff().exp().equal_elem(0.0);
    let p = p.mask_fill(impossible.clone(), 0.0);
    let q = q.mask_fill(impossible.clone(), 0.0);
    (p.clone().exp() * (p - q)).mask_fill(impossible, 0.0)
}

/// The logarithm of the sum of both with their shares; 0 where both are impossible.
fn mixture(
    student: Tensor<2>,
    teacher: Tensor<2>,
    [of_teacher, of_student]: [f64; 2],
) -> Tensor<2> {
    let mixture = teacher.exp() * of_teacher + student.exp() * of_student;
    let impossible = mixture.clone().without_autodiff().equal_elem(0.0);
    mixture.mask_fill(impossible, 1.0).log()
}

/// What becomes of the words that a teacher's top-k leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tail {
    /// They are one more word, whose probability is what the others leave to 1: `sum_k p_k` counts as
    /// `exp(-1e-7)` at most.
    #[default]
    Bucket,
    /// They have no part: the sums are over the given words alone, whose probabilities do not add up
    /// to 1, so that a divergence may be negative.
    Ignored,
    /// Each distribution is restricted to the given words, and divided by their sum.
    Renormalized,
}

/// Configuration of [`Distillation`].
///
/// ```
/// use policy_loss::{DistillationConfig, TeacherDivergence};
///
/// let half = TeacherDivergence::JensenShannon { teacher_share: 0.5 };
/// let distillation = DistillationConfig::new(half).init()?;
/// let read: DistillationConfig =
///     serde_json::from_str(r#"{ "divergence": { "jensen_shannon": { "teacher_share": 0.5 } } }"#)?;
/// assert_eq!(&read, distillation.config());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// As JSON, fields that are left out take their default, and unknown ones are refused.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillationConfig {
    /// How the distributions are compared.
    pub divergence: TeacherDivergence,
    /// What becomes of the words that a top-k leaves out; a whole vocabulary leaves out none.
    #[serde(default)]
    pub tail: Tail,
    /// The least log-prob that counts, of a top-k: lower ones are set to it, and have no gradient. Over
    /// a whole vocabulary it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_log_prob: Option<f64>,
}

impl Config for DistillationConfig {}

impl DistillationConfig {
    /// With this divergence; what a top-k leaves out is one bucket.
    #[must_use]
    pub const fn new(divergence: TeacherDivergence) -> Self {
        Self {
            divergence,
            tail: Tail::Bucket,
            min_log_prob: None,
        }
    }

    /// Sets what becomes of the words that a top-k leaves out.
    #[must_use]
    pub const fn with_tail(mut self, tail: Tail) -> Self {
        self.tail = tail;
        self
    }

    /// Sets the least log-prob of a top-k that counts.
    #[must_use]
    pub fn with_min_log_prob(mut self, min_log_prob: impl Into<Option<f64>>) -> Self {
        self.min_log_prob = min_log_prob.into();
        self
    }

    /// Checks the configuration and builds what computes.
    ///
    /// # Errors
    ///
    /// A share outside of its range; a least log-prob that is not finite, or not below 0.
    pub fn init(&self) -> Result<Distillation, ConfigError> {
        self.divergence.validate()?;
        if let Some(least) = self.min_log_prob {
            let holds = least.is_finite() && least < 0.0;
            require(holds, "min_log_prob", least, "a finite number below 0")?;
        }
        Ok(Distillation { config: *self })
    }
}

/// The distributions of a model: logits, or hidden states and the head that makes logits of them; with
/// the temperature, the softcap and the memory budget of a [`TokenLogProbs`].
#[derive(Debug, Clone)]
pub struct TokenDistributions<const D: usize> {
    log_probs: TokenLogProbs,
    rows: Tensor<D>,
    head: Option<LinearHead>,
}

impl<const D: usize> TokenDistributions<D> {
    /// Of logits, `[B, T, V]`, `[N, V]`, or any other of rank `D`.
    pub fn of_logits(log_probs: &TokenLogProbs, logits: Tensor<D>) -> Self {
        Self::new(log_probs, logits, None)
    }

    /// Of hidden states, `[B, T, H]`, `[N, H]`, or any other of rank `D`, and a head.
    pub fn of_hidden(log_probs: &TokenLogProbs, hidden: Tensor<D>, head: &LinearHead) -> Self {
        Self::new(log_probs, hidden, Some(head.clone()))
    }

    fn new(log_probs: &TokenLogProbs, rows: Tensor<D>, head: Option<LinearHead>) -> Self {
        let mut config = log_probs.config;
        config.entropy = Entropy::None;
        config.sum_of_squares = false;
        config.check_targets = false;
        Self {
            log_probs: TokenLogProbs { config },
            rows,
            head,
        }
    }

    fn vocabulary(&self) -> usize {
        match &self.head {
            Some(head) => head.dims()[1],
            None => self.rows.dims()[D - 1],
        }
    }

    /// Fails unless the device computes them; found before any token is chosen.
    fn check<const E: usize>(
        &self,
        name: &'static str,
        alike: &Alike<E>,
    ) -> Result<(), BatchError> {
        alike.place(name, &self.rows.device(), self.rows.dtype())?;
        match &self.head {
            Some(head) => checks::head(head, self.rows.dims()[D - 1], alike),
            None => Ok(()),
        }
    }

    /// The same values outside of autodiff.
    fn without_autodiff(self) -> Self {
        Self {
            rows: self.rows.without_autodiff(),
            head: self.head.map(|head| LinearHead {
                weight: head.weight.without_autodiff(),
                bias: head.bias.map(|bias| bias.without_autodiff()),
                transposed: head.transposed,
            }),
            ..self
        }
    }

    /// Of the chosen tokens, checked. There is no work without a token.
    fn prepare(self, chosen: &Chosen) -> Result<(Option<Work>, Place<1>), BatchError> {
        let rows = chosen.rows(flat(self.rows));
        let plain = rows.device().without_autodiff();
        let targets = Tensor::<1, Int>::zeros([rows.dims()[0]], (&plain, DType::I32));
        let tokens = LogProbsTokens::new(targets);
        match &self.head {
            Some(head) => self.log_probs.prepare_linear(rows, head, tokens, None),
            None => self.log_probs.prepare(rows, tokens, None),
        }
    }
}

/// A teacher's most likely words at each token, with their log-probs.
///
/// # Shapes
///
/// - `ids`: `[B, T, K]` or `[N, K]`, or any other of rank `D`, no word twice at a token. A negative
///   one stands for no word, where there are fewer than `K`
/// - `log_probs`: the same, the logarithms of the teacher's probabilities over the whole vocabulary
#[derive(Debug, Clone)]
pub struct TopK<const D: usize> {
    ids: Tensor<D, Int>,
    log_probs: Tensor<D>,
}

impl<const D: usize> TopK<D> {
    /// These words with these log-probs.
    pub fn new(ids: Tensor<D, Int>, log_probs: Tensor<D>) -> Self {
        Self { ids, log_probs }
    }
}

/// How far a student is from a teacher at each token, over the whole vocabulary or a top-k of it: the
/// loss of distillation, before it is reduced.
///
/// With `s` and `t` the student's and the teacher's distribution, `softmax` of their logits after
/// each one's softcap and temperature, [`TeacherDivergence`] says what is computed. The gradient of the
/// student's scaled logits `z` is
///
/// ```text
/// forward KL      s - t
/// reverse KL      s (log s - log t - KL(s || t))
/// mixed           forward * the first + (1 - forward) * the second
/// Jensen-Shannon  (1 - teacher) s (log s - log m - KL(s || m))
/// ```
///
/// and the teacher has none. Of hidden states, chunks of tokens are multiplied with both heads one
/// after another, so that neither's logits are there at once, and again in the backward pass.
///
/// Results are `[.., T]`, 0 where the mask is false: their mean is
/// `loss.sum() / number of valid tokens`. Masked tokens may hold anything, ids and log-probs of a
/// teacher included. To leave them out the mask is read back once, and valid rows of logits are copied.
///
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Device, Distribution, Tensor};
/// use policy_loss::{
///     DistillationConfig, TokenDistributions, LinearHead, LogProbsConfig, TeacherDivergence,
/// };
///
/// let device = Device::flex().autodiff();
/// let random = |shape| Tensor::<2>::random(shape, Distribution::Default, &device);
/// let weight = random([8, 100]).require_grad();
/// let log_probs = LogProbsConfig::new().init()?;
/// let student = LinearHead::new(weight.clone());
/// let student = TokenDistributions::of_hidden(&log_probs, random([4, 8]), &student);
/// let teacher = LinearHead::tied(random([100, 16]));
/// let teacher = TokenDistributions::of_hidden(&log_probs, random([4, 16]), &teacher);
///
/// let distillation = DistillationConfig::new(TeacherDivergence::ReverseKl).init()?;
/// let divergences: Tensor<1> = distillation.forward(student, teacher, None)?;
/// let gradients = divergences.mean().backward();
/// assert!(weight.grad(&gradients).is_some());
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Papers: GKD, [arXiv 2306.13649](https://arxiv.org/abs/2306.13649); SDPO,
/// [arXiv 2601.20802](https://arxiv.org/abs/2601.20802); top-k,
/// [arXiv 2604.13016](https://arxiv.org/abs/2604.13016). Where the teacher only judges the tokens that
/// were sampled, its log-probs go into the advantages instead: [`TeacherSignal`](crate::TeacherSignal).
/// It is a [`Module`] without parameters, so that it can sit inside a model.
#[derive(Module, Debug)]
pub struct Distillation {
    #[module(skip)]
    config: DistillationConfig,
}

impl Distillation {
    /// The configuration that this was built from.
    pub fn config(&self) -> &DistillationConfig {
        &self.config
    }

    /// The divergence of two distributions over one vocabulary at each token. Memory budget, chunks
    /// and implementation are those of the student; logits of both fit the budget together.
    ///
    /// # Shapes
    ///
    /// - `student`, `teacher`: logits `[B, T, V]`, hidden states `[B, T, H]`, of any rank `D`; each may
    ///   have a width of its own
    /// - `action_mask`, and the result: the same without the last dimension, of rank `E = D - 1`
    ///
    /// # Errors
    ///
    /// As [`TokenLogProbs::forward_linear`], two that differ in their tokens or vocabulary, and a
    /// `min_log_prob`, which is of a top-k.
    pub fn forward<const D: usize, const E: usize>(
        &self,
        student: TokenDistributions<D>,
        teacher: TokenDistributions<D>,
        action_mask: impl Into<Option<Tensor<E, Bool>>>,
    ) -> Result<Tensor<E>, BatchError> {
        const { assert!(D == E + 1, "the mask has the rank of the logits, less one") };
        if let Some(least) = self.config.min_log_prob {
            return Err(BatchError::OutOfRange {
                field: "min_log_prob",
                value: least.to_string(),
                accepted: "none over a whole vocabulary; it is of a top-k".into(),
            });
        }
        let alike = checks::rows::<D, E>("student", &student.rows)?;
        let mut expected = student.rows.dims();
        expected[D - 1] = teacher.rows.dims()[D - 1];
        checks::shape("teacher", &teacher.rows.dims(), &expected)?;
        student.check("student", &alike)?;
        teacher.check("teacher", &alike)?;
        let (vocabulary, other) = (student.vocabulary(), teacher.vocabulary());
        if vocabulary != other {
            return Err(BatchError::OutOfRange {
                field: "teacher.vocabulary",
                value: other.to_string(),
                accepted: format!("{vocabulary}, the student's"),
            });
        }
        let chosen = chosen(action_mask.into(), &alike)?;
        let is_chunk_given = student.log_probs.config.chunk_tokens.is_some();
        let mut teacher = teacher.without_autodiff();
        teacher.log_probs.config.implementation = student.log_probs.config.implementation;
        let (student, place) = student.prepare(&chosen)?;
        let (teacher, _) = teacher.prepare(&chosen)?;
        let place = among_all(alike, chosen, place.dtype);
        let (Some(mut student), Some(teacher)) = (student, teacher) else {
            return Ok(place.none(place.outer));
        };
        if !is_chunk_given {
            // Whole rows, two of them for a token, and what is made of them.
            let settings = &mut student.settings;
            let logits = settings.chunk_tokens.saturating_mul(settings.chunk_words);
            settings.chunk_tokens = (logits / settings.words / 4).max(1);
        }
        let divergence = self.config.divergence;
        let values = match student.is_fused {
            true => seam::divergence(student, teacher, divergence).squeeze_dim(0),
            false => {
                let teacher = composed::Scaled::new(teacher);
                let student = composed::Scaled::new(student);
                let student = student.log_probabilities();
                let teacher = teacher.log_probabilities().cast(student.dtype());
                divergence.of(student, teacher)
            }
        };
        Ok(place.put(values))
    }

    /// The divergence from a teacher of whom a top-k is known: of the student's log-probs of those
    /// words, and as [`Tail`] says of all others together. The words are constants; any that the caller
    /// chooses will do, as the student's own top-k, with the teacher's log-probs of them.
    ///
    /// # Shapes
    ///
    /// - `student`: logits `[B, T, V]`, hidden states `[B, T, H]`, of any rank `D`
    /// - `teacher`: `[B, T, K]`
    /// - `action_mask`, and the result: the same without the last dimension, of rank `E = D - 1`
    ///
    /// # Errors
    ///
    /// As [`TokenLogProbs::forward_linear`], and ids that fit neither tokens nor log-probs. A word
    /// beyond the vocabulary makes its token NaN, whatever `check_targets` is, and so does
    /// [`Tail::Renormalized`] where there is no word at all. A word that stands twice at a token counts
    /// twice.
    pub fn forward_top_k<const D: usize, const E: usize>(
        &self,
        student: TokenDistributions<D>,
        teacher: TopK<D>,
        action_mask: impl Into<Option<Tensor<E, Bool>>>,
    ) -> Result<Tensor<E>, BatchError> {
        const { assert!(D == E + 1, "the mask has the rank of the logits, less one") };
        let alike = checks::rows::<D, E>("student", &student.rows)?;
        let words = teacher.ids.dims()[D - 1];
        let mut expected = student.rows.dims();
        expected[D - 1] = words.max(1);
        checks::shape("teacher.ids", &teacher.ids.dims(), &expected)?;
        checks::shape("teacher.log_probs", &teacher.log_probs.dims(), &expected)?;
        student.check("student", &alike)?;
        let (ids, log_probs) = (
            teacher.ids.without_autodiff(),
            teacher.log_probs.without_autodiff(),
        );
        alike.device("teacher.ids", &ids.device())?;
        alike.place("teacher.log_probs", &log_probs.device(), log_probs.dtype())?;
        let ids = as_indices(ids);
        let chosen = chosen(action_mask.into(), &alike)?;
        let (work, place) = student.prepare(&chosen)?;
        let place = among_all(alike, chosen, place.dtype);
        let Some(mut work) = work else {
            return Ok(place.none(place.outer));
        };
        let ids = match place.chosen.is_empty {
            // The one that stands in may hold a word beyond the vocabulary, whose NaN would go on.
            true => Tensor::zeros([1, words], (&ids.device(), DType::I32)),
            false => place.chosen.select(flat(ids)),
        };
        work.tokens.candidates = Some(ids.clone());
        work.settings.candidates = words;
        let values = work.values();
        let student = values.narrow(0, 1, words).transpose();
        let teacher = place.chosen.rows(flat(log_probs)).cast(student.dtype());
        Ok(place.put(self.of_words(student, teacher, ids.lower_elem(0))))
    }

    /// From log-probs of some words, `[N, K]`, and where there are none.
    fn of_words(
        &self,
        student: Tensor<2>,
        teacher: Tensor<2>,
        absent: Tensor<2, Bool>,
    ) -> Tensor<1> {
        let [student, teacher] = [student, teacher].map(|log_probs| {
            let absent = absent.clone();
            let log_probs = log_probs.mask_fill(absent.clone(), f64::NEG_INFINITY);
            let log_probs = match self.config.min_log_prob {
                Some(least) => {
                    let bounded = log_probs.clamp_min(least);
                    bounded.mask_fill(absent, f64::NEG_INFINITY)
                }
                None => log_probs,
            };
            match self.config.tail {
                Tail::Ignored => log_probs,
                Tail::Renormalized => {
                    // All of them may be too small for a number to hold.
                    let largest = log_probs.clone().detach().max_dim(1);
                    let above = log_probs - largest;
                    let sum = above.clone().exp().sum_dim(1);
                    above - sum.log()
                }
                Tail::Bucket => {
                    let sum = log_probs.clone().exp().sum_dim(1);
                    let rest = sum.clamp_max((-LEAST_TAIL).exp()) * -1.0 + 1.0;
                    Tensor::cat(vec![log_probs, rest.log()], 1)
                }
            }
        });
        self.config.divergence.of(student, teacher)
    }
}

/// The least logarithm of what a top-k leaves out, with its sign turned.
const LEAST_TAIL: f64 = 1e-7;

/// One row behind the other.
fn flat<const D: usize, K: Basic>(rows: Tensor<D, K>) -> Tensor<2, K> {
    let dims = rows.dims();
    let count = dims[..D - 1].iter().product();
    rows.reshape([count, dims[D - 1]])
}

/// The tokens that a mask leaves.
fn chosen<const E: usize>(
    mask: Option<Tensor<E, Bool>>,
    alike: &Alike<E>,
) -> Result<Chosen, BatchError> {
    if let Some(mask) = &mask {
        alike.shaped("action_mask", mask)?;
    }
    let count: usize = alike.shape.iter().product();
    let mask = mask.map(|mask| mask.reshape([count]));
    let mut valid = checks::valid_tokens(mask.as_ref())?;
    Ok(Chosen::new(
        &mut valid,
        &alike.device.clone().without_autodiff(),
    ))
}

/// Where results belong, among all tokens.
fn among_all<const E: usize>(alike: Alike<E>, chosen: Chosen, dtype: DType) -> Place<E> {
    Place {
        chosen,
        ..Place::of_all(alike, dtype)
    }
}
