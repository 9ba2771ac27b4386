//! Distributions over the tokens that a sampler kept.

use burn::tensor::{DType, Tensor};
use policy_loss::{
    BatchError, Entropy, KeptTokens, LinearHead, LogProbsTokens, PolicyBatch, PolicyLossConfig,
};

use super::{
    HeadCase, Layout, Leaves, config, indices, init, of_products, sound, tolerance, weighted,
};
use crate::compare::assert_all_near;
use crate::golden::Directory;
use crate::golden::features::{self, Feature};
use crate::runner::{Runner, gradient, values};

/// What float64 code of other hands computes, from logits, and from hidden states which a head of
/// ones hands through.
pub fn golden(runner: &Runner) {
    let directory = Directory::of_environment();
    let cases = features::cases(&directory).into_iter();
    let cases: Vec<_> = cases.filter(|it| it.kind == "head").collect();
    directory.assert_count(features::FILE, cases.len(), 10);
    for it in cases {
        check_golden(runner, &it);
    }
}

fn check_golden(runner: &Runner, it: &Feature) {
    let shape = it.shape("logits");
    let logits = it.input("logits");
    let tokens: usize = shape.iter().product();
    let vocabulary = logits.len() / tokens;
    let mut case = HeadCase::new(0, [tokens, vocabulary, vocabulary]);
    case.softcap = it.param("softcap").as_f64();
    case.temperatures = it.has("temperatures").then(|| it.input("temperatures"));
    case.targets = it.input("tokens").iter().map(|id| *id as i64).collect();
    case.log_prob_gradient = it.input("log_prob_weights");
    case.entropy_gradient = it.input("entropy_weights");
    let kept = it.input("kept");
    let list = |row: &[f64]| -> Vec<u32> {
        let words = (0..vocabulary).filter(|word| row[*word] == 1.0);
        words.map(|word| word as u32).collect()
    };
    case.kept = Some(kept.chunks(vocabulary).map(list).collect());
    case.hidden = logits;
    let one = |i: usize| f64::from(u8::from(i / vocabulary == i % vocabulary));
    case.weight = (0..vocabulary * vocabulary).map(one).collect();

    let [rows, columns] = shape;
    let three = [rows, columns, vocabulary];
    for dtype in runner.exact_dtypes() {
        let log_probs = config(runner, &case, Entropy::Tracked).with_chunk_tokens(5);
        let log_probs = log_probs.init().expect("valid");
        let given = super::tokens(runner, &case, shape, dtype);
        let head = Leaves::of(runner, &case, Layout::Linear, dtype).head;
        for is_linear in [false, true] {
            let what = format!("{runner}, {}, {dtype:?}, linear: {is_linear}", it.name);
            let leaf: Tensor<3> = runner.tracked(&case.hidden, three, dtype);
            let output = match is_linear {
                true => log_probs.forward_linear(leaf.clone(), &head, given.clone()),
                false => log_probs.forward(leaf.clone(), given.clone()),
            };
            let output = sound(&what, output);
            let near = |name: &str, actual: Vec<f64>| {
                let tolerance = match is_linear {
                    true => of_products(runner, dtype),
                    false => tolerance(dtype),
                };
                let what = format!("{what}: {name}");
                assert_all_near(tolerance, &what, &actual, &it.expected(name));
            };
            near("log_probs", values(output.log_probs.clone()));
            let entropies = output.entropies.clone().expect("asked for");
            near("entropies", values(entropies));
            let loss = weighted(runner, &case, &output);
            near("loss", values(loss.clone()));
            if runner.is_tracked() {
                let gradients = loss.backward();
                let gradient = gradient(&leaf, &gradients);
                if !is_linear {
                    let kept = kept.iter().enumerate();
                    let words = kept.filter(|(i, kept)| {
                        **kept == 0.0 && case.targets[i / vocabulary] != (i % vocabulary) as i64
                    });
                    for (i, _) in words {
                        assert_eq!(gradient[i], 0.0, "{what}: [{i}] was not kept");
                    }
                }
                near("grad_logits", gradient);
            }
        }
    }
}

/// Words that were not kept may hold anything, also where a softcap would make NaN of it; where the
/// target alone was, everything is 0.
pub fn the_others_have_no_part(runner: &Runner) {
    let (never, nan) = (f64::NEG_INFINITY, f64::NAN);
    let rows = [
        [0.5, never, 2.0, 1.0, nan],
        [f64::INFINITY, 1.0, never, nan, nan],
    ];
    let kept = KeptTokens::new(vec![3, 2, 3], vec![0, 3, 3]);
    for softcap in [None, Some(4.0)] {
        let mut case = HeadCase::new(51, [2, 1, 5]).with_temperature(0.5);
        case.softcap = softcap;
        (case.log_prob_gradient, case.entropy_gradient) = (vec![1.0, 2.0], vec![0.5, 1.0]);
        let mut alone = case.clone();
        alone.shape = [1, 1, 3];
        alone.hidden = vec![1.0];
        alone.weight = vec![0.5, 2.0, 1.0];
        alone.targets = vec![0];
        let answer = alone.answer();
        let logits: Tensor<2> = runner.tracked(&rows.concat(), [2, 5], DType::F32);
        let given = LogProbsTokens::new(indices(runner, &[0, 1], [2]));
        let given = given.with_kept_tokens(kept.clone());
        let output = init(runner, &case, Entropy::Tracked).forward(logits.clone(), given);
        let output = sound(runner, output);
        let what = format!("{runner}, {softcap:?}");
        let near = |actual: Vec<f64>, expected: &[f64]| {
            assert_all_near(tolerance(DType::F32), &what, &actual, expected);
        };
        near(
            values(output.log_probs.clone()),
            &[answer.log_probs[0], 0.0],
        );
        let entropies = output.entropies.clone().expect("asked for");
        near(values(entropies), &[answer.entropies[0], 0.0]);
        // Composed, the slope of a softcap at a NaN is multiplied by the 0 that arrives.
        let is_nan =
            softcap.is_some() && runner.implementation == policy_loss::Implementation::Composed;
        if runner.is_tracked() && !is_nan {
            let gradients = weighted(runner, &case, &output).backward();
            let gradient = gradient(&logits, &gradients);
            let [a, b, c] = answer.logits_gradient[..] else {
                panic!("three words");
            };
            near(gradient, &[a, 0.0, b, c, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        }
    }
}

/// Lists that fit no batch, before anything is computed.
pub fn refused(runner: &Runner) {
    let case = HeadCase::new(52, [4, 3, 5]);
    let log_probs = init(runner, &case, Entropy::None);
    let loss = PolicyLossConfig::new().init().expect("valid");
    let floats = |shape: [usize; 2]| runner.zeros(shape);
    let head = LinearHead::new(floats([3, 5]));
    for (kept, message) in [
        (
            KeptTokens::new(vec![0, 1], vec![0, 1, 2]),
            "`kept_tokens.offsets` has shape [3]; expected [5], one more than there are tokens",
        ),
        (
            KeptTokens::new(vec![0, 5], vec![0, 1, 1, 2, 2]),
            "`kept_tokens.ids` is 5 at index 1; accepted: 0 to 5, exclusive",
        ),
    ] {
        let tokens = LogProbsTokens::new(indices(runner, &case.targets, [4]));
        let tokens = tokens.with_kept_tokens(kept.clone());
        let logits = log_probs.forward(floats([4, 5]), tokens.clone());
        let linear = log_probs.forward_linear(floats([4, 3]), &head, tokens);
        let hidden = runner.zeros([2, 2, 3]);
        let tokens = LogProbsTokens::new(indices(runner, &case.targets, [2, 2]));
        let tokens = tokens.with_kept_tokens(kept);
        let batch = PolicyBatch::without_log_probs(floats([2, 2]), floats([2, 2]));
        let policy = loss.forward_linear(&log_probs, hidden, &head, tokens, batch);
        let errors: [Option<BatchError>; 3] = [logits.err(), linear.err(), policy.err()];
        for error in errors {
            let error = error.expect("refused").to_string();
            assert_eq!(error, message, "{runner}");
        }
    }
}
