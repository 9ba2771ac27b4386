//! Softmax statistics and gradients against naive f64 loops, on every vector unit of the machine.

use half::{bf16, f16};

use crate::cpu::lanes::Real;
use crate::cpu::log_probs::gradient::replace;
use crate::cpu::log_probs::statistics::Moments;
use crate::cpu::log_probs::{
    Head, HeadGradients, Matrix, MatrixMut, RowGradient, Softmax, Statistics, Token, gradients,
    head_gradients, head_logits, statistics,
};

use super::{Random, levels};

const SOFTMAX: Softmax = Softmax {
    entropy: true,
    squares: true,
};

const SCALE: f64 = 1.25;

fn token(target: i64, scale: f64) -> Token {
    Token { target, scale }
}

/// Log-prob of the target, entropy and sum of squared probabilities, with the gradient of
/// `a * log_prob + b * entropy + c * squares`.
fn naive(
    logits: &[f64],
    target: usize,
    scale: f64,
    [a, b, c]: [f64; 3],
) -> (f64, f64, f64, Vec<f64>) {
    let largest = logits
        .iter()
        .fold(f64::NEG_INFINITY, |m, x| m.max(x * scale));
    let sum: f64 = logits.iter().map(|x| (x * scale - largest).exp()).sum();
    let log_p = |x: f64| x * scale - largest - sum.ln();
    let plogp = |x: f64| match log_p(x) {
        f64::NEG_INFINITY => 0.0,
        log_p => log_p.exp() * log_p,
    };
    let entropy = -logits.iter().map(|x| plogp(*x)).sum::<f64>();
    let squares: f64 = logits.iter().map(|x| log_p(*x).exp().powi(2)).sum();
    let gradient = logits.iter().enumerate().map(|(word, x)| {
        let chosen = f64::from(u8::from(word == target));
        let p = log_p(*x).exp();
        scale * (a * (chosen - p) - b * (plogp(*x) + p * entropy) + 2.0 * c * p * (p - squares))
    });
    let gradient = gradient.collect();
    (log_p(logits[target]), entropy, squares, gradient)
}

fn near(what: &str, actual: f64, expected: f64, tolerance: f64) {
    let fits = actual.to_bits() == expected.to_bits()
        || (actual - expected).abs() <= tolerance * expected.abs().max(1.0);
    assert!(fits, "{what}: {actual:e}, expected {expected:e}");
}

fn row_gradient(token: Token, row: Statistics, [a, b, c]: [f64; 3]) -> RowGradient {
    RowGradient {
        token,
        shift: row.shift,
        log_sum: row.log_sum,
        entropy: row.entropy,
        squares: row.squares,
        log_prob_gradient: a,
        entropy_gradient: b,
        squares_gradient: c,
    }
}

fn rows_of_every_length<T: Real>(tolerance: f64) {
    let mut random = Random(5);
    for arch in levels() {
        for length in (1..70).chain([1023, 1024, 1025, 3000]) {
            let logits: Vec<T> = (0..length)
                .map(|_| match random.below(9) {
                    0 => T::from_f64(f64::NEG_INFINITY),
                    1 => T::from_f64(random.between(-300.0, 0.0)),
                    _ => T::from_f64(random.between(-9.0, 12.0)),
                })
                .collect();
            let mut logits = logits;
            let target = random.below(length);
            logits[target] = T::from_f64(random.between(-9.0, 12.0));
            let wide: Vec<f64> = logits.iter().map(|x| x.to_f64()).collect();
            let upstream = [0; 3].map(|_| random.between(-2.0, 2.0));
            let (log_prob, entropy, squares, gradient) = naive(&wide, target, SCALE, upstream);

            let mut moments = Moments::new();
            // In two parts, as the blocks of a vocabulary are visited.
            let cut = random.below(length + 1);
            let (first, second) = logits.split_at(cut);
            moments.visit(
                arch,
                SOFTMAX,
                SCALE,
                first,
                (target < cut).then_some(target),
            );
            moments.visit(arch, SOFTMAX, SCALE, second, target.checked_sub(cut));
            let row = moments.statistics(SOFTMAX);
            near("log_prob", row.log_prob, log_prob, tolerance);
            near("entropy", row.entropy, entropy, tolerance);
            near("squares", row.squares, squares, tolerance);

            let row = row_gradient(token(target as i64, SCALE), row, upstream);
            replace(arch, &row, true, &mut logits, Some(target));
            for (word, (actual, expected)) in logits.iter().zip(&gradient).enumerate() {
                near(
                    &format!("{length}: [{word}]"),
                    actual.to_f64(),
                    *expected,
                    tolerance,
                );
            }
        }
    }
}

#[test]
fn f32_rows_of_every_length() {
    rows_of_every_length::<f32>(4e-6);
}

#[test]
fn f64_rows_of_every_length() {
    rows_of_every_length::<f64>(1e-13);
}

#[test]
fn what_is_not_a_number_is_seen() {
    for arch in levels() {
        for place in [0, 5, 17, 1040] {
            for value in [f32::NAN, f32::INFINITY] {
                let mut logits = vec![0.5; 1041];
                logits[place] = value;
                let mut moments = Moments::new();
                moments.visit(arch, SOFTMAX, SCALE, &logits, Some(3));
                let row = moments.statistics(SOFTMAX);
                assert!(
                    row.log_prob.is_nan() && row.entropy.is_nan() && row.squares.is_nan(),
                    "{place}"
                );
            }
        }
        let mut moments = Moments::new();
        moments.visit(arch, SOFTMAX, SCALE, &[f32::NEG_INFINITY; 20], Some(3));
        assert!(moments.statistics(SOFTMAX).log_prob.is_nan());
    }
}

#[test]
fn half_precision_is_that_of_its_numbers() {
    let mut random = Random(8);
    let wide: Vec<f32> = (0..2 * 2500)
        .map(|_| f16::from_f64(random.between(-8.0, 8.0)).to_f32())
        .map(|x| bf16::from_f32(x).to_f32())
        .collect();
    let tokens = [token(7, SCALE), token(2400, 0.7)];
    let expected = statistics(SOFTMAX, &wide, &tokens);
    let rows: Vec<_> = tokens
        .into_iter()
        .zip(&expected)
        .map(|(token, row)| row_gradient(token, *row, [0.5, -1.0, 2.0]))
        .collect();
    let wide_gradient = gradients(&wide, &rows);

    let half: Vec<f16> = wide.iter().map(|x| f16::from_f32(*x)).collect();
    assert_eq!(statistics(SOFTMAX, &half, &tokens), expected);
    let narrow = wide_gradient.iter().map(|x| f16::from_f32(*x));
    assert!(gradients(&half, &rows).into_iter().eq(narrow));

    let half: Vec<bf16> = wide.iter().map(|x| bf16::from_f32(*x)).collect();
    assert_eq!(statistics(SOFTMAX, &half, &tokens), expected);
    let narrow = wide_gradient.iter().map(|x| bf16::from_f32(*x));
    assert!(gradients(&half, &rows).into_iter().eq(narrow));
}

#[test]
fn unknown_targets_and_rows_without_a_gradient() {
    let logits = [f32::NAN, 1.0, 2.0, 3.0];
    let found = statistics(SOFTMAX, &logits[1..], &[token(3, 1.0)]);
    assert!(found[0].log_prob.is_nan() && !found[0].entropy.is_nan());
    assert!(
        statistics(SOFTMAX, &logits[1..], &[token(-1, 1.0)])[0]
            .log_prob
            .is_nan()
    );
    let idle = row_gradient(token(9, 1.0), found[0], [0.0; 3]);
    assert_eq!(gradients(&logits, &[idle]), [0.0; 4]);
    let unknown = row_gradient(token(9, 1.0), found[0], [1.0, 0.0, 0.0]);
    let gradient = gradients(&logits[1..], &[unknown]);
    assert!(gradient.iter().all(|x| x.is_nan()));
    assert!(statistics::<f32>(SOFTMAX, &[], &[]).is_empty());
}

/// Five tokens, one of which no gradient reaches and which holds garbage; a vocabulary of several
/// blocks; both layouts of the weight.
#[test]
fn a_head_a_block_at_a_time() {
    let [tokens, width, vocabulary] = [5, 3, 9000];
    let mut random = Random(2);
    let mut numbers =
        |count: usize| -> Vec<f64> { (0..count).map(|_| random.between(-2.0, 2.0)).collect() };
    let (mut hidden, weight, bias) = (
        numbers(tokens * width),
        numbers(width * vocabulary),
        numbers(vocabulary),
    );
    hidden[2 * width..3 * width].fill(f64::NAN);
    // Each at a temperature of its own.
    let given = [(0, 1.25), (8999, 0.5), (5, 1.0), (4096, 2.0), (4095, 1.0)];
    let given = given.map(|(target, scale)| token(target, scale));
    let upstream = [
        [1.0, 0.0, 0.0],
        [0.5, 2.0, 0.0],
        [0.0; 3],
        [0.0, 0.0, 1.5],
        [2.0, -1.0, 0.5],
    ];
    let turned: Vec<f64> = (0..vocabulary * width)
        .map(|i| weight[i % width * vocabulary + i / width])
        .collect();
    for transposed in [false, true] {
        let (stored, strides) = match transposed {
            false => (&weight, [vocabulary, 1]),
            true => (&turned, [1, width]),
        };
        let head = Head {
            hidden: Matrix::of_rows(&hidden, [tokens, width]),
            weight: Matrix::new(stored, [width, vocabulary], strides),
            bias: Some(&bias),
        };
        let mut logits = vec![0.0; tokens * vocabulary];
        let rows = head_logits(head, SOFTMAX, &given, &mut logits);
        let rows: Vec<_> = (0..tokens)
            .map(|i| row_gradient(given[i], rows[i], upstream[i]))
            .collect();
        let kept = logits.clone();
        let mut of_hidden = vec![7.0; tokens * width];
        // What stands there is added to.
        let (mut of_weight, mut of_bias) = (vec![1.0; stored.len()], vec![1.0; vocabulary]);
        let target = HeadGradients {
            hidden: Some(&mut of_hidden[..]),
            weight: Some(MatrixMut::new(&mut of_weight, [width, vocabulary], strides)),
            bias: Some(&mut of_bias[..]),
        };
        head_gradients(head, &rows, &mut logits, target);

        let mut expected = (
            vec![0.0; tokens * width],
            vec![1.0; weight.len()],
            vec![1.0; vocabulary],
        );
        for token in [0, 1, 3, 4] {
            let row = &kept[token * vocabulary..(token + 1) * vocabulary];
            let Token { target, scale } = given[token];
            let (_, _, _, gradient) = naive(row, target as usize, scale, upstream[token]);
            for (word, gradient) in gradient.iter().enumerate() {
                let product: f64 = (0..width)
                    .map(|k| hidden[token * width + k] * weight[k * vocabulary + word])
                    .sum();
                near("logit", row[word], product + bias[word], 1e-13);
                expected.2[word] += gradient;
                for k in 0..width {
                    expected.0[token * width + k] += gradient * weight[k * vocabulary + word];
                    expected.1[k * vocabulary + word] += gradient * hidden[token * width + k];
                }
            }
        }
        for (actual, expected) in of_hidden.iter().zip(&expected.0) {
            near("hidden", *actual, *expected, 1e-11);
        }
        for (i, expected) in expected.1.iter().enumerate() {
            let (k, word) = (i / vocabulary, i % vocabulary);
            near(
                "weight",
                of_weight[k * strides[0] + word * strides[1]],
                *expected,
                1e-11,
            );
        }
        for (actual, expected) in of_bias.iter().zip(&expected.2) {
            near("bias", *actual, *expected, 1e-11);
        }
    }
}

#[test]
#[should_panic(expected = "a matrix too large")]
fn a_matrix_beyond_its_memory_is_refused() {
    let _ = Matrix::new(&[0.0; 5], [2, 3], [3, 1]);
}

#[test]
#[should_panic(expected = "elements share a place")]
fn elements_in_one_place_are_refused() {
    let _ = MatrixMut::new(&mut [0.0; 5], [2, 3], [1, 1]);
}
