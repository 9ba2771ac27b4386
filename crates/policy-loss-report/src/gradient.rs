//! How large gradients are, and whether they agree.

/// The largest magnitude of a gradient, and its length in units of it: no square overflows, and
/// none becomes 0.
fn scale_and_length(gradient: &[f64]) -> (f64, f64) {
    let largest = gradient.iter().fold(0.0, |largest, g| g.abs().max(largest));
    let scale = match largest > 0.0 && largest.is_finite() {
        true => largest,
        false => 1.0,
    };
    let squares = gradient.iter().map(|g| (g / scale) * (g / scale));
    (scale, squares.sum::<f64>().sqrt())
}

/// The length of a gradient: the square root of the sum of its squares.
#[must_use]
pub fn norm(gradient: &[f64]) -> f64 {
    let (scale, length) = scale_and_length(gradient);
    scale * length
}

/// The cosine of the angle between two gradients of the same log-probs; NaN where one of them is 0 or
/// holds no number.
#[must_use]
pub fn cosine(one: &[f64], other: &[f64]) -> f64 {
    let [(a_scale, a_length), (b_scale, b_length)] = [one, other].map(scale_and_length);
    let products = one.iter().zip(other);
    let products = products.map(|(a, b)| (a / a_scale) * (b / b_scale));
    // A rounding must not leave the range of a cosine.
    (products.sum::<f64>() / (a_length * b_length)).clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_of_any_size_have_a_direction() {
        for scale in [1e-200, 1.0, 1e200] {
            let [one, other] = [[3.0, 4.0], [4.0, -3.0]].map(|g| g.map(|g| g * scale));
            assert!((norm(&one) / scale - 5.0).abs() < 1e-12, "{scale}");
            assert!((cosine(&one, &one) - 1.0).abs() < 1e-12, "{scale}");
            assert!(cosine(&one, &other).abs() < 1e-12, "{scale}");
        }
        assert_eq!(norm(&[0.0, 0.0]), 0.0);
        assert!(cosine(&[0.0, 0.0], &[1.0, 0.0]).is_nan());
        assert!(norm(&[f64::NAN, 1.0]).is_nan());
    }
}
