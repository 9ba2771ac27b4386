//! A vocabulary in shards, as tensor parallelism divides it.

use std::ops::Range;

use burn::tensor::{DType, Tensor};
use policy_loss::{
    BatchError, Entropy, Implementation, LinearHead, LogProbs, ShardPartials, TokenLogProbs,
    VocabularyShard,
};

use super::{
    HeadCase, Layout, Leaves, assert_only_nan, assert_values, config, indices, init, of_halves,
    of_products, sound, tokens as given, tolerance, weighted,
};
use crate::compare::{Tolerance, assert_all_near};
use crate::runner::{Runner, gradient, values};

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

/// What ranks make of hidden states and their columns of a case's head, with the leaves of each.
fn of_heads(
    runner: &Runner,
    case: &HeadCase,
    log_probs: &TokenLogProbs,
    ranges: &[Range<usize>],
    dtype: DType,
) -> (Vec<LogProbs<1>>, Vec<(Tensor<2>, Leaves)>) {
    let [tokens, width, vocabulary] = case.shape;
    let given = given(runner, case, [tokens], dtype);
    let layouts = [Layout::Linear, Layout::Tied].into_iter().cycle();
    let ranks = ranges.iter().zip(layouts).map(|(range, layout)| {
        let hidden: Tensor<2> = runner.tracked(&case.hidden, [tokens, width], dtype);
        let weight = columns(&case.weight, vocabulary, range);
        let bias = case.bias.as_ref().map(|bias| &bias[range.clone()]);
        let shape = [width, range.len()];
        let leaves = Leaves::new(runner, (&weight, bias), shape, layout, dtype);
        let shard = VocabularyShard::new(range.start, vocabulary);
        let head = &leaves.head;
        let partials = log_probs.forward_linear_shard(hidden.clone(), head, given.clone(), shard);
        (sound(runner, partials), (hidden, leaves))
    });
    let (ranks, leaves) = ranks.unzip();
    (finished(ranks), leaves)
}

/// What ranks make of their columns of a case's logits, with the leaf of each.
fn of_columns(
    runner: &Runner,
    case: &HeadCase,
    log_probs: &TokenLogProbs,
    ranges: &[Range<usize>],
    dtype: DType,
) -> (Vec<LogProbs<1>>, Vec<Tensor<2>>) {
    let [tokens, _, vocabulary] = case.shape;
    let given = given(runner, case, [tokens], dtype);
    let logits = case.given_logits();
    let ranks = ranges.iter().map(|range| {
        let slice = columns(&logits, vocabulary, range);
        let leaf: Tensor<2> = runner.tracked(&slice, [tokens, range.len()], dtype);
        let shard = VocabularyShard::new(range.start, vocabulary);
        let partials = log_probs.forward_shard(leaf.clone(), given.clone(), shard);
        (sound(runner, partials), leaf)
    });
    let (ranks, leaves) = ranks.unzip();
    (finished(ranks), leaves)
}

/// Fails unless each rank has the same values, those of the whole vocabulary.
fn assert_ranks(what: &str, case: &HeadCase, outputs: &[LogProbs<1>], tolerance: Tolerance) {
    let answer = case.answer();
    let bits = |output: &LogProbs<1>| -> Vec<u64> {
        let more = [&output.entropies, &output.sums_of_squares];
        let all = std::iter::once(&output.log_probs).chain(more.into_iter().flatten());
        let numbers = all.flat_map(|numbers| values(numbers.clone()));
        numbers.map(f64::to_bits).collect()
    };
    for (rank, output) in outputs.iter().enumerate() {
        assert_values(&format!("{what}, rank {rank}"), &answer, output, tolerance);
        assert_eq!(bits(output), bits(&outputs[0]), "{what}: ranks differ");
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
    let ranges = ranges(division);
    let (outputs, leaves) = of_heads(runner, case, log_probs, &ranges, dtype);
    let tolerance = of_products(runner, dtype);
    assert_ranks(what, case, &outputs, tolerance);
    if !runner.is_tracked() {
        return;
    }
    let answer = case.answer();
    let mut hidden_gradient = vec![0.0; tokens * width];
    for ((output, (hidden, leaves)), range) in outputs.iter().zip(leaves).zip(ranges) {
        let gradients = weighted(runner, case, output).backward();
        for (sum, part) in hidden_gradient
            .iter_mut()
            .zip(gradient(&hidden, &gradients))
        {
            *sum += part;
        }
        let [weight, bias] = leaves.gradients(&gradients);
        let expected = columns(&answer.weight_gradient, vocabulary, &range);
        let of = format!("{what}, {range:?}: gradient of the");
        let weight = weight.expect("tracked");
        assert_all_near(tolerance, &format!("{of} weight"), &weight, &expected);
        assert_eq!(bias.is_some(), case.bias.is_some(), "{what}");
        if let Some(bias) = bias {
            let expected = &answer.bias_gradient[range];
            assert_all_near(tolerance, &format!("{of} bias"), &bias, expected);
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
                let how = (division, tolerance(dtype));
                check_logits(runner, &case, entropy, how, dtype, &what);
            }
        }
    }
}

fn check_logits(
    runner: &Runner,
    case: &HeadCase,
    entropy: Entropy,
    (division, tolerance): (&[usize], Tolerance),
    dtype: DType,
    what: &str,
) {
    let log_probs = config(runner, case, entropy).with_chunk_tokens(3);
    let log_probs = log_probs.init().expect("valid");
    let ranges = ranges(division);
    let (outputs, leaves) = of_columns(runner, case, &log_probs, &ranges, dtype);
    assert_ranks(what, case, &outputs, tolerance);
    let answer = case.answer();
    for ((output, logits), range) in outputs.iter().zip(leaves).zip(&ranges) {
        assert_eq!(output.entropies.is_some(), entropy != Entropy::None);
        let are_squared = case.squares_gradient.is_some();
        assert_eq!(output.sums_of_squares.is_some(), are_squared, "{what}");
        if runner.is_tracked() {
            let gradients = weighted(runner, case, output).backward();
            let expected = columns(&answer.logits_gradient, case.shape[2], range);
            let what = format!("{what}, {range:?}: gradient");
            assert_all_near(tolerance, &what, &gradient(&logits, &gradients), &expected);
        }
    }
}

/// Large logits, a shard of which nothing is possible, and a target that is not.
pub fn extreme_logits(runner: &Runner) {
    let never = f64::NEG_INFINITY;
    let logits = [
        [1e4, -1e4, 9999.0, 1e4, 0.0, never, never],
        [1.0, never, 2.0, never, 0.5, never, never],
        [never, never, 3.0, never, never, never, never],
        [-1e4, never, -1e4, 1e4, 1e4, never, never],
    ];
    let mut case = HeadCase::new(72, [4, 1, 7])
        .with_squares()
        .with_logits(logits.concat());
    case.targets = vec![3, 2, 2, 0];
    for dtype in runner.exact_dtypes() {
        let what = format!("{runner}, {dtype:?}");
        let how = (&[2, 3, 2][..], Tolerance::of(1e-6));
        check_logits(runner, &case, Entropy::Tracked, how, dtype, &what);
    }
    impossible_target(runner, [never, 0.0], [vec![-0.5], vec![1.0, -0.5]]);
    // Nothing else is possible in its shard, either.
    impossible_target(runner, [never, never], [vec![-1.0], vec![1.0, 0.0]]);
}

/// A target of -inf, the first of a second shard: its log-prob says so, and the gradients are finite.
fn impossible_target(runner: &Runner, second: [f64; 2], expected: [Vec<f64>; 2]) {
    let logits = vec![0.0, second[0], second[1]];
    let mut case = HeadCase::new(0, [1, 1, 3]).with_logits(logits);
    case.targets = vec![1];
    let log_probs = init(runner, &case, Entropy::None);
    let (outputs, leaves) = of_columns(runner, &case, &log_probs, &[0..1, 1..3], DType::F32);
    for ((output, logits), expected) in outputs.into_iter().zip(&leaves).zip(expected) {
        let what = format!("{runner}, {second:?}");
        let actual = values(output.log_probs.clone());
        assert_eq!(actual, [f64::NEG_INFINITY], "{what}");
        if runner.is_tracked() {
            let gradient = gradient(logits, &output.log_probs.sum().backward());
            assert_all_near(Tolerance::of(1e-6), &what, &gradient, &expected);
        }
    }
}

/// A target that no shard has is NaN at its own token, whether the vocabulary has it or not.
pub fn target_in_no_shard(runner: &Runner) {
    for target in [-100, 3, 19, 1 << 30] {
        let mut case = HeadCase::new(73, [4, 3, 19]);
        case.targets[1] = target;
        let log_probs = init(runner, &case, Entropy::None);
        // Word 3 is in none of them.
        let ranges = [0..3, 4..10, 10..19];
        let (outputs, _) = of_heads(runner, &case, &log_probs, &ranges, DType::F32);
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
        for output in outputs {
            let actual = values(output.log_probs);
            let what = format!("{runner}, {target}");
            let tolerance = of_products(runner, DType::F32);
            assert_only_nan(tolerance, &what, &actual, &answer.log_probs, 1);
        }
    }
}

/// So is one that two shards have.
pub fn target_in_two_shards(runner: &Runner) {
    let mut case = HeadCase::new(77, [2, 1, 5]).with_logits(vec![0.5; 10]);
    case.targets = vec![1, 2];
    let log_probs = init(runner, &case, Entropy::None);
    let (outputs, _) = of_columns(runner, &case, &log_probs, &[0..3, 2..5], DType::F32);
    for output in outputs {
        let are_nan = values(output.log_probs).into_iter().map(f64::is_nan);
        assert!(are_nan.eq([false, true]), "{runner}");
    }
}

/// No valid token, and no token at all.
pub fn no_token(runner: &Runner) {
    let case = HeadCase::new(74, [3, 4, 19])
        .with_squares()
        .with_mask(|_| false);
    let log_probs = init(runner, &case, Entropy::Tracked);
    for count in [3, 0] {
        let mut few = case.clone();
        few.shape[0] = count;
        few.hidden.truncate(count * 4);
        few.targets.truncate(count);
        few.mask = Some(vec![false; count]);
        let (outputs, _) = of_heads(runner, &few, &log_probs, &[0..9, 9..19], DType::F32);
        for output in outputs {
            let more = [output.entropies, output.sums_of_squares];
            let more = more.map(|numbers| numbers.expect("asked for"));
            for numbers in more.into_iter().chain([output.log_probs]) {
                assert_eq!(values(numbers), vec![0.0; count], "{runner}");
            }
        }
    }
}

/// f16 and bf16 are as good as in one piece.
pub fn half_types(runner: &Runner) {
    for dtype in runner.half_dtypes() {
        let case = HeadCase::new(75, [7, 6, VOCABULARY])
            .with_bias()
            .exact_in_half_types();
        let log_probs = init(runner, &case, Entropy::Tracked);
        let ranges = ranges(DIVISIONS[1]);
        let (outputs, leaves) = of_heads(runner, &case, &log_probs, &ranges, dtype);
        let what = format!("{runner}, {dtype:?}");
        assert_ranks(&what, &case, &outputs, of_products(runner, DType::F32));
        if runner.is_tracked() {
            let answer = case.answer();
            // A rounding of each term, and of the sum.
            let tolerance = of_halves(dtype, 1.0, &answer.weight_gradient);
            for ((output, (_, leaves)), range) in outputs.iter().zip(leaves).zip(&ranges) {
                let gradients = weighted(runner, &case, output).backward();
                let [gradient, _] = leaves.gradients(&gradients);
                let expected = columns(&answer.weight_gradient, VOCABULARY, range);
                assert_all_near(tolerance, &what, &gradient.expect("tracked"), &expected);
            }
        }
    }
}

/// What is refused: a shard that reaches beyond its vocabulary, and what other ranks cannot have
/// reduced.
pub fn refused(runner: &Runner) {
    let case = HeadCase::new(76, [4, 3, 5]);
    let log_probs = init(runner, &case, Entropy::Metric);
    let floats = |shape: [usize; 2]| runner.zeros(shape);
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
        let logits = log_probs.forward_shard(floats([4, 5]), targets(), shard);
        seen(logits.err(), &message);
        let linear = log_probs.forward_linear_shard(floats([4, 3]), &head, targets(), shard);
        seen(linear.err(), &message);
    }
    let shard = VocabularyShard::new(2, 7);
    let partials = log_probs.forward_shard(floats([4, 5]), targets(), shard);
    let partials = sound(runner, partials);
    let largest = partials.largest();
    let sums = sound(runner, partials.sums(largest.clone()));
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
    let elsewhere = sums.clone().to_device(&there);
    let result = partials.clone().finish(largest.clone(), elsewhere);
    let message = result.expect_err("refused").to_string();
    assert!(message.starts_with("`sums` is on"), "{runner}: {message}");
    let short = largest.clone().narrow(0, 0, 3);
    let message = "`largest` has shape [3]; expected [4], as `ShardPartials`";
    seen(partials.sums(short.clone()).err(), message);
    seen(partials.clone().finish(short, sums.clone()).err(), message);
    let message = "`sums` has shape [3, 4]; expected [4, 4], as `ShardPartials`";
    let result = partials.finish(largest, sums.narrow(0, 0, 3));
    seen(result.err(), message);
    if runner.implementation == Implementation::Fused {
        // With the check, a target is looked for in the whole vocabulary.
        let checked = config(runner, &case, Entropy::None).with_check_targets(true);
        let checked = checked.init().expect("valid");
        let result = checked.forward_shard(floats([4, 5]), targets(), VocabularyShard::new(1, 6));
        assert!(result.is_ok(), "{runner}");
        let far = indices(runner, &[0, 6, 0, 0], [4]);
        let result = checked.forward_shard(floats([4, 5]), far, VocabularyShard::new(1, 6));
        let message = "`targets` holds 6 at flat index 1; accepted: 0 to 6, exclusive";
        seen(result.err(), message);
    }
}
