//! The fused loss on NdArray: the arrays' own memory, without a copy.

// Burn marks the whole backend as deprecated.
#![allow(deprecated)]

use burn::backend::{NdArray, TensorMetadata};
use burn_ndarray::NdArrayTensor;
use policy_loss_kernels::cpu::{Floats, Mask, scale_in_place};

use super::cpu::implement_policy_loss_ops;

implement_policy_loss_ops!(NdArray, NdArrayTensor);

/// Copies only what is not stored row by row.
fn borrow(tensor: NdArrayTensor) -> NdArrayTensor {
    macro_rules! by_rows {
        ($storage:expr) => {{
            let view = $storage.view();
            match view.is_standard_layout() {
                true => None,
                false => Some(view.as_standard_layout().into_owned().into_shared().into()),
            }
        }};
    }
    let copy = match &tensor {
        NdArrayTensor::F64(storage) => by_rows!(storage),
        NdArrayTensor::F32(storage) => by_rows!(storage),
        NdArrayTensor::Bool(storage) => by_rows!(storage),
        other => not_computed(other),
    };
    copy.unwrap_or(tensor)
}

fn floats(tensor: &NdArrayTensor) -> Floats<'_> {
    match tensor {
        NdArrayTensor::F64(storage) => storage.view().to_slice().expect(BORROWED).into(),
        NdArrayTensor::F32(storage) => storage.view().to_slice().expect(BORROWED).into(),
        other => not_computed(other),
    }
}

fn mask(tensor: &NdArrayTensor) -> Mask<'_> {
    match tensor {
        NdArrayTensor::Bool(storage) => storage.view().to_slice().expect(BORROWED).into(),
        other => not_computed(other),
    }
}

const BORROWED: &str = "a tensor that is stored row by row";

pub(crate) fn scaled(gradient: NdArrayTensor, scale: f64) -> NdArrayTensor {
    macro_rules! scaled {
        ($storage:expr) => {{
            let mut array = $storage.into_shared();
            scale_in_place(array.as_slice_mut().expect(BORROWED), scale);
            array.into()
        }};
    }
    match borrow(gradient) {
        NdArrayTensor::F64(storage) => scaled!(storage),
        NdArrayTensor::F32(storage) => scaled!(storage),
        other => not_computed(&other),
    }
}

/// The batch's types were checked against what the device computes.
fn not_computed(tensor: &NdArrayTensor) -> ! {
    unreachable!("{:?} is not computed on this device", tensor.dtype())
}
