//! Log-probs, entropies and gradients in plain `f64` loops.

/// A row of logits: `log_prob` of the target, entropy, and the gradient of
/// `a * log_prob + b * entropy` with respect to the logits.
///
/// `z = logits / temperature`; with `p = softmax(z)` the gradient is
/// `(a ([target] - p) - b p (log p + entropy)) / temperature`.
pub fn row(
    logits: &[f64],
    target: usize,
    temperature: f64,
    [a, b]: [f64; 2],
) -> (f64, f64, Vec<f64>) {
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
    let gradient = logits.iter().enumerate().map(|(word, x)| {
        let log_p = log_probability(*x);
        let chosen = if word == target { 1.0 } else { 0.0 };
        let of_entropy = match log_p > f64::NEG_INFINITY {
            true => -log_p.exp() * (log_p + entropy),
            false => 0.0,
        };
        (a * (chosen - log_p.exp()) + b * of_entropy) / temperature
    });
    let gradient = gradient.collect();
    (log_probability(logits[target]), entropy, gradient)
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
