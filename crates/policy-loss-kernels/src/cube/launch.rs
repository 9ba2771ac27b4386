//! Launching the kernels. Everything here only queues work on the device.

use cubecl::ir::{FloatKind, UIntKind};
use cubecl::prelude::*;

use super::backward::scale;
use super::columns::{AdvantageColumnArgs, GradientsLaunch, InputsLaunch, Types};
use super::geometry::{self, CUBE_SIZE, Geometry};
use super::partials::{BatchSizeLaunch, finish};
use super::pieces::{PiecesLaunch, finish_pieces, gather_pieces, visit_pieces};
use super::visit::visit;
use super::{Batch, Buffer, Outputs};
use crate::blueprint::Blueprint;
use crate::formula::row_sums::RowSum;
use crate::numbers::Numbers;
use crate::objective::Objective;
use crate::sums::Sum;

/// The loss, the row of its sums and, if wanted, its gradients up to a factor. `scale` replaces the
/// factor `1 / count` of the reduction: `world_size / global_count` under data parallelism.
///
/// # Panics
///
/// If the surrogate has no kernel, if a buffer is smaller than the batch's shape, if the objective reads
/// one that is not there, or if the batch has no token or 2³¹ of them.
#[must_use]
pub fn forward(
    client: &Client,
    objective: &Objective,
    batch: &Batch,
    scale: Option<f64>,
    with_gradient: bool,
) -> Outputs {
    let tokens = batch.sequences * batch.tokens;
    assert!(
        tokens > 0 && i32::try_from(tokens).is_ok(),
        "a batch of {tokens} tokens"
    );
    let element = |column: &Option<Buffer>| column.as_ref().map(|buffer| buffer.element);
    let arithmetic = arithmetic(element(&batch.columns.log_probs).expect("log-probs"));
    let double = arithmetic == ElemType::Float(FloatKind::F64);
    let blueprint = Blueprint::new(objective, batch.mask.is_some(), with_gradient, double)
        .expect("a surrogate with a kernel");
    let types = [
        element(&batch.columns.old_log_probs).unwrap_or(arithmetic),
        element(&batch.columns.rollout_log_probs).unwrap_or(arithmetic),
        element(&batch.columns.advantages).unwrap_or(arithmetic),
        // A column that is absent gets a type that every device has.
        element(&batch.mask).unwrap_or(ElemType::UInt(UIntKind::U32)),
        arithmetic,
    ];
    let geometry = Geometry::new(client, &blueprint, batch.sequences, batch.tokens, &types);

    let real = |length: usize| Buffer::empty(client, length, arithmetic);
    let gradient = |wanted: bool| real(if wanted { tokens } else { geometry.width });
    let outputs = Outputs {
        loss: real(1),
        sums: real(Sum::ALL.len()),
        gradient: gradient(with_gradient),
        entropy_gradient: gradient(with_gradient && blueprint.entropy),
        segment_gradient: gradient(with_gradient && blueprint.segment_ratio()),
        factor: real(1),
    };
    let partials = real(Sum::needed(&blueprint).len() * geometry.cubes as usize);
    let visit = Visit {
        client,
        batch,
        blueprint,
        numbers: Numbers::new(objective),
        types,
        geometry: &geometry,
        outputs: &outputs,
        partials: &partials,
    };
    visit.launch();

    let size = BatchSizeLaunch::new(
        tokens as u32,
        batch.sequences as u32,
        InputScalar::new(objective.reduction.length(), arithmetic),
        InputScalar::new(scale.unwrap_or(1.0), arithmetic),
    );
    // SAFETY: the kernel reads the partial sums of as many cubes as there were, and writes one
    // element each, and one for each sum of the row.
    #[allow(unsafe_code)]
    unsafe {
        finish::launch_unchecked(
            client,
            CubeCount::new_single(),
            CubeDim::new_1d(CUBE_SIZE),
            partials.whole(),
            outputs.loss.whole(),
            outputs.sums.whole(),
            outputs.factor.whole(),
            geometry.cubes as usize,
            size,
            scale.is_some(),
            blueprint,
            arithmetic,
        );
    }
    outputs
}

/// The visit of a batch, ready to be launched.
struct Visit<'a> {
    client: &'a Client,
    batch: &'a Batch,
    blueprint: Blueprint,
    numbers: Numbers,
    types: [ElemType; 5],
    geometry: &'a Geometry,
    outputs: &'a Outputs,
    partials: &'a Buffer,
}

impl Visit<'_> {
    fn launch(&self) {
        let (client, blueprint) = (self.client, self.blueprint);
        let (geometry, partials) = (self.geometry, self.partials);
        macro_rules! launch {
            ($kernel:ident: $($argument:expr),*) => {
                // SAFETY: the kernels touch nothing beyond the shape of the batch, one vector of a
                // gradient that is not asked for, the partial sums of their cubes, and the sums and
                // the slope of each piece; `argument` has checked that the buffers are as long.
                #[allow(unsafe_code)]
                unsafe {
                    $kernel::launch_unchecked(
                        client,
                        CubeCount::Static(geometry.cubes, 1, 1),
                        CubeDim::new_1d(CUBE_SIZE),
                        geometry.width,
                        self.inputs(),
                        $($argument,)*
                        geometry.division,
                        blueprint,
                        self.types,
                    );
                }
            };
        }
        let Some(size) = geometry.pieces else {
            launch!(visit: self.gradients(), partials.whole());
            return;
        };
        let total = self.batch.sequences * size.count;
        let gathered = RowSum::needed(&blueprint).len();
        let row_sums = Buffer::empty(client, gathered.max(1) * total, partials.element);
        let slopes = Buffer::empty(client, total, partials.element);
        let (row_sums, slopes) = (|| row_sums.whole(), || slopes.whole());
        let pieces = || PiecesLaunch::new(size.count, size.vectors);
        // A mean over sequences needs pieces, and nothing that is gathered.
        if gathered > 0 {
            launch!(gather_pieces: row_sums(), pieces());
        }
        let (gradients, partials) = (self.gradients(), partials.whole());
        launch!(visit_pieces: row_sums(), slopes(), gradients, partials, pieces());
        if blueprint.with_gradient && blueprint.shares_gradient() {
            launch!(finish_pieces: row_sums(), slopes(), self.gradients(), pieces());
        }
    }

    fn gradients<E: Types>(&self) -> GradientsLaunch<E> {
        let (blueprint, outputs) = (self.blueprint, self.outputs);
        let any = blueprint.with_gradient;
        let wanted = |buffer: &Buffer, is_read| (any && is_read).then(|| buffer.whole()).into();
        GradientsLaunch::new(
            outputs.gradient.whole(),
            wanted(&outputs.entropy_gradient, blueprint.entropy),
            wanted(&outputs.segment_gradient, blueprint.segment_ratio()),
        )
    }

    fn inputs<E: Types>(&self) -> InputsLaunch<E> {
        let (batch, blueprint) = (self.batch, self.blueprint);
        let length = batch.sequences * batch.tokens;
        let columns = batch.columns.as_ref().zip(blueprint.reads());
        let [
            log_probs,
            old_log_probs,
            rollout_log_probs,
            ref_log_probs,
            entropies,
            advantages,
            future_weights,
            segment_log_ratios,
            segment_rejections,
        ] = columns.named().map(|(name, (column, is_read))| {
            let length = match name == "advantages" && batch.advantages_per_sequence {
                true => batch.sequences,
                false => length,
            };
            is_read.then(|| match column {
                Some(buffer) => buffer.argument(length),
                None => panic!("the objective reads `{name}`"),
            })
        });
        let advantages = advantages.expect(ALWAYS);
        let numbers = |column: &Option<Buffer>, length, is_read: bool| {
            let buffer = || column.as_ref().expect("numbers that the objective reads");
            is_read.then(|| buffer().argument(length)).into()
        };
        InputsLaunch::new(
            batch.sequences,
            batch.tokens / self.geometry.width,
            self.numbers.arguments(self.partials.element),
            log_probs.expect(ALWAYS),
            old_log_probs.expect(ALWAYS),
            rollout_log_probs.into(),
            numbers(&batch.weight_mean, 1, blueprint.normalizes),
            numbers(&batch.entropy_threshold, 1, blueprint.masks_entropy),
            numbers(
                &batch.sequence_weights,
                batch.sequences,
                blueprint.has_sequence_weights(),
            ),
            ref_log_probs.into(),
            entropies.into(),
            match batch.advantages_per_sequence {
                true => AdvantageColumnArgs::PerSequence(advantages),
                false => AdvantageColumnArgs::PerToken(advantages),
            },
            future_weights.into(),
            segment_log_ratios.into(),
            segment_rejections.into(),
            batch.mask.as_ref().map(|it| it.argument(length)).into(),
        )
    }
}

const ALWAYS: &str = "every objective reads it";

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
