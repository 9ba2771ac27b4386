//! Log-probs, entropies and gradients in plain `f64` loops.

use policy_loss::{Tail, TeacherDivergence};

/// What a row of logits comes to.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Row {
    pub log_prob: f64,
    pub entropy: f64,
    /// Of the squared probabilities.
    pub sum_of_squares: f64,
    pub gradient: Vec<f64>,
}

/// A row of logits, with the gradient of `a * log_prob + b * entropy + c * sum_of_squares` with
/// respect to the logits.
///
/// `z = logits / temperature`; with `p = softmax(z)` the gradient is
/// `(a ([target] - p) - b p (log p + entropy) + 2 c p (p - sum_of_squares)) / temperature`.
pub fn row(logits: &[f64], target: usize, temperature: f64, [a, b, c]: [f64; 3]) -> Row {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x)) / temperature;
    let sum: f64 = logits
        .iter()
        .map(|x| (x / temperature - largest).exp())
        .sum();
    let log_probability = |x: f64| (x / temperature - largest) - sum.ln();
    let mut entropy = 0.0;
    for x in logits {
        let log_p = log_probability(*x);
        if log_p > f64::NEG_INFINITY {
            entropy -= log_p.exp() * log_p;
        }
    }
    let probabilities = logits.iter().map(|x| log_probability(*x).exp());
    let sum_of_squares: f64 = probabilities.map(|p| p * p).sum();
    let gradient = logits.iter().enumerate().map(|(word, x)| {
        let log_p = log_probability(*x);
        let chosen = if word == target { 1.0 } else { 0.0 };
        let of_entropy = match log_p > f64::NEG_INFINITY {
            true => -log_p.exp() * (log_p + entropy),
            false => 0.0,
        };
        let p = log_p.exp();
        let of_squares = 2.0 * p * (p - sum_of_squares);
        (a * (chosen - p) + b * of_entropy + c * of_squares) / temperature
    });
    Row {
        gradient: gradient.collect(),
        log_prob: log_probability(logits[target]),
        entropy,
        sum_of_squares,
    }
}

/// The logarithms of the probabilities of a row of logits.
pub fn log_softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let scaled = logits.iter().map(|x| x / temperature);
    let largest = scaled.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scaled.clone().map(|z| (z - largest).exp()).sum();
    scaled.map(|z| z - largest - sum.ln()).collect()
}

/// How far a student is from a teacher, and the slope with respect to its scaled logits.
///
/// Of the student's log-probs of all words those of `words` are compared with `teacher`, after `tail`
/// and `least` were applied to both. With `a` the slopes of the result with respect to the log-probs
/// `p` that are compared, those of the student's log-probs are `a` where they are what is compared;
/// `a - p sum(a)` where they are renormalized; `a - a_rest p / rest` where the rest is a bucket.
pub fn distance(
    divergence: TeacherDivergence,
    (tail, least): (Tail, Option<f64>),
    student: &[f64],
    words: &[usize],
    teacher: &[f64],
) -> (f64, Vec<f64>) {
    let least = least.unwrap_or(f64::NEG_INFINITY);
    let given: Vec<f64> = words.iter().map(|word| student[*word]).collect();
    let compared = |log_probs: &[f64]| -> Vec<f64> {
        let mut compared: Vec<f64> = log_probs.iter().map(|x| x.max(least)).collect();
        let sum: f64 = compared.iter().map(|x| x.exp()).sum();
        match tail {
            Tail::Ignored => {}
            Tail::Renormalized => compared.iter_mut().for_each(|x| *x -= sum.ln()),
            Tail::Bucket => compared.push((1.0 - sum.min((-1e-7_f64).exp())).ln()),
        }
        compared
    };
    let (s, t) = (compared(&given), compared(teacher));
    let (mut value, mut slopes) = (0.0, Vec::new());
    // p (log p - log q), of which nothing is left at p = 0.
    let term = |p: f64, q: f64| {
        if p.exp() == 0.0 {
            0.0
        } else {
            p.exp() * (p - q)
        }
    };
    for (&s, &t) in s.iter().zip(&t) {
        let forward = match divergence {
            TeacherDivergence::ForwardKl => 1.0,
            TeacherDivergence::ReverseKl => 0.0,
            TeacherDivergence::Mixed { forward_share } => forward_share,
            TeacherDivergence::JensenShannon { teacher_share: b } => {
                let m = (b * t.exp() + (1.0 - b) * s.exp()).ln();
                value += b * term(t, m) + (1.0 - b) * term(s, m);
                slopes.push((1.0 - b) * term(s, m));
                continue;
            }
        };
        let mut slope = 0.0;
        if forward > 0.0 {
            value += forward * term(t, s);
            slope -= forward * t.exp();
        }
        if forward < 1.0 {
            value += (1.0 - forward) * term(s, t);
            slope += (1.0 - forward) * (term(s, t) + s.exp());
        }
        slopes.push(slope);
    }
    let total: f64 = slopes.iter().sum();
    let rest: f64 = 1.0 - given.iter().map(|x| x.max(least).exp()).sum::<f64>();
    let of_given = given.iter().enumerate().map(|(i, log_prob)| match tail {
        _ if *log_prob < least => 0.0,
        Tail::Ignored => slopes[i],
        Tail::Renormalized => slopes[i] - s[i].exp() * total,
        Tail::Bucket => slopes[i] - slopes[given.len()] * log_prob.exp() / rest,
    });
    let of_given: Vec<f64> = of_given.collect();
    let total: f64 = of_given.iter().sum();
    let mut gradient: Vec<f64> = student.iter().map(|x| -x.exp() * total).collect();
    for (word, slope) in words.iter().zip(of_given) {
        gradient[*word] += slope;
    }
    (value, gradient)
}

/// `left * right` for matrices that are stored row by row.
pub fn product(left: &[f64], right: &[f64], [m, k, n]: [usize; 3]) -> Vec<f64> {
    let mut product = vec![0.0; m * n];
    for i in 0..m {
        for l in 0..k {
            for j in 0..n {
                product[i * n + j] += left[i * k + l] * right[l * n + j];
            }
        }
    }
    product
}

/// Rows for columns.
pub fn transposed(matrix: &[f64], [rows, columns]: [usize; 2]) -> Vec<f64> {
    let mut transposed = Vec::with_capacity(matrix.len());
    for column in 0..columns {
        for row in 0..rows {
            transposed.push(matrix[row * columns + column]);
        }
    }
    transposed
}
