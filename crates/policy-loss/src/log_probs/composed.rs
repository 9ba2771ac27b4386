//! The reference: plain tensor operations that read like the formula, hold all logits, and run on
//! every backend that Burn has.

use burn::tensor::{Int, Tensor};

use super::seam::{Head, Plan, Tokens};
use crate::composed::arithmetic;

/// Log-probs, and a row more each where entropies, and then where sums of squared probabilities are
/// wanted.
pub fn token_log_probs(logits: Tensor<2>, tokens: Tokens, plan: Plan) -> Tensor<2> {
    let Tokens {
        targets,
        scales,
        kept,
    } = tokens;
    let [tokens, vocabulary] = logits.dims();
    let dtype = arithmetic(logits.dtype());
    let logits = logits.cast(dtype);
    let logits = match plan.softcap {
        // Not a division: its gradient is made with an f32 (Burn 0.22.1).
        Some(cap) => (logits * cap.recip()).tanh() * cap,
        None => logits,
    };
    let scaled = logits * scales.reshape([tokens, 1]);
    let unknown = targets
        .clone()
        .lower_elem(0)
        .bool_or(targets.clone().greater_equal_elem(vocabulary as i64));
    let targets = targets.mask_fill(unknown.clone(), 0).reshape([tokens, 1]);
    let scaled = match kept {
        Some(kept) => {
            let device = targets.device();
            let words = Tensor::<1, Int>::arange(0..vocabulary as i64, &device);
            let is_target = targets.clone().equal(words.unsqueeze());
            let is_kept = Tensor::from_data(kept.mask(vocabulary), &device);
            scaled.mask_fill(is_target.bool_or(is_kept).bool_not(), f64::NEG_INFINITY)
        }
        None => scaled,
    };

    // The largest logit is a constant: its gradient cancels.
    let largest = scaled.clone().without_autodiff().max_dim(1);
    let distance = scaled - largest;
    let exponentials = distance.clone().exp();
    let sum = exponentials.clone().sum_dim(1);
    let log_sum = sum.clone().log();
    let log_probs = distance.clone().gather(1, targets) - log_sum.clone();
    let log_probs = log_probs.mask_fill(unknown.reshape([tokens, 1]), f64::NAN);
    let mut values = vec![log_probs];
    let squares = plan.squares.then(|| {
        let probabilities = exponentials.clone() / sum.clone();
        (probabilities.clone() * probabilities).sum_dim(1)
    });
    if plan.entropy {
        // A logit of -inf has probability 0, and 0 * -inf would be NaN.
        let impossible = exponentials.clone().without_autodiff().equal_elem(0.0);
        let finite = distance.mask_fill(impossible, 0.0);
        values.push(log_sum - (exponentials * finite).sum_dim(1) / sum);
    }
    values.extend(squares);
    Tensor::cat(values, 1).transpose()
}

/// The same of hidden states.
pub fn linear_log_probs(head: Head, tokens: Tokens, plan: Plan) -> Tensor<2> {
    let weight = match plan.transposed {
        true => head.weight.transpose(),
        false => head.weight,
    };
    let mut logits = head.hidden.matmul(weight);
    if plan.has_bias {
        logits = logits + head.bias.unsqueeze::<2>();
    }
    token_log_probs(logits, tokens, plan)
}
