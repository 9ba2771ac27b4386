//! Log-probs, entropies and gradients in plain `f64` loops.

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
