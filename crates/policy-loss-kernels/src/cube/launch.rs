//! Launching the kernels. Nothing is read back: everything here only queues work.

use cubecl::ir::FloatKind;
use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::{Clip, Objective, Weight};

use super::backward::scale;
use super::blueprint::{BatchTraits, Blueprint};
use super::finish::{BatchSizeLaunch, finish, metric_count};
use super::geometry::{CUBE_SIZE, cubes_for_sequences, cubes_for_vectors, lanes, width};
use super::inputs::{AdvantagesArgs, InputsLaunch};
use super::lanes::Division;
use super::token::NumbersLaunch;
use super::visit::visit;
use super::{Advantages, Buffer, Inputs, Outputs, Shape};

/// The loss, its metrics and, up to [`factor`](Outputs::factor), its gradient with respect to
/// `log_probs`.
///
/// # Panics
///
/// If a buffer is smaller than `shape` asks for, if the objective reads `rollout_log_probs` and
/// they are missing, or if there is no token.
pub fn forward(
    client: &Client,
    objective: &Objective,
    inputs: Inputs,
    shape: Shape,
    with_gradient: bool,
) -> Outputs {
    let tokens = shape.sequences * shape.tokens;
    assert!(tokens > 0, "a batch without a token");
    let arithmetic = arithmetic(inputs.log_probs.element);
    let blueprint = Blueprint::new(
        objective,
        BatchTraits {
            masked: inputs.action_mask.is_some(),
            sequence_advantages: matches!(inputs.advantages, Advantages::PerSequence(_)),
            with_gradient,
            double: arithmetic == ElemType::Float(FloatKind::F64),
        },
    );
    let slots = blueprint.slots().len();
    let by_sequence = blueprint.by_rows() || blueprint.sequence_advantages || blueprint.masked;
    let _ = by_sequence;
    let width = width(client, inputs.widest_element(), shape.tokens);
    let vectors_per_row = shape.tokens / width;
    let lanes = lanes(vectors_per_row);
    let cubes = match blueprint.by_rows() {
        true => cubes_for_sequences(shape.sequences, lanes),
        false => cubes_for_vectors(shape.sequences * vectors_per_row),
    };

    let real = |length: usize| Buffer::empty(client, length, arithmetic);
    let gradient = match with_gradient {
        true => Buffer::empty(client, tokens, inputs.log_probs.element),
        false => Buffer::empty(client, width, inputs.log_probs.element),
    };
    let partials = real(slots * cubes as usize);
    let types = [
        inputs.log_probs.element,
        inputs.old_log_probs.element,
        inputs.rollout_log_probs.as_ref().map_or(arithmetic, |it| it.element),
        inputs.advantages.buffer().element,
        inputs.action_mask.as_ref().map_or(ElemType::UInt(cubecl::ir::UIntKind::U32), |it| it.element),
        arithmetic,
    ];
    let cube_count = CubeCount::Static(cubes, 1, 1);
    let cube_dim = CubeDim::new_1d(CUBE_SIZE);
    let numbers = numbers(objective, arithmetic);
    let inputs = inputs_launch(inputs, objective);
    // SAFETY: the kernels read and write within `shape`, and the buffers are as large as it asks.
    #[allow(unsafe_code)]
    unsafe {
        visit::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            width,
            inputs,
            numbers,
            gradient.argument(),
            partials.argument(),
            shape.sequences,
            vectors_per_row,
            Division { cube_size: CUBE_SIZE, lanes },
            blueprint,
            types,
        );
    }
    let metrics = metric_count(blueprint.weighted());
    let outputs = Outputs {
        loss: real(1),
        metrics: real(metrics),
        metric_count: metrics,
        gradient,
        factor: real(1),
    };
    #[allow(unsafe_code)]
    unsafe {
        finish::launch_unchecked(
            client,
            CubeCount::Static(1, 1, 1),
            cube_dim,
            partials.argument(),
            outputs.loss.argument(),
            outputs.metrics.argument(),
            outputs.factor.argument(),
            cubes as usize,
            BatchSizeLaunch::new(
                tokens as u32,
                shape.sequences as u32,
                InputScalar::new(objective.scale.unwrap_or(1.0), arithmetic),
            ),
            objective.scale.is_some(),
            CUBE_SIZE,
            blueprint,
            arithmetic,
        );
    }
    outputs
}

/// `gradient * factor * upstream`, of the type of `gradient`.
pub fn backward(client: &Client, gradient: &Buffer, length: usize, factor: &Buffer, upstream: &Buffer) -> Buffer {
    let width = width(client, gradient.element.size(), length);
    let output = Buffer::empty(client, length, gradient.element);
    let vectors = length / width;
    #[allow(unsafe_code)]
    unsafe {
        scale::launch_unchecked(
            client,
            CubeCount::Static(cubes_for_vectors(vectors), 1, 1),
            CubeDim::new_1d(CUBE_SIZE),
            width,
            gradient.argument(),
            factor.argument(),
            upstream.argument(),
            output.argument(),
            vectors,
            CUBE_SIZE,
            [gradient.element, factor.element],
        );
    }
    output
}

/// The type of the arithmetic: at least f32.
pub fn arithmetic(log_probs: ElemType) -> ElemType {
    match log_probs {
        ElemType::Float(FloatKind::F64) => log_probs,
        _ => ElemType::Float(FloatKind::F32),
    }
}

fn numbers(objective: &Objective, arithmetic: ElemType) -> NumbersLaunch {
    let scalar = |value: f64| InputScalar::new(value, arithmetic);
    let Clip { low, high, dual } = objective.clip;
    let (weight_low, weight_high) = match objective.weight {
        Weight::None => (1.0, 1.0),
        Weight::Truncate { low, high }
        | Weight::Mask { low, high }
        | Weight::SequenceMask { low, high } => (low, high),
    };
    NumbersLaunch::new(
        scalar(1.0 - low),
        scalar(1.0 + high),
        scalar(dual.unwrap_or(1.0)),
        scalar(weight_low),
        scalar(weight_high),
    )
}

fn inputs_launch<E: super::inputs::Elements>(inputs: Inputs, objective: &Objective) -> InputsLaunch<E> {
    let rollout = inputs.rollout_log_probs.filter(|_| objective.uses_rollout()).map(|it| it.argument());
    InputsLaunch::new(
        inputs.log_probs.argument(),
        inputs.old_log_probs.argument(),
        rollout.into(),
        match inputs.advantages {
            Advantages::PerToken(it) => AdvantagesArgs::PerToken(it.argument()),
            Advantages::PerSequence(it) => AdvantagesArgs::PerSequence(it.argument()),
        },
        inputs.action_mask.map(|it| it.argument()).into(),
    )
}

impl Inputs {
    fn widest_element(&self) -> usize {
        4
    }
}
impl Advantages { fn buffer(&self) -> &Buffer { match self { Self::PerToken(b) | Self::PerSequence(b) => b } } }
