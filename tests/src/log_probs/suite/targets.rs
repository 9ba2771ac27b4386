//! Targets outside of the vocabulary.

use burn::tensor::{DType, Int, Tensor, TensorData};
use policy_loss::{
    BatchError, DistillationConfig, Entropy, Implementation, LogProbsTokens, TeacherDivergence,
    TokenDistributions, TopK,
};

use super::{
    HeadCase, Layout, Leaves, assert_only_nan, config, indices, init, is_of_cubecl, linear, mask,
    of_products, sound,
};
use crate::compare::assert_all_near;
use crate::runner::{Runner, gradient, values};

const OUTSIDE: [i64; 4] = [-1, -100, 33, i32::MAX as i64];

fn case() -> HeadCase {
    HeadCase::new(11, [4, 5, 33])
}

/// Without the check, such a target is NaN at its own token, and changes no other.
pub fn are_nan(runner: &Runner) {
    for (target, is_kept) in OUTSIDE
        .into_iter()
        .flat_map(|target| [(target, false), (target, true)])
    {
        let mut case = case();
        if is_kept {
            case = case.with_kept();
            // Without a word that is kept it would be NaN anyway.
            case.kept.as_mut().expect("it has some")[2] = vec![1, 5];
        }
        case.targets[2] = target;
        let what = format!("{runner}, target {target}");
        let config = config(runner, &case, Entropy::Metric);
        let outcome = linear(runner, &case, config, Layout::Linear, DType::F32);
        let mut known = case.clone();
        known.targets[2] = 0;
        let answer = known.answer();
        let tolerance = of_products(runner, DType::F32);
        assert_only_nan(tolerance, &what, &outcome.log_probs, &answer.log_probs, 2);
        // The entropy does not depend on the target, unless the target is what is kept.
        let mut entropies = outcome.entropies.expect("asked for");
        if is_kept {
            entropies[2] = answer.entropies[2];
        }
        assert_all_near(tolerance, &what, &entropies, &answer.entropies);
    }
}

/// Targets, and a teacher's words, of whatever integer type they come in.
pub fn of_any_integer_type(runner: &Runner) {
    let types: &[DType] = match is_of_cubecl(runner) {
        true => &[DType::U32],
        false => &[DType::I64, DType::U64, DType::U32, DType::U16, DType::U8],
    };
    let [tokens, width, vocabulary] = [4, 5, 256];
    let case = HeadCase::new(12, [tokens, width, vocabulary]);
    for case in [case.clone(), case.with_kept()] {
        for &dtype in types {
            let what = format!("{runner}, {dtype:?}, kept: {}", case.kept.is_some());
            let answer = case.answer();
            let hidden: Tensor<2> = runner.tracked(&case.hidden, [tokens, width], DType::F32);
            let Leaves { weight, head, .. } = Leaves::of(runner, &case, Layout::Linear, DType::F32);
            let log_probs = init(runner, &case, Entropy::None);
            let targets = indices(runner, &case.targets, [tokens]).cast(dtype);
            let given = LogProbsTokens::new(targets).with_kept_tokens(case.kept_tokens());
            let output = log_probs.forward_linear(hidden.clone(), &head, given);
            let output = sound(&what, output);
            let products = of_products(runner, DType::F32);
            let actual = values(output.log_probs.clone());
            assert_all_near(products, &what, &actual, &answer.log_probs);
            if runner.is_tracked() {
                let gradient = gradient(&weight, &output.log_probs.sum().backward());
                let is_finite = gradient.iter().all(|x| x.is_finite());
                assert!(is_finite, "{what}: {gradient:?}");
            }
            if case.kept.is_some() {
                continue;
            }
            let top_k = |words: Tensor<2, Int>| {
                let teacher = runner.tracked(&[-1.0, -2.0].repeat(tokens), [tokens, 2], DType::F32);
                let student = TokenDistributions::of_hidden(&log_probs, hidden.clone(), &head);
                let divergence = DistillationConfig::new(TeacherDivergence::ReverseKl);
                let divergence = divergence.init().expect("valid");
                let teacher = TopK::new(words, teacher);
                let output: Tensor<1> =
                    sound(&what, divergence.forward_top_k(student, teacher, None));
                let gradient = runner
                    .is_tracked()
                    .then(|| gradient(&weight, &output.clone().sum().backward()));
                (values(output), gradient)
            };
            let words = indices(runner, &[0, 255, 7, 3, 255, 0, 1, 2], [tokens, 2]);
            assert_eq!(top_k(words.clone().cast(dtype)), top_k(words), "{what}");
        }
    }
    if types.contains(&DType::I64) {
        // Not the word that is left when the upper half is cut off.
        let data = TensorData::new(vec![(1_i64 << 32) + 5, 5, i64::MIN], [3]);
        let device = runner.device.clone().without_autodiff();
        let targets = Tensor::<1, Int>::from_data(data, (&device, DType::I64));
        let log_probs = init(runner, &self::case(), Entropy::None);
        let logits: Tensor<2> = runner.tensor(&[0.0; 24], [3, 8], DType::F32);
        let output = log_probs.forward(logits, targets).expect("sound");
        let are_nan = values(output.log_probs).into_iter().map(f64::is_nan);
        assert!(are_nan.eq([true, false, true]), "{runner}");
    }
}

/// A token that no gradient reaches may have any target and any logits.
pub fn without_a_gradient_are_ignored(runner: &Runner) {
    for softcap in [None, Some(4.0)] {
        let mut case = case();
        case.softcap = softcap;
        ignored_without_a_gradient(runner, &case);
    }
}

fn ignored_without_a_gradient(runner: &Runner, case: &HeadCase) {
    let answer = case.answer();
    let [tokens, _, vocabulary] = case.shape;
    let mut logits = answer.logits.clone();
    if runner.implementation == Implementation::Fused {
        logits[vocabulary..2 * vocabulary].fill(f64::NAN);
    }
    let logits: Tensor<2> = runner.tracked(&logits, [tokens, vocabulary], DType::F32);
    let mut targets = case.targets.clone();
    targets[1] = -100;
    let targets = indices(runner, &targets, [tokens]);
    let output = init(runner, case, Entropy::None).forward(logits.clone(), targets);
    let output = sound(runner, output);
    let is_padding = mask(runner, &[false, true, false, false], [tokens]);
    let upstream: Tensor<1> = runner.tensor(&case.log_prob_gradient, [tokens], DType::F32);
    let selected = output.log_probs.mask_fill(is_padding, 0.0);
    let gradient = gradient(&logits, &(selected * upstream).sum().backward());
    let mut expected = case.clone();
    expected.entropy_gradient.fill(0.0);
    let mut expected = expected.answer().logits_gradient;
    expected[vocabulary..2 * vocabulary].fill(0.0);
    let products = of_products(runner, DType::F32);
    assert_all_near(products, &runner.to_string(), &gradient, &expected);
    let mut of_padding = gradient[vocabulary..2 * vocabulary].iter();
    assert!(of_padding.all(|x| *x == 0.0), "{runner}");
}

/// With the check, they are an error that names them, unless they are masked.
pub fn are_found(runner: &Runner) {
    for target in OUTSIDE {
        let mut case = case();
        case.targets[2] = target;
        let [tokens, width, vocabulary] = case.shape;
        let checked = config(runner, &case, Entropy::None).with_check_targets(true);
        let log_probs = checked.init().expect("valid");
        let head = Leaves::of(runner, &case, Layout::Linear, DType::F32).head;
        let errors = |given: LogProbsTokens<1>| {
            let hidden: Tensor<2> = runner.tracked(&case.hidden, [tokens, width], DType::F32);
            let logits = log_probs.forward(runner.zeros([tokens, vocabulary]), given.clone());
            let linear = log_probs.forward_linear(hidden, &head, given);
            [logits.err(), linear.err()]
        };
        let error = BatchError::Target {
            value: target,
            index: 2,
            vocabulary,
        };
        let targets = LogProbsTokens::new(indices(runner, &case.targets, [tokens]));
        let expected = [Some(error.clone()), Some(error)];
        assert_eq!(errors(targets.clone()), expected, "{runner}");
        let valid = mask(runner, &[true, true, false, true], [tokens]);
        let masked = targets.with_action_mask(valid);
        assert_eq!(errors(masked), [None, None], "{runner}: it is masked");
    }
}
