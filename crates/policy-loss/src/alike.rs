//! Checks that the tensors of a batch belong together: none of them touches a device's queue.

use burn::tensor::kind::Basic;
use burn::tensor::{Bool, DType, Device, Tensor};

use crate::BatchError;
use crate::device::{computes, describe, dtypes, names};

/// What the other tensors of a batch are compared with.
pub(crate) struct Alike<const D: usize> {
    /// The tensor that says how large the batch is.
    pub reference: &'static str,
    /// `[B, T]`, or any other of tokens.
    pub shape: [usize; D],
    /// Where that tensor is.
    pub device: Device,
}

impl<const D: usize> Alike<D> {
    /// What belongs to a tensor of floats of one per token.
    pub fn of(reference: &'static str, tensor: &Tensor<D>) -> Result<Self, BatchError> {
        let alike = Self {
            reference,
            shape: tensor.dims(),
            device: tensor.device(),
        };
        alike.tokens(reference, tensor)?;
        Ok(alike)
    }

    /// A tensor of floats of one per token.
    pub fn tokens(&self, name: &'static str, tensor: &Tensor<D>) -> Result<(), BatchError> {
        self.shaped(name, tensor)?;
        self.place(name, &tensor.device(), tensor.dtype())
    }

    /// A tensor of one per token, of any type.
    pub fn shaped<K: Basic>(
        &self,
        name: &'static str,
        tensor: &Tensor<D, K>,
    ) -> Result<(), BatchError> {
        self.shape(name, &tensor.dims(), &self.shape)?;
        self.device(name, &tensor.device())
    }

    /// A tensor of floats of one per sequence.
    pub fn sequences(&self, name: &'static str, tensor: &Tensor<1>) -> Result<(), BatchError> {
        self.shape(name, &tensor.dims(), &self.shape[..1])?;
        self.place(name, &tensor.device(), tensor.dtype())
    }

    /// A length or shape.
    pub fn shape(
        &self,
        tensor: &'static str,
        got: &[usize],
        expected: &[usize],
    ) -> Result<(), BatchError> {
        if got == expected {
            return Ok(());
        }
        Err(BatchError::Shape {
            tensor,
            expected: format!("{expected:?}, as `{}`", self.reference),
            got: got.to_vec(),
        })
    }

    /// The device of a tensor of floats, which has to compute its type.
    pub fn place(
        &self,
        tensor: &'static str,
        got: &Device,
        dtype: DType,
    ) -> Result<(), BatchError> {
        self.device(tensor, got)?;
        if computes(&self.device, dtype) {
            return Ok(());
        }
        Err(BatchError::Dtype {
            tensor,
            got: dtype,
            device: describe(&self.device),
            accepted: names(&dtypes(&self.device)),
        })
    }

    /// The device of a tensor.
    pub fn device(&self, tensor: &'static str, got: &Device) -> Result<(), BatchError> {
        if got == &self.device {
            return Ok(());
        }
        Err(BatchError::Device {
            tensor,
            got: describe(got),
            reference: self.reference,
            expected: describe(&self.device),
        })
    }
}

impl Alike<2> {
    /// Which tokens are valid; all of them, where there is no mask.
    pub fn mask(&self, mask: Option<Tensor<2, Bool>>) -> Result<Tensor<2, Bool>, BatchError> {
        let Some(mask) = mask else {
            let device = self.device.clone().without_autodiff();
            return Ok(Tensor::ones(self.shape, &device));
        };
        self.shaped("action_mask", &mask)?;
        Ok(mask)
    }
}

/// What something needs.
pub(crate) fn needed<E>(
    given: Option<E>,
    tensor: &'static str,
    needed_by: &'static str,
    add_with: &'static str,
) -> Result<E, BatchError> {
    given.ok_or(BatchError::Missing {
        tensor,
        needed_by,
        add_with,
    })
}
