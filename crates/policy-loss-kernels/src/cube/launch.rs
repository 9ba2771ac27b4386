//! Launching the kernels. Everything here only queues work on the device.

use cubecl::ir::{FloatKind, UIntKind};
use cubecl::prelude::*;

use crate::{Clip, Correction, Objective, Range, Reduction, Surrogate, WeightMode};

use super::backward::scale;
use super::blueprint::Blueprint;
use super::columns::{AdvantageColumnArgs, ColumnsLaunch, Elements};
use super::finish::{BatchSizeLaunch, finish};
use super::geometry::{self, CUBE_SIZE, Geometry};
use super::token::NumbersLaunch;
use super::visit::visit;
use super::{Advantages, Batch, Buffer, Outputs};

/// The loss, its metrics and, up to a factor, its gradient with respect to `log_probs`.
///
/// # Panics
///
/// If a buffer is smaller than the batch's shape, if the objective reads one that is not there, or if the batch has no token or 2³¹ of them.
#[must_use]
pub fn forward(
    client: &Client,
    objective: &Objective,
    batch: Batch,
    with_gradient: bool,
) -> Outputs {
    let tokens = batch.sequences * batch.tokens;
    assert!(
        tokens > 0 && i32::try_from(tokens).is_ok(),
        "a batch of {tokens} tokens"
    );
    let arithmetic = arithmetic(batch.log_probs.element);
    let double = arithmetic == ElemType::Float(FloatKind::F64);
    let blueprint = Blueprint::new(objective, batch.mask.is_some(), with_gradient, double);
    let types = types(&batch, arithmetic);
    let geometry = Geometry::new(client, &blueprint, batch.sequences, batch.tokens, &types);

    let real = |length: usize| Buffer::empty(client, length, arithmetic);
    let gradient_length = if with_gradient {
        tokens
    } else {
        geometry.width
    };
    let gradient = Buffer::empty(client, gradient_length, batch.log_probs.element);
    let partials_length = blueprint.slots().len() * geometry.cubes as usize;
    let partials = real(partials_length);
    let size = BatchSizeLaunch::new(
        tokens as u32,
        batch.sequences as u32,
        InputScalar::new(length_of_sequences(objective.reduction), arithmetic),
        InputScalar::new(objective.scale.unwrap_or(1.0), arithmetic),
    );
    let cube_dim = CubeDim::new_1d(CUBE_SIZE);

    // SAFETY: the kernel touches nothing beyond the shape of the batch, one vector of a gradient
    // that is not asked for, and the partial sums of its cubes; `argument` has checked that the
    // buffers are as long.
    #[allow(unsafe_code)]
    unsafe {
        visit::launch_unchecked(
            client,
            CubeCount::Static(geometry.cubes, 1, 1),
            cube_dim,
            geometry.width,
            columns(&batch, objective),
            numbers(objective, arithmetic),
            gradient.argument(gradient_length),
            partials.argument(partials_length),
            batch.sequences,
            batch.tokens / geometry.width,
            geometry.division,
            blueprint,
            types,
        );
    }

    let metrics = blueprint.metrics().len();
    let outputs = Outputs {
        loss: real(1),
        metrics: real(metrics),
        gradient,
        factor: real(1),
    };
    // SAFETY: the kernel reads the partial sums of as many cubes as there were, and writes one
    // element each, and the metrics of the blueprint.
    #[allow(unsafe_code)]
    unsafe {
        finish::launch_unchecked(
            client,
            CubeCount::new_single(),
            cube_dim,
            partials.argument(partials_length),
            outputs.loss.argument(1),
            outputs.metrics.argument(metrics),
            outputs.factor.argument(1),
            geometry.cubes as usize,
            size,
            objective.scale.is_some(),
            CUBE_SIZE,
            blueprint,
            arithmetic,
        );
    }
    outputs
}

/// `gradient * factor * upstream`, of the type of `gradient`, and in its memory if nothing else
/// refers to it. `factor` and `upstream` have one element of the [arithmetic's](arithmetic) type.
///
/// # Panics
///
/// If `factor` or `upstream` has no element.
#[must_use]
pub fn backward(client: &Client, gradient: Buffer, factor: &Buffer, upstream: &Buffer) -> Buffer {
    let length = gradient.length();
    let width = geometry::width(client, gradient.element.size(), length);
    let vectors = length / width;
    let types = [gradient.element, factor.element];
    let in_place = gradient.handle.can_mut();
    let input = gradient.argument(length);
    let (output, output_argument) = match in_place {
        true => (gradient, BufferArg::alias(0, length)),
        false => {
            let output = Buffer::empty(client, length, gradient.element);
            let argument = output.argument(length);
            (output, argument)
        }
    };
    // SAFETY: the kernel reads and writes `vectors` vectors, which is the length of both buffers,
    // and reads one element of each factor.
    #[allow(unsafe_code)]
    unsafe {
        scale::launch_unchecked(
            client,
            CubeCount::Static(geometry::cubes_for_tokens(length), 1, 1),
            CubeDim::new_1d(CUBE_SIZE),
            width,
            input,
            factor.argument(1),
            upstream.argument(1),
            output_argument,
            vectors,
            CUBE_SIZE,
            types,
        );
    }
    output
}

/// The type of the arithmetic: at least f32.
#[must_use]
pub fn arithmetic(log_probs: ElemType) -> ElemType {
    match log_probs {
        ElemType::Float(FloatKind::F64) => log_probs,
        _ => ElemType::Float(FloatKind::F32),
    }
}

/// The types of the kernel's parameters. One that is absent gets a type that every device has.
fn types(batch: &Batch, arithmetic: ElemType) -> [ElemType; 6] {
    let element = |buffer: &Option<Buffer>, absent| match buffer {
        Some(buffer) => buffer.element,
        None => absent,
    };
    [
        batch.log_probs.element,
        batch.old_log_probs.element,
        element(&batch.rollout_log_probs, arithmetic),
        batch.advantages.buffer().element,
        element(&batch.mask, ElemType::UInt(UIntKind::U32)),
        arithmetic,
    ]
}

fn columns<E: Elements>(batch: &Batch, objective: &Objective) -> ColumnsLaunch<E> {
    let length = batch.sequences * batch.tokens;
    let needed = |name: &str, buffer: &Option<Buffer>, is_needed: bool| {
        is_needed.then(|| match buffer {
            Some(buffer) => buffer.argument(length),
            None => panic!("the objective reads `{name}`"),
        })
    };
    ColumnsLaunch::new(
        batch.log_probs.argument(length),
        batch.old_log_probs.argument(length),
        needed(
            "rollout_log_probs",
            &batch.rollout_log_probs,
            objective.uses_rollout(),
        )
        .into(),
        needed("weights", &batch.weights, objective.uses_given_weights()).into(),
        needed(
            "ref_log_probs",
            &batch.ref_log_probs,
            objective.penalty.is_some(),
        )
        .into(),
        match &batch.advantages {
            Advantages::PerToken(it) => AdvantageColumnArgs::PerToken(it.argument(length)),
            Advantages::PerSequence(it) => {
                AdvantageColumnArgs::PerSequence(it.argument(batch.sequences))
            }
        },
        batch.mask.as_ref().map(|it| it.argument(length)).into(),
    )
}

fn numbers(objective: &Objective, arithmetic: ElemType) -> NumbersLaunch {
    let scalar = |value: f64| InputScalar::new(value, arithmetic);
    let surrogate = match objective.surrogate {
        Surrogate::Clip(Clip { low, high, dual }) => {
            [1.0 - low, 1.0 + high, dual.unwrap_or(1.0), 0.0]
        }
        Surrogate::LogProbs { range, .. } => [finite(range.low), finite(range.high), 0.0, 0.0],
        Surrogate::Gate { positive, negative } => [positive, negative, 0.0, 0.0],
        Surrogate::SquaredLogRatio { coefficient } => [coefficient, 0.0, 0.0, 0.0],
        Surrogate::TrustRegion {
            low, high, most, ..
        } => [low, high, finite(most), 0.0],
        Surrogate::SequenceWeight { positive, negative } => {
            [positive.k, positive.lambda, negative.k, negative.lambda]
        }
        Surrogate::GeometricMean { low, high } => [low, high, 0.0, 0.0],
    };
    let correction = objective.correction.as_ref();
    let (weight_low, weight_high) = match correction.map(Correction::mode) {
        None | Some(WeightMode::Raw) => (1.0, 1.0),
        Some(WeightMode::Truncate(range) | WeightMode::Mask(range)) => {
            (finite(range.low), finite(range.high))
        }
    };
    let filters = correction.map(|correction| &correction.filters);
    let bounds = filters.iter().flat_map(|filters| filters.iter());
    let bounds = bounds.flat_map(|(.., Range { low, high })| [low, high]);
    let veto = correction.and_then(|correction| correction.veto);
    NumbersLaunch::new(
        scalar(surrogate[0]),
        scalar(surrogate[1]),
        scalar(surrogate[2]),
        scalar(surrogate[3]),
        scalar(weight_low),
        scalar(weight_high),
        bounds.map(|bound| scalar(finite(bound))).collect(),
        scalar(veto.map_or(0.0, |floor| finite(floor.ln()))),
        scalar(objective.off_policy.map_or(0.0, |delta| -finite(delta))),
        scalar(objective.penalty.map_or(0.0, |penalty| penalty.coefficient)),
    )
}

/// What each sequence counts for in a sum over sequences.
fn length_of_sequences(reduction: Reduction) -> f64 {
    match reduction {
        Reduction::SequenceSum { length } => length as f64,
        _ => 1.0,
    }
}

/// The largest number of f32 in the place of an infinity, which a device need not know: a ratio
/// or a weight beyond it is infinite itself.
fn finite(bound: f64) -> f64 {
    bound.clamp(f64::from(f32::MIN), f64::from(f32::MAX))
}
