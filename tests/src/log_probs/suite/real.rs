//! A real language-model head.

use burn::tensor::{DType, Tensor};
use policy_loss::device::Hardware;
use policy_loss::{Entropy, LinearHead, LogProbsConfig};

use super::{indices, leaf, of_products};
use crate::compare::{Tolerance, assert_all_near, assert_near};
use crate::log_probs::real_head::RealHead;
use crate::runner::{Runner, values};

/// f32 sums of 576 products, of a size of up to some tens. A graphics interface's own `log` and
/// `exp` have an error of some 1e-5 (llvmpipe's logarithm is a polynomial of degree 4).
fn tolerance(runner: &Runner, dtype: DType) -> Tolerance {
    match dtype {
        DType::F32 if runner.backend == "cuda" => of_products(runner, dtype),
        _ if runner.hardware != Hardware::Cpu => Tolerance::of(1e-4),
        DType::F64 => Tolerance::of(1e-10),
        _ => Tolerance {
            relative: 1e-5,
            absolute: 1e-5,
        },
    }
}

/// Log-probs, entropies, and the gradient of the hidden states of real positions.
pub fn of_hidden_states(runner: &Runner) {
    let real = RealHead::read();
    let [tokens, width, vocabulary] = real.shape;
    for dtype in runner.exact_dtypes() {
        let hidden = leaf(runner, &real.hidden, [tokens, width], dtype);
        let plain = Runner {
            device: runner.device.clone().without_autodiff(),
            ..runner.clone()
        };
        let weight = plain.tensor(&real.weight, [vocabulary, width], dtype);
        let output = LogProbsConfig::new()
            .with_entropy(Entropy::Metric)
            .with_implementation(runner.implementation)
            .with_chunk_tokens(20)
            .init()
            .expect("valid")
            .forward_linear(
                hidden.clone(),
                &LinearHead::tied(weight),
                indices(runner, &real.targets, [tokens]),
                None,
            )
            .unwrap_or_else(|error| panic!("{runner}: {error}"));
        let what = format!("{runner}, {dtype:?}");
        let near = |name: &str, actual: Vec<f64>, expected: &[f64]| {
            let what = format!("{what}: {name}");
            assert_all_near(tolerance(runner, dtype), &what, &actual, expected);
        };
        near(
            "log_probs",
            values(output.log_probs.clone()),
            &real.log_probs,
        );
        near(
            "entropies",
            values(output.entropies.expect("asked for")),
            &real.entropies,
        );
        if runner.is_tracked() {
            let upstream = runner.tensor(&real.log_prob_gradient, [tokens], dtype);
            let gradients = (output.log_probs * upstream).sum().backward();
            let gradient = values(hidden.grad(&gradients).expect("hidden is tracked"));
            near("gradient", gradient, &real.hidden_gradient);
        }
    }
}

/// The same logits, handed over; what is left of a logit is the log of the sum.
pub fn of_logits(runner: &Runner) {
    let real = RealHead::read();
    let [tokens, width, vocabulary] = real.shape;
    let dtype = runner.exact_dtypes()[0];
    let hidden: Tensor<2> = runner.tensor(&real.hidden, [tokens, width], dtype);
    let weight: Tensor<2> = runner.tensor(&real.weight, [vocabulary, width], dtype);
    let logits = hidden.matmul(weight.transpose());
    let targets = indices(runner, &real.targets, [tokens]);
    let output = LogProbsConfig::new()
        .with_implementation(runner.implementation)
        .init()
        .expect("valid")
        .forward(logits.clone(), targets.clone())
        .unwrap_or_else(|error| panic!("{runner}: {error}"));
    let chosen: Tensor<1> = logits
        .gather(1, targets.reshape([tokens, 1]))
        .squeeze_dim(1);
    let log_sum_exp = values(chosen - output.log_probs);
    for (token, (actual, expected)) in log_sum_exp.iter().zip(&real.log_sum_exp).enumerate() {
        let what = format!("{runner}: logsumexp of token {token}");
        assert_near(tolerance(runner, dtype), &what, *actual, *expected);
    }
}
