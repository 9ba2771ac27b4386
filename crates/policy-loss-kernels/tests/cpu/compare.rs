//! When the kernels agree with the oracle.

use policy_loss_kernels::cpu::{Arch, Arithmetic};
use policy_loss_kernels::{Kind, MetricValues, Objective, Sum, Sums};
use policy_loss_oracle::{Answer, Scale};

use crate::data::Data;

/// How far results in `T` lie from those of the oracle, in proportion to their sizes. Most of them
/// are sums and products of a few numbers; a sum in lanes rounds a few dozen times.
fn relative<T: Arithmetic>() -> f64 {
    match T::IS_DOUBLE {
        true => 1e-12,
        false => 4e-6,
    }
}

/// A decision as near to its threshold may go the other way. Such draws are few.
fn least_margin<T: Arithmetic>() -> f64 {
    match T::IS_DOUBLE {
        true => 1e-11,
        false => 2e-5,
    }
}

/// What is smaller may underflow in f32 on its way.
const TINY: f64 = 1e-30;

/// Compares a run on each of the vector units with the oracle. Whether it could: not where a
/// decision is a matter of rounding.
pub fn check<T: Arithmetic>(
    data: &Data,
    objective: &Objective,
    scale: Option<Scale>,
    archs: &[Arch],
) -> bool {
    let is_clear = data.answer::<T>(objective, scale).margin >= least_margin::<T>();
    if is_clear {
        compare::<T>(data, objective, scale, archs);
    }
    is_clear
}

/// The same where the numbers are chosen so that no decision is a matter of rounding, however near it
/// is.
pub fn compare<T: Arithmetic>(
    data: &Data,
    objective: &Objective,
    scale: Option<Scale>,
    archs: &[Arch],
) {
    let answer = data.answer::<T>(objective, scale);
    for &arch in archs {
        let context = format!(
            "{arch:?}, f64: {}, {}x{}, {objective:?}",
            T::IS_DOUBLE,
            data.sequences,
            data.tokens
        );
        check_run::<T>(data, objective, scale, arch, &answer, &context);
    }
}

fn check_run<T: Arithmetic>(
    data: &Data,
    objective: &Objective,
    scale: Option<Scale>,
    arch: Arch,
    answer: &Answer,
    context: &str,
) {
    let factor = factor(objective, scale, &answer.sums);
    // The oracle adds one by one: its own error grows with the number of terms.
    let relative = relative::<T>() + 2e-16 * answer.sums.valid_tokens;
    let run = |with_gradient| {
        let scale = scale.map(|_| factor);
        data.run_told::<T>(arch, objective, scale, &answer.told, with_gradient)
    };
    let (without, with) = (run(false), run(true));
    assert!(without.gradient.is_empty() && without.entropy_gradient.is_empty());
    assert_eq!(
        without.sums, with.sums,
        "with and without gradient: {context}"
    );
    assert_eq!(
        without.loss, with.loss,
        "with and without gradient: {context}"
    );

    let (sums, sizes) = (answer.sums.to_row(), answer.sizes.sums.to_row());
    for (sum, ((got, want), size)) in Sum::ALL
        .iter()
        .zip(with.sums.to_row().into_iter().zip(sums).zip(sizes))
    {
        let what = format!("{}: {context}", sum.name());
        match sum.kind() {
            Kind::Count => assert_eq!(got, want, "{what}"),
            Kind::Sum | Kind::Least | Kind::Largest => near(&what, got, want, relative * size),
        }
    }
    let size = answer.sizes.sums.loss * factor;
    near(
        &format!("loss: {context}"),
        with.loss,
        answer.loss,
        relative * size,
    );
    check_metrics(objective, answer, context);

    assert_eq!(with.gradient.len(), data.length(), "{context}");
    for (index, got) in with.gradient.iter().enumerate() {
        let (got, want) = (got.to_f64(), answer.gradient[index]);
        let size = answer.sizes.gradient[index];
        near(
            &format!("gradient {index}: {context}"),
            got,
            want,
            relative * size,
        );
        check_zero(data, index, got, want, context);
    }
    let has_bonus = objective.entropy_bonus.is_some();
    let length = if has_bonus { data.length() } else { 0 };
    assert_eq!(with.entropy_gradient.len(), length, "{context}");
    for (index, got) in with.entropy_gradient.iter().enumerate() {
        let (got, want) = (got.to_f64(), answer.entropy_gradient[index]);
        let what = format!("entropy gradient {index}: {context}");
        near(&what, got, want, relative * want.abs());
        check_zero(data, index, got, want, context);
    }
}

/// What the kernels are told instead of `1 / count`, or what they find themselves.
fn factor(objective: &Objective, scale: Option<Scale>, sums: &Sums) -> f64 {
    let Some(Scale { total, world_size }) = scale else {
        let count =
            objective
                .reduction
                .count(sums.valid_tokens, sums.valid_sequences, sums.valid_prompts);
        return 1.0 / count;
    };
    world_size / (total * objective.reduction.length())
}

/// The metrics as formulas of the row of sums, against those that are loops over the tokens.
fn check_metrics(objective: &Objective, answer: &Answer, context: &str) {
    let metrics = MetricValues::of(&answer.sums, objective).named();
    assert_eq!(metrics.len(), answer.metrics.0.len());
    for ((name, got), (expected_name, want)) in metrics.into_iter().zip(&answer.metrics.0) {
        assert_eq!(name, *expected_name);
        match (got, want) {
            (Some(got), Some(want)) => {
                let size = 1e-12 * (1.0 + want.abs());
                near(&format!("{name}: {context}"), got, *want, size);
            }
            (got, want) => assert_eq!(got, *want, "{name}: {context}"),
        }
    }
}

/// A masked token has the gradient +0, and no other token has -0.
fn check_zero(data: &Data, index: usize, got: f64, want: f64, context: &str) {
    if !data.is_valid(index) {
        assert_eq!(got.to_bits(), 0, "masked token {index}: {context}");
    }
    // A tiny negative number may have been rounded to -0.
    let is_zero = got == 0.0 && want == 0.0;
    assert!(
        !is_zero || got.is_sign_positive(),
        "-0 at {index}: {context}"
    );
}

pub fn near(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!(
        (got - want).abs() <= tolerance.abs() + TINY,
        "got {got:e}, expected {want:e} within {tolerance:e}: {what}"
    );
}
