//! A vocabulary in shards, as tensor parallelism divides it.

use std::ops::Range;

use burn::tensor::{DType, Tensor};
use policy_loss::{
    BatchError, Entropy, Implementation, LinearHead, LogProbs, ShardPartials, TokenLogProbs,
    VocabularyShard,
};

use super::{
    HeadCase, assert_only_nan, config, indices, of_products, tokens as given, tolerance, weighted,
};
use crate::compare::{Tolerance, assert_all_near};
use crate::log_probs::oracle;
use crate::runner::{Runner, values};

const VOCABULARY: usize = 45;
/// One shard, two, and five of which one is a single word.
const DIVISIONS: [&[usize]; 3] = [&[45], &[27, 18], &[13, 1, 20, 3, 8]];

fn cases() -> Vec<HeadCase> {
    let case = HeadCase::new(71, [7, 6, VOCABULARY]);
    vec![
        case.clone().with_squares(),
        case.clone()
            .with_bias()
            .with_softcap(4.0)
            .with_temperatures()
            .with_mask(|token| token % 3 != 1),
        case.with_bias()
            .with_temperature(0.6)
            .with_squares()
            .with_kept(),
    ]
}

fn ranges(division: &[usize]) -> Vec<Range<usize>> {
    let ends = division.iter().scan(0, |end, words| {
        *end += words;
        Some(*end)
    });
    let of = |(end, words): (usize, &usize)| end - words..end;
    ends.zip(division).map(of).collect()
}

/// Some columns of a matrix that is stored row by row.
fn columns(matrix: &[f64], width: usize, range: &Range<usize>) -> Vec<f64> {
    let rows = matrix.chunks(width).map(|row| &row[range.clone()]);
    rows.flatten().copied().collect()
}

/// What ranks do: the two collective operations, and what follows on each of them.
fn finished<const E: usize>(ranks: Vec<ShardPartials<E>>) -> Vec<LogProbs<E>> {
    let largest = ranks.iter().map(ShardPartials::largest);
    let largest = largest.reduce(Tensor::max_pair).expect("a rank");
    let sums = ranks.iter().map(|rank| rank.sums(largest.clone()));
    let sums = sums.map(|sums| sums.expect("of one shape"));
    let sums = sums.reduce(|all, more| all + more).expect("a rank");
    let finish = |rank: ShardPartials<E>| rank.finish(largest.clone(), sums.clone());
    let outputs = ranks.into_iter().map(finish);
    outputs
        .map(|output| output.expect("of one shape"))
        .collect()
}

/// Fails unless each rank has the same values, those of the whole vocabulary.
fn assert_values(what: &str, case: &HeadCase, outputs: &[LogProbs<1>], tolerance: Tolerance) {
    let answer = case.answer();
    let mut first: Option<Vec<Vec<f64>>> = None;
    for (rank, output) in outputs.iter().enumerate() {
        let mut all = vec![values(output.log_probs.clone())];
        assert_all_near(
            tolerance,
            &format!("{what}: log_probs"),
            &all[0],
            &answer.log_probs,
        );
        for (name, actual, expected) in [
            ("entropies", &output.entropies, &answer.entropies),
            ("squares", &output.sums_of_squares, &answer.sums_of_squares),
        ] {
            if let Some(actual) = actual {
                let actual = values(actual.clone());
                let what = format!("{what}, rank {rank}: {name}");
                assert_all_near(tolerance, &what, &actual, expected);
                all.push(actual);
            }
        }
        let bits = |all: &[Vec<f64>]| all.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let first = first.get_or_insert_with(|| all.clone());
        assert_eq!(bits(&all), bits(first), "{what}: ranks differ");
    }
}

/// From hidden states: values on each rank, the gradient of its slice of the head, and gradients of
/// hidden states that add up.
pub fn of_hidden_states(runner: &Runner) {
    for dtype in runner.exact_dtypes() {
        for (i, case) in cases().iter().enumerate() {
            for (division, (chunk_tokens, chunk_words)) in
                DIVISIONS.iter().zip([(100, None), (3, None), (4, Some(5))])
            {
                let log_probs = config(runner, case, Entropy::Tracked)
                    .with_chunk_tokens(chunk_tokens)
                    .with_chunk_words(chunk_words)
                    .init()
                    .expect("valid");
                let what = format!("{runner}, {dtype:?}, case {i}, {division:?}");
                check_hidden(runner, case, &log_probs, division, dtype, &what);
            }
        }
    }
}

fn check_hidden(
    runner: &Runner,
    case: &HeadCase,
    log_probs: &TokenLogProbs,
    division: &[usize],
    dtype: DType,
    what: &str,
) {
    let [tokens, width, vocabulary] = case.shape;
    let given = given(runner, case, [tokens], dtype);
    let ranges = ranges(division);
    let mut leaves = Vec::new();
    let mut ranks = Vec::new();
    for (rank, range) in ranges.iter().enumerate() {
        let words = range.len();
        let hidden: Tensor<2> = runner.tracked(&case.hidden, [tokens, width], dtype);
        let slice = columns(&case.weight, vocabulary, range);
        let (weight, head) = match rank % 2 {
            0 => {
                let weight: Tensor<2> = runner.tracked(&slice, [width, words], dtype);
                (weight.clone(), LinearHead::new(weight))
            }
            _ => {
                let turned = oracle::transposed(&slice, [width, words]);
                let weight: Tensor<2> = runner.tracked(&turned, [words, width], dtype);
                (weight.clone(), LinearHead::tied(weight))
            }
        };
        let bias = case.bias.as_ref();
        let bias = bias.map(|bias| runner.tracked(&bias[range.clone()], [words], dtype));
        let head = head.with_bias(bias.clone());
        let shard = VocabularyShard::new(range.start, vocabulary);
        let partials = log_probs.forward_linear_shard(hidden.clone(), &head, given.clone(), shard);
        ranks.push(partials.unwrap_or_else(|error| panic!("{what}: {error}")));
        leaves.push((hidden, weight, bias));
    }
    let outputs = finished(ranks);
    let tolerance = of_products(runner, dtype);
    assert_values(what, case, &outputs, tolerance);
    if !runner.is_tracked() {
        return;
    }
    let answer = case.answer();
    let mut hidden_gradient = vec![0.0; tokens * width];
    for (rank, (output, (hidden, weight, bias))) in outputs.iter().zip(leaves).enumerate() {
        let range = &ranges[rank];
        let gradients = weighted(runner, case, output).backward();
        let part = values(hidden.grad(&gradients).expect("tracked"));
        for (sum, part) in hidden_gradient.iter_mut().zip(part) {
            *sum += part;
        }
        let gradient = values(weight.grad(&gradients).expect("tracked"));
        let gradient = match rank % 2 {
            0 => gradient,
            _ => oracle::transposed(&gradient, [range.len(), width]),
        };
        let expected = columns(&answer.weight_gradient, vocabulary, range);
        let what = format!("{what}, rank {rank}: gradient of the");
        assert_all_near(tolerance, &format!("{what} weight"), &gradient, &expected);
        if let Some(bias) = bias {
            let gradient = values(bias.grad(&gradients).expect("tracked"));
            let expected = &answer.bias_gradient[range.clone()];
            assert_all_near(tolerance, &format!("{what} bias"), &gradient, expected);
        }
    }
    let what = format!("{what}: gradient of hidden states");
    assert_all_near(tolerance, &what, &hidden_gradient, &answer.hidden_gradient);
}

/// From logits, and without entropies.
pub fn of_logits(runner: &Runner) {
    for dtype in runner.exact_dtypes() {
        for entropy in [Entropy::None, Entropy::Tracked] {
            for (i, case) in cases().iter().enumerate() {
                let mut case = case.clone();
                if entropy == Entropy::None {
                    case.entropy_gradient.fill(0.0);
                }
                let division = DIVISIONS[(i + 1) % 3];
                let what = format!("{runner}, {dtype:?}, {entropy:?}, case {i}, {division:?}");
                check_logits(
                    runner,
                    &case,
                    &case.answer().logits,
                    entropy,
                    division,
                    dtype,
                    &what,
                );
            }
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn check_logits(
    runner: &Runner,
    case: &HeadCase,
    logits: &[f64],
    entropy: Entropy,
    division: &[usize],
    dtype: DType,
    what: &str,
) {
    let [tokens, _, vocabulary] = case.shape;
    let log_probs = config(runner, case, entropy).with_chunk_tokens(3);
    let log_probs = log_probs.init().expect("valid");
    let given = given(runner, case, [tokens], dtype);
    let ranges = ranges(division);
    let mut logits = logits.to_vec();
    for token in (0..tokens).filter(|token| !case.is_valid(*token)) {
        logits[token * vocabulary..(token + 1) * vocabulary].fill(f64::NAN);
    }
    let of = |range: &Range<usize>| {
        let slice = columns(&logits, vocabulary, range);
        runner.tracked(&slice, [tokens, range.len()], dtype)
    };
    let leaves: Vec<Tensor<2>> = ranges.iter().map(of).collect();
    let ranks = leaves.iter().zip(&ranges).map(|(logits, range)| {
        let shard = VocabularyShard::new(range.start, vocabulary);
        let partials = log_probs.forward_shard(logits.clone(), given.clone(), shard);
        partials.unwrap_or_else(|error| panic!("{what}: {error}"))
    });
    let outputs = finished(ranks.collect());
    assert_values(what, case, &outputs, tolerance(dtype));
    if runner.is_tracked() {
        let answer = case.answer();
        for ((output, logits), range) in outputs.iter().zip(leaves).zip(&ranges) {
            let gradients = weighted(runner, case, output).backward();
            let gradient = values(logits.grad(&gradients).expect("tracked"));
            let expected = columns(&answer.logits_gradient, vocabulary, range);
            let what = format!("{what}, {range:?}: gradient");
            assert_all_near(tolerance(dtype), &what, &gradient, &expected);
        }
    }
}

/// Large logits, a shard of which nothing is possible, and a target that is not.
pub fn extreme_logits(runner: &Runner) {
    let never = f64::NEG_INFINITY;
    let rows = [
        [1e4, -1e4, 9999.0, 1e4, 0.0, never, never],
        [1.0, never, 2.0, never, 0.5, never, never],
        [never, never, 3.0, never, never, never, never],
        [-1e4, never, -1e4, 1e4, 1e4, never, never],
    ];
    let mut case = HeadCase::new(72, [4, 1, 7]).with_squares();
    case.targets = vec![3, 2, 2, 0];
    let upstream = |i: usize| {
        let squares = case.squares_gradient.as_ref().expect("it has one");
        [
            case.log_prob_gradient[i],
            case.entropy_gradient[i],
            squares[i],
        ]
    };
    let row = |i: usize| oracle::row(&rows[i], case.targets[i] as usize, 1.0, upstream(i));
    let answers: Vec<_> = (0..4).map(row).collect();
    for dtype in runner.exact_dtypes() {
        let log_probs = config(runner, &case, Entropy::Tracked)
            .init()
            .expect("valid");
        let ranges = ranges(&[2, 3, 2]);
        let of = |range: &Range<usize>| {
            runner.tracked(&columns(&rows.concat(), 7, range), [4, range.len()], dtype)
        };
        let leaves: Vec<Tensor<2>> = ranges.iter().map(of).collect();
        let ranks = leaves.iter().zip(&ranges).map(|(logits, range)| {
            let targets = indices(runner, &case.targets, [4]);
            let shard = VocabularyShard::new(range.start, 7);
            let partials = log_probs.forward_shard(logits.clone(), targets, shard);
            partials.unwrap_or_else(|error| panic!("{runner}: {error}"))
        });
        let outputs = finished(ranks.collect());
        for ((output, logits), range) in outputs.iter().zip(leaves).zip(&ranges) {
            let what = format!("{runner}, {dtype:?}, {range:?}");
            let near = |actual: Tensor<1>, of: fn(&oracle::Row) -> f64| {
                let expected: Vec<f64> = answers.iter().map(of).collect();
                assert_all_near(Tolerance::of(1e-6), &what, &values(actual), &expected);
            };
            near(output.log_probs.clone(), |row| row.log_prob);
            near(output.entropies.clone().expect("asked for"), |row| {
                row.entropy
            });
            let squares = output.sums_of_squares.clone().expect("asked for");
            near(squares, |row| row.sum_of_squares);
            if runner.is_tracked() {
                let gradients = weighted(runner, &case, output).backward();
                let gradient = values(logits.grad(&gradients).expect("tracked"));
                let expected: Vec<f64> = answers
                    .iter()
                    .flat_map(|row| row.gradient.clone())
                    .collect();
                let expected = columns(&expected, 7, range);
                assert_all_near(Tolerance::of(1e-6), &what, &gradient, &expected);
            }
        }
    }
    impossible_target(runner, [never, 0.0], [vec![-0.5], vec![1.0, -0.5]]);
    // Nothing else is possible in its shard, either.
    impossible_target(runner, [never, never], [vec![-1.0], vec![1.0, 0.0]]);
}

/// A target of -inf, the first of a second shard: its log-prob says so, and the gradients are finite.
fn impossible_target(runner: &Runner, second: [f64; 2], expected: [Vec<f64>; 2]) {
    let logits: [Tensor<2>; 2] = [
        runner.tracked(&[0.0], [1, 1], DType::F32),
        runner.tracked(&second, [1, 2], DType::F32),
    ];
    let case = HeadCase::new(0, [1, 1, 3]);
    let log_probs = config(runner, &case, Entropy::None).init().expect("valid");
    let ranks = logits.iter().zip([0, 1]).map(|(logits, first)| {
        let shard = VocabularyShard::new(first, 3);
        let partials = log_probs.forward_shard(logits.clone(), indices(runner, &[1], [1]), shard);
        partials.unwrap_or_else(|error| panic!("{runner}: {error}"))
    });
    let outputs = finished(ranks.collect());
    for ((output, logits), expected) in outputs.iter().zip(&logits).zip(expected) {
        assert_eq!(
            values(output.log_probs.clone()),
            [f64::NEG_INFINITY],
            "{runner}"
        );
        if runner.is_tracked() {
            let gradients = output.log_probs.clone().sum().backward();
            let gradient = values(logits.grad(&gradients).expect("tracked"));
            let what = format!("{runner}, {second:?}");
            assert_all_near(Tolerance::of(1e-6), &what, &gradient, &expected);
        }
    }
}

/// A target that no shard has is NaN at its own token, whether the vocabulary has it or not.
pub fn target_in_no_shard(runner: &Runner) {
    for target in [-100, 3, 19, 1 << 30] {
        let mut case = HeadCase::new(73, [4, 3, 19]);
        case.targets[1] = target;
        let whole = config(runner, &case, Entropy::None).init().expect("valid");
        let hidden: Tensor<2> = runner.tracked(&case.hidden, [4, 3], DType::F32);
        // Word 3 is in none of them.
        let ranks = [0..3, 4..10, 10..19].map(|range: Range<usize>| {
            let slice = columns(&case.weight, 19, &range);
            let head = LinearHead::new(runner.tracked(&slice, [3, range.len()], DType::F32));
            let targets = indices(runner, &case.targets, [4]);
            let shard = VocabularyShard::new(range.start, 19);
            let partials = whole.forward_linear_shard(hidden.clone(), &head, targets, shard);
            partials.unwrap_or_else(|error| panic!("{runner}: {error}"))
        });
        let mut without = case.clone();
        without.targets[1] = 0;
        for token in 0..4 {
            without.targets[token] -= i64::from(without.targets[token] > 3);
        }
        without.shape = [4, 3, 18];
        let left = [
            columns(&case.weight, 19, &(0..3)),
            columns(&case.weight, 19, &(4..19)),
        ];
        let rows = left[0].chunks(3).zip(left[1].chunks(15));
        without.weight = rows.flat_map(|(a, b)| [a, b].concat()).collect();
        let answer = without.answer();
        for output in finished(ranks.into()) {
            let actual = values(output.log_probs);
            let what = format!("{runner}, {target}");
            let tolerance = of_products(runner, DType::F32);
            assert_only_nan(tolerance, &what, &actual, &answer.log_probs, 1);
        }
    }
}

/// So is one that two shards have.
pub fn target_in_two_shards(runner: &Runner) {
    let case = HeadCase::new(77, [2, 1, 4]);
    let log_probs = config(runner, &case, Entropy::None).init().expect("valid");
    let ranks = [0, 2].map(|first| {
        let logits: Tensor<2> = runner.tracked(&[0.5; 6], [2, 3], DType::F32);
        let targets = indices(runner, &[1, 2], [2]);
        let shard = VocabularyShard::new(first, 5);
        let partials = log_probs.forward_shard(logits, targets, shard);
        partials.unwrap_or_else(|error| panic!("{runner}: {error}"))
    });
    for output in finished(ranks.into()) {
        let log_probs = values(output.log_probs);
        assert!(
            !log_probs[0].is_nan() && log_probs[1].is_nan(),
            "{runner}: {log_probs:?}"
        );
    }
}

/// No valid token, and no token at all.
pub fn no_token(runner: &Runner) {
    let case = HeadCase::new(74, [3, 4, 19])
        .with_squares()
        .with_mask(|_| false);
    let log_probs = config(runner, &case, Entropy::Tracked)
        .init()
        .expect("valid");
    for count in [3, 0] {
        let hidden: Tensor<2> = runner.tracked(&case.hidden[..count * 4], [count, 4], DType::F32);
        let mut few = case.clone();
        few.targets.truncate(count);
        few.mask = Some(vec![false; count]);
        let of = |range: Range<usize>| {
            let slice = columns(&case.weight, 19, &range);
            let head = LinearHead::new(runner.tracked(&slice, [4, range.len()], DType::F32));
            let given = given(runner, &few, [count], DType::F32);
            let shard = VocabularyShard::new(range.start, 19);
            let partials = log_probs.forward_linear_shard(hidden.clone(), &head, given, shard);
            partials.unwrap_or_else(|error| panic!("{runner}: {error}"))
        };
        for output in finished(vec![of(0..9), of(9..19)]) {
            let zeros = vec![0.0; count];
            assert_eq!(values(output.log_probs), zeros, "{runner}");
            assert_eq!(
                values(output.entropies.expect("asked for")),
                zeros,
                "{runner}"
            );
            let squares = output.sums_of_squares.expect("asked for");
            assert_eq!(values(squares), zeros, "{runner}");
        }
    }
}

/// f16 and bf16 are as good as in one piece.
pub fn half_types(runner: &Runner) {
    for dtype in runner.half_dtypes() {
        let case = HeadCase::new(75, [7, 6, VOCABULARY])
            .with_bias()
            .exact_in_half_types();
        let log_probs = config(runner, &case, Entropy::Tracked)
            .init()
            .expect("valid");
        let [tokens, width, vocabulary] = case.shape;
        let ranges = ranges(DIVISIONS[1]);
        let mut leaves = Vec::new();
        let ranks = ranges.iter().map(|range| {
            let words = range.len();
            let hidden: Tensor<2> = runner.tracked(&case.hidden, [tokens, width], dtype);
            let slice = columns(&case.weight, vocabulary, range);
            let weight: Tensor<2> = runner.tracked(&slice, [width, words], dtype);
            let bias = case.bias.as_ref().expect("it has one");
            let bias = runner.tracked(&bias[range.clone()], [words], dtype);
            leaves.push((weight.clone(), range));
            let head = LinearHead::new(weight).with_bias(bias);
            let given = given(runner, &case, [tokens], dtype);
            let shard = VocabularyShard::new(range.start, vocabulary);
            let partials = log_probs.forward_linear_shard(hidden, &head, given, shard);
            partials.unwrap_or_else(|error| panic!("{runner}: {error}"))
        });
        let outputs = finished(ranks.collect());
        let what = format!("{runner}, {dtype:?}");
        assert_values(&what, &case, &outputs, of_products(runner, DType::F32));
        if runner.is_tracked() {
            let answer = case.answer();
            let largest = answer
                .weight_gradient
                .iter()
                .fold(0.0, |m: f64, x| m.max(x.abs()));
            for (output, (weight, range)) in outputs.iter().zip(leaves) {
                let gradients = weighted(runner, &case, output).backward();
                let gradient = weight.grad(&gradients).expect("tracked");
                assert_eq!(gradient.dtype(), dtype, "{what}");
                let expected = columns(&answer.weight_gradient, vocabulary, range);
                // A rounding of each term, and of the sum.
                let rounding = if dtype == DType::F16 {
                    2.0_f64.powi(-10)
                } else {
                    2.0_f64.powi(-7)
                };
                let tolerance = Tolerance {
                    relative: rounding,
                    absolute: rounding * largest,
                };
                assert_all_near(tolerance, &what, &values(gradient), &expected);
            }
        }
    }
}

/// What is refused: a shard that reaches beyond its vocabulary, and what other ranks cannot have
/// reduced.
pub fn refused(runner: &Runner) {
    let case = HeadCase::new(76, [4, 3, 5]);
    let log_probs = config(runner, &case, Entropy::Metric)
        .init()
        .expect("valid");
    let floats = |shape: [usize; 2]| -> Tensor<2> {
        runner.tracked(&vec![0.0; shape[0] * shape[1]], shape, DType::F32)
    };
    let targets = || indices(runner, &case.targets, [4]);
    let head = LinearHead::new(floats([3, 5]));
    let seen = |error: Option<BatchError>, message: &str| {
        let error = error.expect("refused").to_string();
        assert_eq!(error, message, "{runner}");
    };
    for (first, vocabulary, least) in [(3, 7, 8), (0, 4, 5), (usize::MAX, 9, usize::MAX)] {
        let shard = VocabularyShard::new(first, vocabulary);
        let message = format!(
            "`shard.vocabulary` is {vocabulary}; accepted: {least} and more, since this shard has 5 \
             words from {first} on"
        );
        seen(
            log_probs
                .forward_shard(floats([4, 5]), targets(), shard)
                .err(),
            &message,
        );
        let linear = log_probs.forward_linear_shard(floats([4, 3]), &head, targets(), shard);
        seen(linear.err(), &message);
    }
    let shard = VocabularyShard::new(2, 7);
    let partials = log_probs
        .forward_shard(floats([4, 5]), targets(), shard)
        .expect("accepted");
    let (largest, sums) = (
        partials.largest(),
        partials.sums(partials.largest()).expect("its own"),
    );
    assert_eq!((largest.dims(), sums.dims()), ([4], [4, 4]), "{runner}");
    // What was reduced may have another type, and comes from no other device.
    if runner.exact_dtypes().contains(&DType::F64) {
        let (largest, sums) = (largest.clone(), sums.clone().cast(DType::F64));
        let result = partials.clone().finish(largest.cast(DType::F64), sums);
        let log_probs = result.expect("accepted").log_probs;
        assert_eq!(log_probs.dtype(), DType::F32, "{runner}");
    }
    let there = runner.elsewhere();
    let error = partials.sums(largest.clone().to_device(&there));
    let message = error.expect_err("refused").to_string();
    assert!(
        message.starts_with("`largest` is on"),
        "{runner}: {message}"
    );
    let result = partials
        .clone()
        .finish(largest.clone(), sums.clone().to_device(&there));
    let message = result.expect_err("refused").to_string();
    assert!(message.starts_with("`sums` is on"), "{runner}: {message}");
    let short = largest.clone().narrow(0, 0, 3);
    let message = "`largest` has shape [3]; expected [4], as `ShardPartials`";
    seen(partials.sums(short.clone()).err(), message);
    seen(partials.clone().finish(short, sums.clone()).err(), message);
    let message = "`sums` has shape [3, 4]; expected [4, 4], as `ShardPartials`";
    seen(
        partials.finish(largest, sums.narrow(0, 0, 3)).err(),
        message,
    );
    if runner.implementation == Implementation::Fused {
        // With the check, a target is looked for in the whole vocabulary.
        let checked = config(runner, &case, Entropy::None).with_check_targets(true);
        let checked = checked.init().expect("valid");
        let result = checked.forward_shard(floats([4, 5]), targets(), VocabularyShard::new(1, 6));
        assert!(result.is_ok(), "{runner}");
        let far = indices(runner, &[0, 6, 0, 0], [4]);
        let result = checked.forward_shard(floats([4, 5]), far, VocabularyShard::new(1, 6));
        seen(
            result.err(),
            "`targets` holds 6 at flat index 1; accepted: 0 to 6, exclusive",
        );
    }
}
