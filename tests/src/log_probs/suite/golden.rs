//! A real language-model head: some positions of generated text, and what follows from them.

use burn::tensor::{DType, Tensor};
use policy_loss::device::Hardware;
use policy_loss::{Entropy, LinearHead, LogProbsConfig};
use safetensors::SafeTensors;

use super::{indices, of_products, sound};
use crate::compare::{Tolerance, assert_all_near, assert_near};
use crate::golden::Directory;
use crate::runner::{Runner, gradient, values};

const FILE: &str = "lm_head_smollm2.safetensors";

/// One of so many positions is used: the products of a test build are slow.
const SHARE: usize = 8;

fn rows<T: Copy>(all: Vec<T>, width: usize) -> Vec<T> {
    let rows = all.chunks(width).step_by(SHARE);
    rows.flatten().copied().collect()
}

/// Hidden states, head, and what they come to in `f64`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct RealHead {
    /// Tokens, length of a hidden state, vocabulary.
    pub shape: [usize; 3],
    /// `[N, H]`.
    pub hidden: Vec<f64>,
    /// `[V, H]`: the head is tied to the embedding.
    pub weight: Vec<f64>,
    pub targets: Vec<i64>,
    pub log_probs: Vec<f64>,
    pub entropies: Vec<f64>,
    pub log_sum_exp: Vec<f64>,
    /// The gradient that reaches each log-prob.
    pub log_prob_gradient: Vec<f64>,
    pub hidden_gradient: Vec<f64>,
}

impl RealHead {
    /// Reads the file.
    ///
    /// # Panics
    ///
    /// The file is missing or damaged.
    pub fn read(directory: &Directory) -> Self {
        let bytes = directory.bytes(FILE);
        let file = SafeTensors::deserialize(&bytes).expect("the head can be parsed");
        let tensor = |name: &str| file.tensor(name).expect("the head holds it");
        let bytes = |name: &str| tensor(name).data();
        let [vocabulary, width] = tensor("W").shape()[..] else {
            panic!("the head is of rank 2");
        };
        let doubles = |name: &str| -> Vec<f64> {
            let (chunks, _) = bytes(name).as_chunks::<8>();
            chunks.iter().map(|c| f64::from_le_bytes(*c)).collect()
        };
        let hidden = bytes("h").as_chunks::<4>().0.iter();
        let weight = bytes("W").as_chunks::<2>().0.iter();
        let targets = bytes("targets").as_chunks::<4>().0.iter();
        let hidden = rows(
            hidden.map(|c| f64::from(f32::from_le_bytes(*c))).collect(),
            width,
        );
        Self {
            shape: [hidden.len() / width, width, vocabulary],
            hidden,
            weight: weight
                .map(|c| half::f16::from_le_bytes(*c).to_f64())
                .collect(),
            targets: rows(
                targets.map(|c| i64::from(i32::from_le_bytes(*c))).collect(),
                1,
            ),
            log_probs: rows(doubles("logp"), 1),
            entropies: rows(doubles("entropy"), 1),
            log_sum_exp: rows(doubles("logsumexp"), 1),
            log_prob_gradient: rows(doubles("upstream_g"), 1),
            hidden_gradient: rows(doubles("dh"), width),
        }
    }
}

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
    let real = RealHead::read(&Directory::of_environment());
    let [tokens, width, vocabulary] = real.shape;
    for dtype in runner.exact_dtypes() {
        let hidden: Tensor<2> = runner.tracked(&real.hidden, [tokens, width], dtype);
        let weight = runner
            .plain()
            .tensor(&real.weight, [vocabulary, width], dtype);
        let log_probs = LogProbsConfig::new()
            .with_entropy(Entropy::Metric)
            .with_implementation(runner.implementation)
            .with_chunk_tokens(20);
        let log_probs = log_probs.init().expect("valid");
        let targets = indices(runner, &real.targets, [tokens]);
        let head = LinearHead::tied(weight);
        let output = log_probs.forward_linear(hidden.clone(), &head, targets);
        let output = sound(runner, output);
        let what = format!("{runner}, {dtype:?}");
        let near = |name: &str, actual: Vec<f64>, expected: &[f64]| {
            let what = format!("{what}: {name}");
            assert_all_near(tolerance(runner, dtype), &what, &actual, expected);
        };
        let log_probs = values(output.log_probs.clone());
        near("log_probs", log_probs, &real.log_probs);
        let entropies = values(output.entropies.expect("asked for"));
        near("entropies", entropies, &real.entropies);
        if runner.is_tracked() {
            let upstream = runner.tensor(&real.log_prob_gradient, [tokens], dtype);
            let gradients = (output.log_probs * upstream).sum().backward();
            let gradient = gradient(&hidden, &gradients);
            near("gradient", gradient, &real.hidden_gradient);
        }
    }
}

/// The same logits, handed over; what is left of a logit is the log of the sum.
pub fn of_logits(runner: &Runner) {
    let real = RealHead::read(&Directory::of_environment());
    let [tokens, width, vocabulary] = real.shape;
    let dtype = runner.exact_dtypes()[0];
    let hidden: Tensor<2> = runner.tensor(&real.hidden, [tokens, width], dtype);
    let weight: Tensor<2> = runner.tensor(&real.weight, [vocabulary, width], dtype);
    let logits = hidden.matmul(weight.transpose());
    let targets = indices(runner, &real.targets, [tokens]);
    let log_probs = LogProbsConfig::new().with_implementation(runner.implementation);
    let log_probs = log_probs.init().expect("valid");
    let output = sound(runner, log_probs.forward(logits.clone(), targets.clone()));
    let chosen: Tensor<1> = logits
        .gather(1, targets.reshape([tokens, 1]))
        .squeeze_dim(1);
    let log_sum_exp = values(chosen - output.log_probs);
    for (token, (actual, expected)) in log_sum_exp.iter().zip(&real.log_sum_exp).enumerate() {
        let what = format!("{runner}: logsumexp of token {token}");
        assert_near(tolerance(runner, dtype), &what, *actual, *expected);
    }
}
