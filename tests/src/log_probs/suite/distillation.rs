//! Distances to a teacher, over the whole vocabulary and over a top-k of it.

use burn::tensor::{DType, Tensor};
use policy_loss::{
    BatchError, DistillationConfig, Entropy, Implementation, LogProbsConfig, Tail,
    TeacherDivergence, TokenDistributions, TokenLogProbs, TopK,
};

use super::{
    HeadCase, Layout, Leaves, config, indices, init, is_left_out, mask, of_halves, of_products,
    sound, tolerance,
};
use crate::compare::{Tolerance, assert_all_near};
use crate::golden::Directory;
use crate::golden::features::{self, Feature};
use crate::log_probs::oracle;
use crate::runner::{Runner, gradient, values};

/// One of each kind.
pub const DIVERGENCES: [TeacherDivergence; 5] = [
    TeacherDivergence::ForwardKl,
    TeacherDivergence::ReverseKl,
    TeacherDivergence::Mixed { forward_share: 0.3 },
    TeacherDivergence::JensenShannon { teacher_share: 0.5 },
    TeacherDivergence::JensenShannon { teacher_share: 0.1 },
];

/// A student and a teacher over one vocabulary, whose hidden states differ in length.
fn pair() -> [HeadCase; 2] {
    let smooth = |mut case: HeadCase| {
        case.weight.iter_mut().for_each(|weight| *weight *= 0.5);
        case
    };
    let [student, teacher] = [(81, 6), (82, 4)];
    let student = HeadCase::new(student.0, [7, student.1, 37]);
    let teacher = HeadCase::new(teacher.0, [7, teacher.1, 37]);
    [
        smooth(student).with_bias().with_temperature(0.8),
        smooth(teacher).with_softcap(6.0),
    ]
}

/// The logarithms of a case's probabilities at a token, and the slope of its scaled logits.
fn log_probs(case: &HeadCase, logits: &[f64], token: usize) -> (Vec<f64>, Vec<f64>) {
    let vocabulary = case.shape[2];
    let row = &logits[token * vocabulary..(token + 1) * vocabulary];
    let cap = |x: f64| case.softcap.map_or(x, |cap| cap * (x / cap).tanh());
    let slope = |x: &f64| case.softcap.map_or(1.0, |cap| (x / cap).cosh().powi(-2));
    let bounded: Vec<f64> = row.iter().map(|x| cap(*x)).collect();
    (
        oracle::log_softmax(&bounded, case.temperature),
        row.iter().map(|x| slope(x) / case.temperature).collect(),
    )
}

/// What a test says of a teacher at a token: words, and log-probs.
type Teacher<'a> = &'a dyn Fn(usize) -> (Vec<usize>, Vec<f64>);

struct Answer {
    values: Vec<f64>,
    logits_gradient: Vec<f64>,
    hidden_gradient: Vec<f64>,
    weight_gradient: Vec<f64>,
    bias_gradient: Vec<f64>,
}

fn answer(student: &HeadCase, config: DistillationConfig, teacher: Teacher) -> Answer {
    let [tokens, _, vocabulary] = student.shape;
    let logits = student.answer().logits;
    let mut values = vec![0.0; tokens];
    let mut logits_gradient = vec![0.0; tokens * vocabulary];
    for token in (0..tokens).filter(|token| student.is_valid(*token)) {
        let (log_probs, slope) = log_probs(student, &logits, token);
        let (words, of_teacher) = teacher(token);
        let how = (config.tail, config.min_log_prob);
        let (value, slopes) =
            oracle::distance(config.divergence, how, &log_probs, &words, &of_teacher);
        values[token] = value;
        for word in 0..vocabulary {
            logits_gradient[token * vocabulary + word] =
                student.log_prob_gradient[token] * slopes[word] * slope[word];
        }
    }
    let [hidden_gradient, weight_gradient, bias_gradient] = student.backwards(&logits_gradient);
    Answer {
        values,
        logits_gradient,
        hidden_gradient,
        weight_gradient,
        bias_gradient,
    }
}

/// Of the whole vocabulary.
fn all_words(teacher: &HeadCase) -> impl Fn(usize) -> (Vec<usize>, Vec<f64>) + use<'_> {
    let logits = teacher.answer().logits;
    move |token| {
        let (log_probs, _) = log_probs(teacher, &logits, token);
        ((0..log_probs.len()).collect(), log_probs)
    }
}

/// The leaves of a case, and its distributions. Masked logits are garbage.
struct Given {
    rows: Tensor<2>,
    of_head: Option<Leaves>,
    distributions: TokenDistributions<2>,
}

fn given(
    runner: &Runner,
    case: &HeadCase,
    of_logits: bool,
    chunk: Option<usize>,
    dtype: DType,
) -> Given {
    let [tokens, width, vocabulary] = case.shape;
    let log_probs = config(runner, case, Entropy::Metric).with_chunk_tokens(chunk);
    let log_probs = log_probs.init().expect("valid");
    if of_logits {
        let rows: Tensor<2> = runner.tracked(&case.given_logits(), [tokens, vocabulary], dtype);
        return Given {
            distributions: TokenDistributions::of_logits(&log_probs, rows.clone()),
            rows,
            of_head: None,
        };
    }
    let rows: Tensor<2> = runner.tracked(&case.hidden, [tokens, width], dtype);
    let leaves = Leaves::of(runner, case, Layout::Linear, dtype);
    Given {
        distributions: TokenDistributions::of_hidden(&log_probs, rows.clone(), &leaves.head),
        rows,
        of_head: Some(leaves),
    }
}

/// Fails unless values and gradients of the student are those of the oracle. The tolerances are those of
/// values, of the gradient of rows, and of that of a head.
fn check(
    runner: &Runner,
    case: &HeadCase,
    student: &Given,
    output: Tensor<1>,
    expected: &Answer,
    (tolerances, what): ([Tolerance; 3], &str),
) -> Option<burn::tensor::Gradients> {
    let [of_values, of_rows, of_head] = tolerances;
    let near = |name: &str, tolerance, actual: Vec<f64>, expected: &[f64]| {
        assert_all_near(tolerance, &format!("{what}: {name}"), &actual, expected);
    };
    let actual = values(output.clone());
    near("values", of_values, actual, &expected.values);
    if !runner.is_tracked() {
        return None;
    }
    let upstream = runner.tensor(&case.log_prob_gradient, output.dims(), output.dtype());
    let gradients = (output * upstream).sum().backward();
    let rows = gradient(&student.rows, &gradients);
    match &student.of_head {
        Some(leaves) => {
            near("hidden", of_rows, rows, &expected.hidden_gradient);
            let [weight, bias] = leaves.gradients(&gradients);
            let weight = weight.expect("tracked");
            near("weight", of_head, weight, &expected.weight_gradient);
            assert_eq!(bias.is_some(), leaves.bias.is_some(), "{what}");
            if let Some(bias) = bias {
                near("bias", of_head, bias, &expected.bias_gradient);
            }
        }
        None => near("logits", of_rows, rows, &expected.logits_gradient),
    }
    Some(gradients)
}

/// Each divergence of each kind of input; the teacher has no gradient, and padding no part.
pub fn whole_vocabulary(runner: &Runner) {
    if is_left_out(runner) {
        return;
    }
    for dtype in runner.exact_dtypes() {
        for (i, divergence) in DIVERGENCES.into_iter().enumerate() {
            for (j, of_logits) in [[false, false], [true, true], [false, true], [true, false]]
                .into_iter()
                .enumerate()
            {
                let [mut student, mut teacher] = pair();
                if (i + j) % 2 == 0 {
                    student = student.with_mask(|token| token % 3 != 1).with_softcap(5.0);
                    teacher = teacher.with_mask(|token| token % 3 != 1);
                }
                let what = format!("{runner}, {dtype:?}, {divergence:?}, logits: {of_logits:?}");
                let chunk = [None, Some(2), Some(100)][(i + j) % 3];
                let tolerance = [of_products(runner, dtype); 3];
                let how = (of_logits, chunk, dtype);
                let pair = [&student, &teacher];
                compare(runner, pair, divergence, how, (tolerance, &what));
            }
        }
    }
}

/// Fails unless the divergence of a student from a teacher is that of the oracle, and the student's
/// gradients; `of_logits` says which of both are given by logits, and not by hidden states.
///
/// # Panics
///
/// It is not.
pub fn compare(
    runner: &Runner,
    [student, teacher]: [&HeadCase; 2],
    divergence: TeacherDivergence,
    (of_logits, chunk, dtype): ([bool; 2], Option<usize>, DType),
    (tolerances, what): ([Tolerance; 3], &str),
) {
    let config = DistillationConfig::new(divergence).with_tail(Tail::Ignored);
    let expected = answer(student, config, &all_words(teacher));
    let given_student = given(runner, student, of_logits[0], chunk, dtype);
    let given_teacher = given(runner, teacher, of_logits[1], None, dtype);
    let valid = student.mask.as_ref();
    let valid = valid.map(|valid| mask(runner, valid, [valid.len()]));
    let [one, other] = [&given_student, &given_teacher].map(|it| it.distributions.clone());
    let distillation = config.init().expect("valid");
    let output: Tensor<1> = sound(what, distillation.forward(one, other, valid));
    assert_eq!(output.dtype(), dtype, "{what}");
    let how = (tolerances, what);
    let gradients = check(runner, student, &given_student, output, &expected, how);
    if let Some(gradients) = gradients {
        assert!(given_teacher.rows.grad(&gradients).is_none(), "{what}");
        let of_head = given_teacher.of_head.map(|it| it.gradients(&gradients));
        assert!(of_head.is_none_or(|both| both == [None, None]), "{what}");
    }
}

/// Rows that no gradient reaches may hold anything without a mask, too: none of it reaches the head.
pub fn garbage_without_a_gradient(runner: &Runner) {
    if runner.implementation != Implementation::Fused {
        return;
    }
    let is_padding: Vec<bool> = (0..7).map(|token| token == 1).collect();
    let is_padding = mask(runner, &is_padding, [7]);
    let config = DistillationConfig::new(DIVERGENCES[2]).with_tail(Tail::Ignored);
    let distillation = config.init().expect("valid");
    // A bound has a slope, and that of NaN is NaN.
    for softcap in [None, Some(5.0)] {
        let [mut student, teacher] = pair();
        student.softcap = softcap;
        student.log_prob_gradient[1] = 0.0;
        let mut expected = answer(&student, config, &all_words(&teacher));
        expected.values[1] = 0.0;
        let width = student.shape[1];
        let mut garbage = student.clone();
        garbage.hidden[width..2 * width].fill(f64::NAN);
        let given_student = given(runner, &garbage, false, Some(3), DType::F32);
        let given_teacher = given(runner, &teacher, false, None, DType::F32);
        let distributions = given_student.distributions.clone();
        let output = distillation.forward(distributions, given_teacher.distributions, None);
        let output: Tensor<1> = sound(runner, output);
        let output = output.mask_fill(is_padding.clone(), 0.0);
        let what = format!("{runner}, {softcap:?}");
        let how = ([of_products(runner, DType::F32); 3], &what[..]);
        check(runner, &student, &given_student, output, &expected, how);
    }
}

/// Words that are out of the question for one, the other, or both.
pub fn impossible_words(runner: &Runner) {
    let never = f64::NEG_INFINITY;
    let [student, teacher] = [[1.0, 0.5, never, 0.0], [0.5, 1.0, never, never]];
    for (divergence, [student, teacher]) in [
        (TeacherDivergence::ForwardKl, [student, teacher]),
        (TeacherDivergence::ReverseKl, [teacher, student]),
        (
            TeacherDivergence::JensenShannon { teacher_share: 0.4 },
            [student, teacher],
        ),
        (
            TeacherDivergence::JensenShannon { teacher_share: 0.4 },
            [teacher, student],
        ),
        (
            // The least number of f32, half of which is 0.
            TeacherDivergence::JensenShannon { teacher_share: 0.5 },
            [[0.0, -103.3, never, never]; 2],
        ),
    ] {
        let of = |logits: &[f64]| oracle::log_softmax(logits, 1.0);
        let how = (Tail::Ignored, None);
        let expected =
            oracle::distance(divergence, how, &of(&student), &[0, 1, 2, 3], &of(&teacher));
        let config = DistillationConfig::new(divergence);
        let forward = |student, log_probs: &TokenLogProbs| {
            let teacher: Tensor<2> = runner.tracked(&teacher, [1, 4], DType::F32);
            let teacher = TokenDistributions::of_logits(log_probs, teacher);
            config
                .init()
                .expect("valid")
                .forward(student, teacher, None)
        };
        let what = format!("{runner}, {divergence:?}");
        let how = (tolerance(DType::F32), &what[..]);
        check_one_row(runner, &student, forward, expected, how);
    }
}

/// Fails unless a row of logits has this distance from its teacher, with these slopes.
fn check_one_row(
    runner: &Runner,
    logits: &[f64; 4],
    forward: impl Fn(TokenDistributions<2>, &TokenLogProbs) -> Result<Tensor<1>, BatchError>,
    (value, slopes): (f64, Vec<f64>),
    (tolerance, what): (Tolerance, &str),
) {
    let log_probs = init(runner, &HeadCase::new(83, [1, 1, 4]), Entropy::None);
    let rows: Tensor<2> = runner.tracked(logits, [1, 4], DType::F32);
    let student = TokenDistributions::of_logits(&log_probs, rows.clone());
    let output = sound(what, forward(student, &log_probs));
    assert_all_near(tolerance, what, &values(output.clone()), &[value]);
    if runner.is_tracked() {
        let gradients = (output * 2.0).sum().backward();
        let expected: Vec<f64> = slopes.iter().map(|slope| 2.0 * slope).collect();
        assert_all_near(tolerance, what, &gradient(&rows, &gradients), &expected);
    }
}

/// The words of the largest log-probs, the largest first.
fn most_likely(log_probs: &[f64], count: usize) -> Vec<usize> {
    let mut words: Vec<usize> = (0..log_probs.len()).collect();
    words.sort_by(|a, b| log_probs[*b].total_cmp(&log_probs[*a]));
    words.truncate(count);
    words
}

/// A teacher's most likely words, with each tail, each kind of input, fewer words at some tokens, and
/// garbage at padding.
pub fn top_k(runner: &Runner) {
    if is_left_out(runner) {
        return;
    }
    const K: usize = 5;
    for dtype in runner.exact_dtypes() {
        for (i, divergence) in DIVERGENCES.into_iter().enumerate() {
            for (j, tail) in [Tail::Bucket, Tail::Ignored, Tail::Renormalized]
                .into_iter()
                .enumerate()
            {
                let of_logits = (i + j) % 2 == 1;
                let [mut student, mut teacher] = pair();
                if (i + j) % 3 != 2 {
                    student = student.with_mask(|token| token % 3 != 1).with_softcap(5.0);
                    teacher = teacher.with_mask(|token| token % 3 != 1);
                }
                let least = [None, Some(-3.0)][(i + j / 2) % 2];
                let config = DistillationConfig::new(divergence)
                    .with_tail(tail)
                    .with_min_log_prob(least);
                let all = all_words(&teacher);
                let best = |token: usize| {
                    let (_, log_probs) = all(token);
                    let words = most_likely(&log_probs, if token == 3 { K - 2 } else { K });
                    let log_probs = words.iter().map(|word| log_probs[*word]).collect();
                    (words, log_probs)
                };
                let expected = answer(&student, config, &best);
                let (mut ids, mut log_probs) = (Vec::new(), Vec::new());
                for token in 0..7 {
                    let (words, given) = best(token);
                    match student.is_valid(token) {
                        true => {
                            ids.extend(words.iter().map(|word| *word as i64));
                            log_probs.extend(given);
                            ids.resize((token + 1) * K, -1);
                            log_probs.resize((token + 1) * K, f64::NAN);
                        }
                        false => {
                            ids.extend([-100, 1 << 30, 0, 0, 1]);
                            log_probs.extend([f64::NAN, f64::INFINITY, 1e30, 0.0, -1.0]);
                        }
                    }
                }
                let what = format!("{runner}, {dtype:?}, {divergence:?}, {tail:?}, {least:?}");
                let chunk = [None, Some(2)][i % 2];
                let given_student = given(runner, &student, of_logits, chunk, dtype);
                let valid = student.mask.as_ref().map(|valid| mask(runner, valid, [7]));
                let top_k = TopK::new(
                    indices(runner, &ids, [7, K]),
                    runner.tracked(&log_probs, [7, K], dtype),
                );
                let distributions = given_student.distributions.clone();
                let distillation = config.init().expect("valid");
                let output = sound(
                    &what,
                    distillation.forward_top_k(distributions, top_k, valid),
                );
                let tolerance = match dtype {
                    DType::F64 => of_products(runner, dtype),
                    // What is left to 1 has lost digits.
                    _ => of_products(runner, dtype).at_least(5e-5),
                };
                let how = ([tolerance; 3], &what[..]);
                check(runner, &student, &given_student, output, &expected, how);
            }
        }
    }
}

/// Words that a student finds all but impossible, more than f32 has numbers for: renormalized they are
/// compared as others are.
pub fn far_words(runner: &Runner) {
    let student = [0.0, -120.0, -121.5, -119.0];
    let (words, of_teacher) = ([1, 3, 2], [0.5_f64.ln(), 0.3_f64.ln(), 0.1_f64.ln()]);
    for divergence in DIVERGENCES {
        let how = (Tail::Renormalized, None);
        let log_probs = oracle::log_softmax(&student, 1.0);
        let expected = oracle::distance(divergence, how, &log_probs, &words, &of_teacher);
        let config = DistillationConfig::new(divergence).with_tail(Tail::Renormalized);
        let forward = |student, _: &TokenLogProbs| {
            let top_k = TopK::new(
                indices(runner, &words.map(|word| word as i64), [1, 3]),
                runner.tracked(&of_teacher, [1, 3], DType::F32),
            );
            config
                .init()
                .expect("valid")
                .forward_top_k(student, top_k, None)
        };
        let what = format!("{runner}, {divergence:?}");
        // Rounded at 120.
        let how = (Tolerance::of(1e-4), &what[..]);
        check_one_row(runner, &student, forward, expected, how);
    }
}

/// `[B, T, V]` and `[B, T, H]`; blocks of words; nothing valid; no token.
pub fn shapes(runner: &Runner) {
    let [student, teacher] = pair();
    let student = HeadCase {
        shape: [6, 6, 37],
        hidden: student.hidden[..36].to_vec(),
        ..student
    };
    let log_probs = config(runner, &student, Entropy::None)
        .with_chunk_tokens(4)
        .with_chunk_words(10);
    let log_probs = log_probs.init().expect("valid");
    let Leaves { weight, head, .. } = Leaves::of(runner, &student, Layout::Linear, DType::F32);
    let all = all_words(&teacher);
    let config = DistillationConfig::new(TeacherDivergence::ReverseKl);
    let distillation = config.init().expect("valid");
    let two = |token: usize| {
        let (_, log_probs) = all(token);
        (vec![30, 2], vec![log_probs[30], log_probs[2]])
    };
    let given: Vec<f64> = (0..6).flat_map(|token| two(token).1).collect();
    let ids: Vec<i64> = (0..6).flat_map(|_| [30, 2]).collect();
    let expected = answer(&student, config, &two);
    let hidden: Tensor<3> = runner.tracked(&student.hidden, [2, 3, 6], DType::F32);
    let of = |valid: bool| {
        let top_k = TopK::new(
            indices(runner, &ids, [2, 3, 2]),
            runner.tensor(&given, [2, 3, 2], DType::F32),
        );
        let student = TokenDistributions::of_hidden(&log_probs, hidden.clone(), &head);
        let valid = mask(runner, &[valid; 6], [2, 3]);
        let output = distillation.forward_top_k(student.clone(), top_k, valid.clone());
        let itself = distillation.forward(student.clone(), student, valid);
        [output, itself].map(|output| sound(runner, output))
    };
    let [output, itself] = of(true);
    assert_eq!(output.dims(), [2, 3], "{runner}");
    let near = |actual: Vec<f64>, expected: &[f64]| {
        let tolerance = of_products(runner, DType::F32).at_least(5e-5);
        assert_all_near(tolerance, &runner.to_string(), &actual, expected);
    };
    near(values(output.clone()), &expected.values);
    near(values(itself), &[0.0; 6]);
    if runner.is_tracked() {
        let upstream: Tensor<2> =
            runner.tensor(&student.log_prob_gradient[..6], [2, 3], DType::F32);
        let gradients = (output * upstream).sum().backward();
        near(gradient(&weight, &gradients), &expected.weight_gradient);
    }
    for output in of(false) {
        assert_eq!(values(output.clone()), [0.0; 6], "{runner}");
        if runner.is_tracked() {
            let gradient = gradient(&weight, &output.sum().backward());
            assert!(gradient.iter().all(|x| *x == 0.0), "{runner}");
        }
    }
    let none: Tensor<3> = Tensor::zeros([0, 3, 6], &runner.device);
    let none = TokenDistributions::of_hidden(&log_probs, none, &head);
    let output: Tensor<2> = sound(runner, distillation.forward(none.clone(), none, None));
    assert_eq!(output.dims(), [0, 3], "{runner}");
}

/// f16 and bf16 inputs are computed with as f32.
pub fn half_types(runner: &Runner) {
    for dtype in runner.half_dtypes() {
        let [student, teacher] = pair().map(|case| {
            let mut case = case.exact_in_half_types();
            case.weight.iter_mut().for_each(|weight| *weight *= 0.125);
            case
        });
        let config = DistillationConfig::new(DIVERGENCES[3]).with_tail(Tail::Ignored);
        let expected = answer(&student, config, &all_words(&teacher));
        let [given_student, given_teacher] =
            [&student, &teacher].map(|case| given(runner, case, false, Some(3), dtype));
        let (one, other) = (given_student.distributions, given_teacher.distributions);
        let distillation = config.init().expect("valid");
        let output: Tensor<1> = sound(runner, distillation.forward(one, other, None));
        assert_eq!(output.dtype(), DType::F32, "{runner}");
        let what = format!("{runner}, {dtype:?}");
        let tolerance = of_products(runner, DType::F32);
        assert_all_near(tolerance, &what, &values(output.clone()), &expected.values);
        if runner.is_tracked() {
            let upstream: Tensor<1> = runner.tensor(&student.log_prob_gradient, [7], DType::F32);
            let gradients = (output * upstream).sum().backward();
            let leaves = given_student.of_head.expect("of hidden states");
            let actual = gradient(&leaves.weight, &gradients);
            let tolerance = of_halves(dtype, 2.0, &expected.weight_gradient);
            assert_all_near(tolerance, &what, &actual, &expected.weight_gradient);
        }
    }
}

/// What is refused, and how it is said.
pub fn refused(runner: &Runner) {
    let log_probs = LogProbsConfig::new().with_implementation(runner.implementation);
    let log_probs = log_probs.init().expect("valid");
    let floats = |shape: [usize; 2]| runner.zeros(shape);
    let logits = |shape| TokenDistributions::of_logits(&log_probs, floats(shape));
    let distillation = DistillationConfig::new(TeacherDivergence::ForwardKl);
    let distillation = distillation.init().expect("valid");
    let seen = |result: Result<Tensor<1>, BatchError>, message: &str| {
        let error = result.expect_err("refused").to_string();
        assert_eq!(error, message, "{runner}");
    };
    seen(
        distillation.forward(logits([4, 5]), logits([3, 5]), None),
        "`teacher` has shape [3, 5]; expected [4, 5]",
    );
    seen(
        distillation.forward(logits([4, 5]), logits([4, 6]), None),
        "`teacher.vocabulary` is 6; accepted: 5, the student's",
    );
    seen(
        distillation.forward(
            logits([4, 5]),
            logits([4, 5]),
            mask(runner, &[true; 3], [3]),
        ),
        "`action_mask` has shape [3]; expected [4], as `student`",
    );
    let top_k = |ids: [usize; 2], shape: [usize; 2]| {
        let ids = indices(runner, &vec![0; ids[0] * ids[1]], ids);
        distillation.forward_top_k(logits([4, 5]), TopK::new(ids, floats(shape)), None)
    };
    seen(
        top_k([3, 2], [4, 2]),
        "`teacher.ids` has shape [3, 2]; expected [4, 2]",
    );
    seen(
        top_k([4, 2], [4, 3]),
        "`teacher.log_probs` has shape [4, 3]; expected [4, 2]",
    );
    // A word beyond the vocabulary is seen.
    let ids = indices(runner, &[1, 0, 5, 1, 1, 2, 0, 1], [4, 2]);
    let given = runner.tensor::<2>(&[-1.0; 8], [4, 2], DType::F32);
    let output: Result<Tensor<1>, BatchError> =
        distillation.forward_top_k(logits([4, 5]), TopK::new(ids, given), None);
    let are_nan = values(sound(runner, output)).into_iter().map(f64::is_nan);
    assert!(are_nan.eq([false, true, false, false]), "{runner}");

    for (config, message) in [
        (
            DistillationConfig::new(TeacherDivergence::JensenShannon { teacher_share: 1.0 }),
            "`divergence.jensen_shannon.teacher_share` is 1; accepted: a number above 0 and below 1; \
             `forward_kl` and `reverse_kl` for the ends",
        ),
        (
            DistillationConfig::new(TeacherDivergence::Mixed {
                forward_share: f64::NAN,
            }),
            "`divergence.mixed.forward_share` is NaN; accepted: a number from 0 to 1",
        ),
        (
            DistillationConfig::new(TeacherDivergence::ReverseKl).with_min_log_prob(0.0),
            "`min_log_prob` is 0; accepted: a finite number below 0",
        ),
    ] {
        assert_eq!(config.init().expect_err("refused").to_string(), message);
    }
    let read = |json: &str| serde_json::from_str::<DistillationConfig>(json);
    let config = DistillationConfig::new(TeacherDivergence::Mixed {
        forward_share: 0.25,
    })
    .with_tail(Tail::Renormalized)
    .with_min_log_prob(-10.0);
    let json = serde_json::to_string(&config).expect("it has a form");
    assert_eq!(read(&json).expect("its own"), config);
    assert!(read(r#"{ "divergence": "forward_kl", "tial": "bucket" }"#).is_err());
    assert!(
        read(r#"{ "divergence": { "mixed": { "forward_share": 0.3, "beta": 0.5 } } }"#).is_err()
    );
    let of_top_k = config.init().expect("valid");
    seen(
        of_top_k.forward(logits([4, 5]), logits([4, 5]), None),
        "`min_log_prob` is -10; accepted: none over a whole vocabulary; it is of a top-k",
    );
}

/// Where no token is valid nothing has a gradient, whatever word a masked one names.
pub fn impossible_words_of_masked_tokens(runner: &Runner) {
    let log_probs = LogProbsConfig::new().init().expect("valid");
    for tail in [Tail::Bucket, Tail::Ignored, Tail::Renormalized] {
        let given = (&[0.5; 10][..], None);
        let leaves = Leaves::new(runner, given, [2, 5], Layout::Linear, DType::F32);
        let hidden: Tensor<2> = runner.tracked(&[1.0; 6], [3, 2], DType::F32);
        let student = TokenDistributions::of_hidden(&log_probs, hidden.clone(), &leaves.head);
        let ids = indices(runner, &[0, 10, -1, 7, 5, 5], [3, 2]);
        let teacher = TopK::new(ids, runner.tensor(&[f64::NAN; 6], [3, 2], DType::F32));
        let config = DistillationConfig::new(TeacherDivergence::ForwardKl).with_tail(tail);
        let distillation = config.init().expect("valid");
        let nothing = mask(runner, &[false; 3], [3]);
        let output: Tensor<1> = sound(
            runner,
            distillation.forward_top_k(student, teacher, nothing),
        );
        assert_eq!(values(output.clone()), [0.0; 3], "{runner}, {tail:?}");
        if runner.is_tracked() {
            let gradients = output.sum().backward();
            for leaf in [&leaves.weight, &hidden] {
                let mut gradient = gradient(leaf, &gradients).into_iter();
                assert!(gradient.all(|x| x == 0.0), "{runner}, {tail:?}");
            }
        }
    }
}

/// What trainers compute themselves, in float64. Not among them, because a head has no words for it:
/// NeMo-RL's reverse and mixed divergence with `zero_outside_topk`, whose teacher gives each word outside
/// of its top-k a log-prob of -100; and miles' weighted mean of log-ratios, which is no divergence but a
/// term of advantages. Truncated values and factors of a token are the caller's, as here.
pub fn golden(runner: &Runner) {
    if is_left_out(runner) {
        return;
    }
    let directory = Directory::of_environment();
    let cases = features::cases(&directory).into_iter();
    let (mut matched, mut others) = (0, 0);
    for it in cases.filter(|it| it.kind == "distillation") {
        match asked(&it) {
            Some(asked) => {
                check_golden(runner, &it, &asked);
                matched += 1;
            }
            None => others += 1,
        }
    }
    directory.assert_count(features::FILE, matched, 25);
    directory.assert_count(features::FILE, others, 11);
}

/// How a case is asked for here.
struct Asked {
    config: DistillationConfig,
    support: Option<String>,
    /// Whether the teacher's log-probs are given as those of its top-k alone.
    is_teacher_renormalized: bool,
}

fn asked(it: &Feature) -> Option<Asked> {
    let of_weight = |weight: f64| match weight {
        0.0 => TeacherDivergence::ForwardKl,
        1.0 => TeacherDivergence::ReverseKl,
        teacher_share => TeacherDivergence::JensenShannon { teacher_share },
    };
    let tail = || match it.flag("add_tail") {
        true => Tail::Bucket,
        false => Tail::Renormalized,
    };
    let mut is_teacher_renormalized = false;
    let config = match it.feature.as_str() {
        "opd loss, top-k forward kl (verl)" => {
            DistillationConfig::new(TeacherDivergence::ForwardKl)
                .with_tail(Tail::Ignored)
                .with_min_log_prob(it.param("log_prob_min_clamp").as_f64())
        }
        "opd loss, top-k (NeMo-RL)" => {
            let divergence = match it.param("kl_type").as_str() {
                Some("forward") => TeacherDivergence::ForwardKl,
                Some("reverse") => TeacherDivergence::ReverseKl,
                _ => TeacherDivergence::Mixed {
                    forward_share: it.number("mixed_kl_weight"),
                },
            };
            is_teacher_renormalized = it.flag("zero_outside_topk");
            let tail = match is_teacher_renormalized {
                false => Tail::Renormalized,
                true if divergence == TeacherDivergence::ForwardKl => Tail::Ignored,
                true => return None,
            };
            DistillationConfig::new(divergence).with_tail(tail)
        }
        "generalized jsd (TRL)" => {
            DistillationConfig::new(of_weight(it.number("beta"))).with_tail(tail())
        }
        "sdpo (TRL)" => DistillationConfig::new(of_weight(it.number("alpha"))).with_tail(tail()),
        "opd top-k reverse kl (miles)" => return None,
        // Of advantages: another suite.
        "iw-opd (TRL)" => return None,
        other => panic!("a feature that is not known: {other:?}"),
    };
    let support = it.param("support").as_str().map(str::to_owned);
    Some(Asked {
        config,
        support: support.filter(|_| it.number("top_k") > 0.0),
        is_teacher_renormalized,
    })
}

fn check_golden(runner: &Runner, it: &Feature, asked: &Asked) {
    let [rows, columns] = it.shape("student_logits");
    let tokens = rows * columns;
    let (student, teacher) = (it.input("student_logits"), it.input("teacher_logits"));
    let vocabulary = student.len() / tokens;
    let temperature = it.param("temperature").as_f64().unwrap_or(1.0);
    let log_softmax = |logits: &[f64]| -> Vec<Vec<f64>> {
        let rows = logits.chunks(vocabulary);
        rows.map(|row| oracle::log_softmax(row, temperature))
            .collect()
    };
    let of_teacher = log_softmax(&teacher);
    let of_student = log_softmax(&student);
    let valid: Vec<bool> = it.input("action_mask").iter().map(|x| *x == 1.0).collect();
    let count = valid.iter().filter(|valid| **valid).count() as f64;
    for dtype in runner.exact_dtypes() {
        let what = format!("{runner}, {}, {dtype:?}", it.name);
        let log_probs = LogProbsConfig::new()
            .with_temperature(temperature)
            .with_implementation(runner.implementation)
            .with_chunk_tokens(5);
        let log_probs = log_probs.init().expect("valid");
        let shape = [rows, columns, vocabulary];
        let leaf: Tensor<3> = runner.tracked(&student, shape, dtype);
        let given = TokenDistributions::of_logits(&log_probs, leaf.clone());
        let valid = mask(runner, &valid, [rows, columns]);
        let distillation = asked.config.init().expect("valid");
        let output: Result<Tensor<2>, BatchError> = match &asked.support {
            None => {
                let teacher = runner.tensor(&teacher, shape, dtype);
                let teacher = TokenDistributions::of_logits(&log_probs, teacher);
                distillation.forward(given, teacher, valid)
            }
            Some(support) => {
                let words = it.number("top_k") as usize;
                let best = |log_probs: &[f64]| most_likely(log_probs, words);
                let most = if support == "union" { 2 * words } else { words };
                let (mut ids, mut log_probs) = (Vec::new(), Vec::new());
                for (student, teacher) in of_student.iter().zip(&of_teacher) {
                    let mut chosen = match support.as_str() {
                        "teacher" => best(teacher),
                        "student" => best(student),
                        _ => [best(teacher), best(student)].concat(),
                    };
                    chosen.sort_unstable();
                    chosen.dedup();
                    let mut given: Vec<f64> = chosen.iter().map(|id| teacher[*id]).collect();
                    if asked.is_teacher_renormalized {
                        let sum: f64 = given.iter().map(|x| x.exp()).sum();
                        given.iter_mut().for_each(|x| *x -= sum.ln());
                    }
                    let mut chosen: Vec<i64> = chosen.iter().map(|id| *id as i64).collect();
                    chosen.resize(most, -1);
                    given.resize(most, 0.0);
                    ids.extend(chosen);
                    log_probs.extend(given);
                }
                let shape = [rows, columns, most];
                let log_probs = runner.tensor(&log_probs, shape, dtype);
                let top_k = TopK::new(indices(runner, &ids, shape), log_probs);
                distillation.forward_top_k(given, top_k, valid)
            }
        };
        let mut output = sound(&what, output);
        if it.has_param("loss_max_clamp") {
            let most = it.param("loss_max_clamp").as_f64();
            output = output.clamp(0.0, most.unwrap_or(f64::MAX));
        }
        if let Some(most) = it.param("importance_clip").as_f64() {
            let [ids, rollout] = ["tokens", "rollout_log_probs"].map(|name| it.input(name));
            let of = |i: usize| {
                (of_student[i][ids[i] as usize] - rollout[i])
                    .exp()
                    .min(most)
            };
            let weights: Vec<f64> = (0..tokens).map(of).collect();
            output = output * runner.tensor::<2>(&weights, [rows, columns], dtype);
        }
        let tolerance = match dtype {
            DType::F64 => Tolerance::of(1e-9),
            // What is left to 1 has lost digits.
            _ => tolerance(dtype).at_least(5e-5),
        };
        let near = |name: &str, actual: Vec<f64>| {
            let what = format!("{what}: {name}");
            assert_all_near(tolerance, &what, &actual, &it.expected(name));
        };
        // Not a division: its gradient is made with an f32 (Burn 0.22.1).
        let loss = output.sum() * (1.0 / count);
        near("loss", values(loss.clone()));
        if runner.is_tracked() {
            let gradient = gradient(&leaf, &loss.backward());
            near("grad_student_logits", gradient);
        }
    }
}
