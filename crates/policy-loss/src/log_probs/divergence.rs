//! The divergence of two distributions over a vocabulary, in Burn's own operations: what stands at the
//! seam where it is not composed. A chunk of tokens has the logits of both.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_device_settings};
use burn::tensor::Shape;

use super::TeacherDivergence;
use super::chunked::{
    LogitsGradient, before_bound, bounded, cast, logits, products, rows_of, slice, stand_ins,
    within_range,
};
use super::chunks;
use super::ops::{
    HeadGradients, HeadTensors, LogProbsOps, Pair, PairTensors, Settings, TokenTensors, Wanted,
};
use super::softmax::{column, idle, scaled, widened};

/// The logarithms of a chunk's probabilities, `[N, V]`.
struct Chunk<B: Backend> {
    student: FloatTensor<B>,
    teacher: FloatTensor<B>,
    /// The student's logits, bounded where they are to be.
    logits: FloatTensor<B>,
}

impl<B: LogProbsOps> Chunk<B> {
    fn new(
        student: HeadTensors<B>,
        teacher: HeadTensors<B>,
        tokens: PairTensors<B>,
        pair: Pair,
    ) -> Self {
        let logits = given::<B>(student, pair.student, pair.of_student_logits);
        let student = normalized::<B>(
            logits.clone(),
            tokens.targets.clone(),
            tokens.student,
            pair.student,
        );
        let teacher = given::<B>(teacher, pair.teacher, pair.of_teacher_logits);
        let teacher = normalized::<B>(teacher, tokens.targets, tokens.teacher, pair.teacher);
        Self {
            teacher: cast::<B>(teacher, student.dtype()),
            student,
            logits,
        }
    }

    /// `[N, 1]`.
    fn value(&self, divergence: TeacherDivergence) -> FloatTensor<B> {
        let (student, teacher) = (self.student.clone(), self.teacher.clone());
        let weighed = |weight: f64, left: &FloatTensor<B>, right: &FloatTensor<B>| {
            // 0 times an infinite divergence is NaN.
            (weight > 0.0).then(|| {
                let terms = terms::<B>(left.clone(), right.clone());
                B::float_mul_scalar(B::float_sum_dim(terms, 1), weight.into())
            })
        };
        let (first, second) = match divergence.mixture() {
            Some(share) => {
                let mixture = mixture::<B>(student.clone(), teacher.clone(), share);
                (
                    weighed(share, &teacher, &mixture),
                    weighed(1.0 - share, &student, &mixture),
                )
            }
            None => {
                let forward = divergence.forward();
                (
                    weighed(forward, &teacher, &student),
                    weighed(1.0 - forward, &student, &teacher),
                )
            }
        };
        match (first, second) {
            (Some(first), Some(second)) => B::float_add(first, second),
            (one, other) => one.or(other).expect("the weights add up to 1"),
        }
    }

    /// Of the student's scaled logits.
    fn gradient(&self, divergence: TeacherDivergence) -> FloatTensor<B> {
        let (student, teacher) = (self.student.clone(), self.teacher.clone());
        let forward = match divergence.mixture() {
            Some(_) => 0.0,
            None => divergence.forward(),
        };
        // Of KL(student || other), whatever moves with the student's probabilities in the other.
        let of_reverse = |weight: f64, other: FloatTensor<B>| {
            let terms = terms::<B>(student.clone(), other);
            let sum = B::float_sum_dim(terms.clone(), 1);
            let gradient = B::float_sub(terms, B::float_mul(B::float_exp(student.clone()), sum));
            B::float_mul_scalar(gradient, weight.into())
        };
        if let Some(share) = divergence.mixture() {
            let mixture = mixture::<B>(student.clone(), teacher, share);
            return of_reverse(1.0 - share, mixture);
        }
        let of_forward = || {
            let difference =
                B::float_sub(B::float_exp(student.clone()), B::float_exp(teacher.clone()));
            B::float_mul_scalar(difference, forward.into())
        };
        match (forward > 0.0, forward < 1.0) {
            (true, true) => B::float_add(of_forward(), of_reverse(1.0 - forward, teacher.clone())),
            (true, false) => of_forward(),
            _ => of_reverse(1.0, teacher),
        }
    }
}

/// What logits are, or what they are made of; bounded.
fn given<B: LogProbsOps>(
    head: HeadTensors<B>,
    settings: Settings,
    are_logits: bool,
) -> FloatTensor<B> {
    let logits = match are_logits {
        true => widened::<B>(head.hidden),
        false => logits::<B>(head, settings),
    };
    bounded::<B>(logits, settings)
}

/// The logarithms of the probabilities.
fn normalized<B: LogProbsOps>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
    scales: FloatTensor<B>,
    settings: Settings,
) -> FloatTensor<B> {
    let [count, _] = logits.shape().dims();
    let tokens = TokenTensors {
        candidates: B::int_reshape(targets.clone(), Shape::from([count, 1])),
        targets,
        scales: scales.clone(),
        kept: None,
    };
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

/// `log(share teacher + (1 - share) student)`; 0 where both are impossible, or next to it.
fn mixture<B: Backend>(
    student: FloatTensor<B>,
    teacher: FloatTensor<B>,
    share: f64,
) -> FloatTensor<B> {
    let teacher = B::float_mul_scalar(B::float_exp(teacher), share.into());
    let student = B::float_mul_scalar(B::float_exp(student), (1.0 - share).into());
    let mixture = B::float_add(teacher, student);
    let bools = get_device_settings::<B>(&mixture.device()).bool_dtype;
    let impossible = B::float_equal_elem(mixture.clone(), 0.0.into(), bools);
    B::float_log(B::float_mask_fill(mixture, impossible, 1.0.into()))
}

impl<B: Backend> PairTensors<B> {
    /// What is given of some of the tokens.
    fn of(&self, tokens: &std::ops::Range<usize>) -> Self {
        let of = |scales: &FloatTensor<B>| B::float_slice(scales.clone(), &[slice(tokens)]);
        Self {
            targets: B::int_slice(self.targets.clone(), &[slice(tokens)]),
            student: of(&self.student),
            teacher: of(&self.teacher),
        }
    }
}

pub fn divergence<B: LogProbsOps>(
    student: HeadTensors<B>,
    teacher: HeadTensors<B>,
    tokens: PairTensors<B>,
    pair: Pair,
) -> FloatTensor<B> {
    let [count, _] = student.hidden.shape().dims();
    let rows = chunks(count, pair.student.chunk_tokens).map(|range| {
        let (student, teacher) = (rows_of(&student, &range), rows_of(&teacher, &range));
        let chunk = Chunk::new(student, teacher, tokens.of(&range), pair);
        B::float_transpose(chunk.value(pair.divergence))
    });
    B::float_cat(rows.collect(), 1)
}

pub fn gradients<B: LogProbsOps>(
    student: HeadTensors<B>,
    teacher: HeadTensors<B>,
    tokens: PairTensors<B>,
    upstream: FloatTensor<B>,
    pair: Pair,
    wanted: Wanted,
) -> HeadGradients<B> {
    let [count, _] = student.hidden.shape().dims();
    let settings = pair.student;
    let wanted = Wanted {
        in_parts: count > settings.chunk_tokens,
        ..wanted
    };
    let narrow = student.hidden.dtype();
    let weight_type = student.weight.dtype();
    let mut gradients = stand_ins(&student);
    let mut hidden = Vec::new();
    for range in chunks(count, settings.chunk_tokens) {
        let (head, teacher) = (rows_of(&student, &range), rows_of(&teacher, &range));
        let tokens = tokens.of(&range);
        let scales = tokens.student.clone();
        let upstream = B::float_slice(upstream.clone(), &[slice(&(0..1)), slice(&range)]);
        let idle = idle::<B>(&upstream);
        let (upstream, factor) = match pair.of_student_logits {
            true => (upstream, None),
            false => within_range::<B>(upstream, narrow),
        };
        let chunk = Chunk::new(head.clone(), teacher, tokens, pair);
        let scales = B::float_reshape(scales, Shape::from([range.len(), 1]));
        let factor_of_rows = B::float_mul(column::<B>(&upstream, 0), scales);
        let of_scaled = B::float_mul(chunk.gradient(pair.divergence), factor_of_rows);
        // A row that no gradient reaches may hold anything, and 0 * NaN is NaN.
        let nowhere = B::bool_expand(idle.clone(), of_scaled.shape());
        let of_bounded = B::float_mask_fill(of_scaled, nowhere, 0.0.into());
        let logits = before_bound::<B>(of_bounded, chunk.logits, idle.clone(), settings);
        let logits = cast::<B>(logits, narrow);
        if pair.of_student_logits {
            hidden.push(logits);
            continue;
        }
        let of_logits = LogitsGradient {
            logits,
            idle,
            factor,
        };
        gradients = products(of_logits, head, gradients, settings, wanted);
        if wanted.hidden {
            hidden.push(gradients.hidden.clone());
        }
    }
    if wanted.hidden {
        gradients.hidden = B::float_cat(hidden, 0);
    }
    if wanted.weight {
        gradients.weight = cast::<B>(gradients.weight, weight_type);
    }
    gradients
}
