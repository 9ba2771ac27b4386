//! A temperature for each token.

use burn::tensor::DType;
use policy_loss::{
    BatchError, Entropy, LogProbsTokens, PolicyBatch, PolicyLossConfig, TokenLogProbs,
};

use super::{
    HeadCase, Layout, Leaves, assert_only_nan, config, indices, init, linear, of_products, tokens,
};
use crate::compare::assert_all_near;
use crate::runner::Runner;

const MEANINGLESS: [f64; 5] = [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

/// The same one for each token is the one of the configuration.
pub fn alike_are_one(runner: &Runner) {
    let mut case = HeadCase::new(61, [5, 4, 19])
        .with_bias()
        .with_temperature(0.75);
    let one = config(runner, &case, Entropy::Tracked);
    let dtype = runner.exact_dtypes()[0];
    let expected = linear(runner, &case, one, Layout::Tied, dtype);
    case.temperature = 1.0;
    case.temperatures = Some(vec![0.75; 5]);
    let each = config(runner, &case, Entropy::Tracked);
    let outcome = linear(runner, &case, each, Layout::Tied, dtype);
    let near = |actual: &[f64], expected: &[f64]| {
        let tolerance = of_products(runner, dtype);
        assert_all_near(tolerance, &runner.to_string(), actual, expected);
    };
    near(&outcome.log_probs, &expected.log_probs);
    if let (Some(actual), Some(expected)) = (&outcome.weight_gradient, &expected.weight_gradient) {
        near(actual, expected);
    }
}

/// Without the check, one without a meaning is NaN at its own token, and changes no other.
pub fn without_a_meaning_are_nan(runner: &Runner) {
    for temperature in MEANINGLESS {
        let mut case = HeadCase::new(62, [4, 5, 33]).with_temperatures();
        let answer = case.answer();
        case.temperatures.as_mut().expect("it has some")[2] = temperature;
        let config = config(runner, &case, Entropy::Metric);
        let outcome = linear(runner, &case, config, Layout::Linear, DType::F32);
        let what = format!("{runner}, temperature {temperature}");
        let tolerance = of_products(runner, DType::F32);
        assert_only_nan(tolerance, &what, &outcome.log_probs, &answer.log_probs, 2);
    }
}

/// What is refused: another shape, two temperatures, and with the check one without a meaning,
/// unless its token is masked.
pub fn refused(runner: &Runner) {
    let case = HeadCase::new(63, [4, 3, 5]);
    let head = Leaves::of(runner, &case, Layout::Linear, DType::F32).head;
    let of = |log_probs: &TokenLogProbs, tokens: LogProbsTokens<1>| {
        let logits = log_probs.forward(runner.zeros([4, 5]), tokens.clone());
        let linear = log_probs.forward_linear(runner.zeros([4, 3]), &head, tokens);
        [logits.err(), linear.err()]
    };
    let seen = |errors: [Option<BatchError>; 2], message: &str| {
        for error in errors {
            let error = error.expect("refused").to_string();
            assert!(error.starts_with(message), "{runner}: {error}");
        }
    };
    let log_probs = init(runner, &case, Entropy::None);
    let short = LogProbsTokens::new(indices(runner, &case.targets, [4]))
        .with_temperatures(runner.tensor::<1>(&[1.0; 3], [3], DType::F32));
    let message = "`temperatures` has shape [3]; expected [4]";
    seen(of(&log_probs, short), message);

    let each = case.clone().with_temperatures();
    let given = tokens(runner, &each, [4], DType::F32);
    assert_eq!(of(&log_probs, given.clone()), [None, None], "{runner}");
    let warm = config(runner, &case, Entropy::None).with_temperature(2.0);
    let warm = warm.init().expect("valid");
    let message = "`temperature` is given twice; accepted: once, with \
         `LogProbsConfig::with_temperature` or `LogProbsTokens::with_temperatures`";
    seen(of(&warm, given), message);
    let policy = PolicyLossConfig::new().init().expect("valid");
    let given = tokens(runner, &each, [2, 2], DType::F32);
    let batch = PolicyBatch::without_log_probs(runner.zeros([2, 2]), runner.zeros([2, 2]));
    let result = policy.forward_linear(&warm, runner.zeros([2, 2, 3]), &head, given, batch);
    let error = result.expect_err("refused").to_string();
    assert_eq!(error, message, "{runner}");

    let checked = config(runner, &case, Entropy::None).with_check_targets(true);
    let checked = checked.init().expect("valid");
    for temperature in MEANINGLESS {
        let mut each = each.clone();
        each.temperatures.as_mut().expect("it has some")[2] = temperature;
        let message =
            format!("`temperatures` is {temperature} at flat index 2; accepted: numbers above 0");
        let given = tokens(runner, &each, [4], DType::F32);
        seen(of(&checked, given), &message);
        each.mask = Some(vec![true, true, false, true]);
        let masked = of(&checked, tokens(runner, &each, [4], DType::F32));
        assert_eq!(masked, [None, None], "{runner}, {temperature}");
    }
}
