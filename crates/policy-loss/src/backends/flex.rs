//! The fused loss on Flex: the tensors' own memory, without a copy.

use burn::backend::Flex;
use burn_flex::FlexTensor;
use half::{bf16, f16};
use policy_loss_kernels::cpu::{Floats, Mask, scale_in_place};

use super::cpu::implement_policy_loss_ops;

/// Calls `$body` with `$E` bound to the element type of `$dtype`.
macro_rules! for_float {
    ($dtype:expr, $E:ident => $body:expr, [$($variant:ident => $type:ty),*]) => {
        match $dtype {
            $(burn::tensor::DType::$variant => { type $E = $type; $body })*
            // The batch's types were checked against what the device computes.
            dtype => unreachable!("{dtype:?} is not computed on this device"),
        }
    };
}
pub(crate) use for_float;

implement_policy_loss_ops!(Flex, FlexTensor);

/// Copies only what is not contiguous.
fn borrow(tensor: FlexTensor) -> FlexTensor {
    tensor.to_contiguous()
}

fn floats(tensor: &FlexTensor) -> Floats<'_> {
    for_float!(tensor.dtype(), E => {
        tensor.as_slice::<E>().expect("a contiguous tensor of this type").into()
    }, [F64 => f64, F32 => f32, F16 => f16, BF16 => bf16])
}

fn mask(tensor: &FlexTensor) -> Mask<'_> {
    let (start, end) = tensor
        .layout()
        .contiguous_offsets()
        .expect("a contiguous tensor");
    tensor.bytes()[start..end].into()
}

pub(crate) fn scaled(gradient: FlexTensor, scale: f64) -> FlexTensor {
    // Not `to_contiguous`: a second handle would make `storage_mut` copy the buffer.
    let mut gradient = gradient;
    for_float!(gradient.dtype(), E => {
        scale_in_place::<E>(gradient.storage_mut::<E>(), scale);
        gradient
    }, [F64 => f64, F32 => f32])
}
