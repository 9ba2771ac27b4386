//! The divergence of two distributions over a vocabulary, in Burn's own operations: what stands at the
//! seam where it is not composed. A chunk of tokens has the logits of both.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata, get_device_settings};
use burn::tensor::Shape;

use super::TeacherDivergence;
use super::chunked::{
    LogitsGradient, Sums, before_bound, bounded, cast, logits, products, rows_of, slice,
    within_range,
};
use super::chunks;
use super::ops::{HeadGradients, HeadTensors, LogProbsOps, Pair, Settings, TokenTensors, Wanted};
use super::softmax::{column, idle, scaled};

/// What logits are made of, and what is given of each token.
type Distribution<B> = (HeadTensors<B>, TokenTensors<B>);

/// The logarithms of a chunk's probabilities, `[N, V]`.
struct Chunk<B: Backend> {
    student: FloatTensor<B>,
    teacher: FloatTensor<B>,
    /// The student's logits, bounded where they are to be.
    logits: FloatTensor<B>,
}

impl<B: LogProbsOps> Chunk<B> {
    fn new(
        (student, of_student): Distribution<B>,
        (teacher, of_teacher): Distribution<B>,
        pair: Pair,
    ) -> Self {
        let bounded = |head, settings| bounded::<B>(logits::<B>(head, settings), settings);
        let (logits, teacher) = (
            bounded(student, pair.student),
            bounded(teacher, pair.teacher),
        );
        let student = normalized::<B>(logits.clone(), of_student, pair.student);
        let teacher = normalized::<B>(teacher, of_teacher, pair.teacher);
        Self {
            teacher: cast::<B>(teacher, student.dtype()),
            student,
            logits,
        }
    }

    /// What both are compared with where it is a mixture.
    fn mixture(&self, divergence: TeacherDivergence) -> Option<FloatTensor<B>> {
        let of = || mixture::<B>(&self.student, &self.teacher, divergence.weights());
        divergence.has_mixture().then(of)
    }

    /// `[N, 1]`.
    fn value(&self, divergence: TeacherDivergence) -> FloatTensor<B> {
        let mixture = self.mixture(divergence);
        let weighed = |weight: f64, left: &FloatTensor<B>, right: &FloatTensor<B>| {
            let right = mixture.as_ref().unwrap_or(right);
            let terms = terms::<B>(left.clone(), right.clone());
            B::float_mul_scalar(B::float_sum_dim(terms, 1), weight.into())
        };
        divergence.sum_of(
            |weight| weighed(weight, &self.teacher, &self.student),
            |weight| weighed(weight, &self.student, &self.teacher),
            B::float_add,
        )
    }

    /// Of the student's scaled logits.
    fn gradient(&self, divergence: TeacherDivergence) -> FloatTensor<B> {
        // Of KL(student || other), whatever moves with the student's probabilities in the other.
        let of_student = |weight: f64, other: FloatTensor<B>| {
            let terms = terms::<B>(self.student.clone(), other);
            let sum = B::float_sum_dim(terms.clone(), 1);
            let probability = B::float_exp(self.student.clone());
            let gradient = B::float_sub(terms, B::float_mul(probability, sum));
            B::float_mul_scalar(gradient, weight.into())
        };
        if let Some(mixture) = self.mixture(divergence) {
            let [_, weight] = divergence.weights();
            return of_student(weight, mixture);
        }
        let of_teacher = |weight: f64| {
            let [student, teacher] =
                [&self.student, &self.teacher].map(|log_probs| B::float_exp(log_probs.clone()));
            B::float_mul_scalar(B::float_sub(student, teacher), weight.into())
        };
        divergence.sum_of(
            of_teacher,
            |weight| of_student(weight, self.teacher.clone()),
            B::float_add,
        )
    }
}

/// The logarithms of the probabilities.
fn normalized<B: LogProbsOps>(
    logits: FloatTensor<B>,
    tokens: TokenTensors<B>,
    settings: Settings,
) -> FloatTensor<B> {
    let scales = tokens.scales.clone();
    let moments = B::softmax_statistics(logits.clone(), tokens, settings).moments;
    let distance = B::float_sub(scaled::<B>(logits, &scales), column::<B>(&moments, 0));
    B::float_sub(distance, column::<B>(&moments, 1))
}

/// `p (log p - log q)`, from logarithms; 0 where `p` is.
fn terms<B: Backend>(p: FloatTensor<B>, q: FloatTensor<B>) -> FloatTensor<B> {
    let probability = B::float_exp(p.clone());
    let bools = get_device_settings::<B>(&p.device()).bool_dtype;
    let impossible = B::float_equal_elem(probability.clone(), 0.0.into(), bools);
    let terms = B::float_mul(probability, B::float_sub(p, q));
    B::float_mask_fill(terms, impossible, 0.0.into())
}

/// The logarithm of the sum of both with their shares; 0 where both are impossible, or next to it.
fn mixture<B: Backend>(
    student: &FloatTensor<B>,
    teacher: &FloatTensor<B>,
    [of_teacher, of_student]: [f64; 2],
) -> FloatTensor<B> {
    let share = |log_probs: &FloatTensor<B>, share: f64| {
        B::float_mul_scalar(B::float_exp(log_probs.clone()), share.into())
    };
    let (teacher, student) = (share(teacher, of_teacher), share(student, of_student));
    let mixture = B::float_add(teacher, student);
    let bools = get_device_settings::<B>(&mixture.device()).bool_dtype;
    let impossible = B::float_equal_elem(mixture.clone(), 0.0.into(), bools);
    B::float_log(B::float_mask_fill(mixture, impossible, 1.0.into()))
}

/// Those of some of the tokens.
fn some<B: Backend>(
    (head, tokens): &Distribution<B>,
    range: &std::ops::Range<usize>,
) -> Distribution<B> {
    (rows_of(head, range), tokens.of(range))
}

pub fn divergence<B: LogProbsOps>(
    student: Distribution<B>,
    teacher: Distribution<B>,
    pair: Pair,
) -> FloatTensor<B> {
    let [count, _] = student.0.hidden.shape().dims();
    let rows = chunks(count, pair.student.chunk_tokens).map(|range| {
        let chunk = Chunk::new(some(&student, &range), some(&teacher, &range), pair);
        B::float_transpose(chunk.value(pair.divergence))
    });
    B::float_cat(rows.collect(), 1)
}

pub fn gradients<B: LogProbsOps>(
    student: Distribution<B>,
    teacher: Distribution<B>,
    upstream: FloatTensor<B>,
    pair: Pair,
    wanted: Wanted,
) -> HeadGradients<B> {
    let (head, _) = &student;
    let [count, _] = head.hidden.shape().dims();
    let settings = pair.student;
    let (narrow, weight_type) = (head.hidden.dtype(), head.weight.dtype());
    let mut sums = Sums::new(head, settings, wanted);
    for range in chunks(count, settings.chunk_tokens) {
        let (head, tokens) = some(&student, &range);
        let scales = tokens.scales.clone();
        let upstream = B::float_slice(upstream.clone(), &[slice(&(0..1)), slice(&range)]);
        let idle = idle::<B>(&upstream);
        let (upstream, factor) = match settings.has_weight {
            true => within_range::<B>(upstream, narrow),
            false => (upstream, None),
        };
        let chunk = Chunk::new((head.clone(), tokens), some(&teacher, &range), pair);
        let scales = B::float_reshape(scales, Shape::from([range.len(), 1]));
        let factor_of_rows = B::float_mul(column::<B>(&upstream, 0), scales);
        let of_scaled = B::float_mul(chunk.gradient(pair.divergence), factor_of_rows);
        // A row that no gradient reaches may hold anything, and 0 * NaN is NaN.
        let nowhere = B::bool_expand(idle.clone(), of_scaled.shape());
        let of_bounded = B::float_mask_fill(of_scaled, nowhere, 0.0.into());
        let logits = before_bound::<B>(of_bounded, chunk.logits, idle.clone(), settings);
        let of_logits = LogitsGradient {
            logits: cast::<B>(logits, narrow),
            idle,
            factor,
        };
        sums = sums.add(|sums, wanted| products(of_logits, head, sums, settings, wanted));
    }
    sums.finish(weight_type)
}
