//! From tensors to the backends and back.

use burn::tensor::{Device, Int, Tensor};

#[cfg(feature = "fused")]
pub use connected::*;
#[cfg(not(feature = "fused"))]
pub use unconnected::*;

/// Hidden states and a head that fit together, all of one float type.
#[derive(Clone)]
pub struct Head {
    pub hidden: Tensor<2>,
    pub weight: Tensor<2>,
    /// `[1]` where there is none.
    pub bias: Tensor<1>,
}

#[cfg(feature = "fused")]
impl Head {
    /// Whether any gradient is wanted.
    pub fn is_tracked(&self) -> bool {
        self.hidden.is_tracked() || self.weight.is_tracked() || self.bias.is_tracked()
    }

    /// The same values outside of autodiff.
    pub fn without_autodiff(self) -> Self {
        Self {
            hidden: self.hidden.without_autodiff(),
            weight: self.weight.without_autodiff(),
            bias: self.bias.without_autodiff(),
        }
    }
}

/// How log-probs are computed, resolved for one call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    pub scale: f64,
    pub entropy: bool,
    pub entropy_gradient: bool,
    pub chunk_tokens: usize,
    pub transposed: bool,
    pub has_bias: bool,
}

#[cfg(feature = "fused")]
mod connected {
    use burn::backend::{Dispatch, DispatchDevice};

    use super::{Device, Head, Int, Plan, Tensor};
    use crate::log_probs::ops::{
        HeadGradients, HeadLogits, HeadTensors, LogProbsOps, Settings, Wanted,
    };

    /// Whether the device's backend is connected.
    pub fn available(device: &Device) -> bool {
        match device.clone().without_autodiff().as_dispatch() {
            #[cfg(feature = "flex")]
            DispatchDevice::Flex(_) => true,
            #[cfg(feature = "ndarray")]
            DispatchDevice::NdArray(_) => true,
            #[cfg(feature = "cube")]
            DispatchDevice::Cube(_) => true,
            _ => false,
        }
    }

    impl Plan {
        fn settings(self) -> Settings {
            Settings {
                scale: self.scale,
                entropy: self.entropy,
                entropy_gradient: self.entropy_gradient,
                chunk_tokens: self.chunk_tokens,
                transposed: self.transposed,
                has_bias: self.has_bias,
            }
        }
    }

    impl Head {
        fn tensors(self) -> HeadTensors<Dispatch> {
            HeadTensors {
                hidden: self.hidden.into_dispatch(),
                weight: self.weight.into_dispatch(),
                bias: self.bias.into_dispatch(),
            }
        }
    }

    /// Values, `[1, N]` or `[2, N]`, of logits.
    pub fn token_log_probs(logits: Tensor<2>, targets: Tensor<1, Int>, plan: Plan) -> Tensor<2> {
        let (logits, targets) = (logits.into_dispatch(), targets.into_dispatch());
        let statistics = Dispatch::token_log_probs(logits, targets, plan.settings());
        Tensor::from_dispatch(statistics.values)
    }

    /// Values, `[1, N]` or `[2, N]`, of hidden states.
    pub fn linear_log_probs(head: Head, targets: Tensor<1, Int>, plan: Plan) -> Tensor<2> {
        let targets = targets.into_dispatch();
        let statistics = Dispatch::linear_log_probs(head.tensors(), targets, plan.settings());
        Tensor::from_dispatch(statistics.values)
    }

    /// A chunk's logits on their way from the forward to the backward pass.
    pub struct Chunk {
        logits: HeadLogits<Dispatch>,
        head: Head,
        targets: Tensor<1, Int>,
    }

    impl Chunk {
        pub fn forward(head: Head, targets: Tensor<1, Int>, plan: Plan) -> Self {
            let logits = Dispatch::head_logits(
                head.clone().tensors(),
                targets.clone().into_dispatch(),
                plan.settings(),
            );
            Self {
                logits,
                head,
                targets,
            }
        }

        /// `[1, n]` or `[2, n]`.
        pub fn values(&self) -> Tensor<2> {
            Tensor::from_dispatch(self.logits.values.clone())
        }
    }

    /// Gradients that are known chunk by chunk, before anybody asks for them.
    pub struct Known {
        wanted: Wanted,
        hidden: Vec<Tensor<2>>,
        weight: Tensor<2>,
        bias: Tensor<1>,
    }

    impl Known {
        /// Gradients for what is tracked of a head.
        pub fn of(head: &Head, plan: Plan) -> Self {
            let wanted = Wanted {
                hidden: head.hidden.is_tracked(),
                weight: head.weight.is_tracked(),
                bias: plan.has_bias && head.bias.is_tracked(),
            };
            let plain = head.clone().without_autodiff();
            let device = plain.weight.device();
            let dtype = plain.weight.dtype();
            Self {
                wanted,
                hidden: Vec::new(),
                weight: match wanted.weight {
                    true => plain.weight.zeros_like(),
                    false => Tensor::zeros([1, 1], (&device, dtype)),
                },
                bias: match wanted.bias {
                    true => plain.bias.zeros_like(),
                    false => Tensor::zeros([1], (&device, dtype)),
                },
            }
        }

        /// Adds those of a chunk, for the gradient `upstream` of its values.
        pub fn add(&mut self, chunk: Chunk, upstream: Tensor<2>, plan: Plan) {
            let device = upstream.device();
            let stand_in = |dtype| Tensor::<2>::zeros([1, 1], (&device, dtype));
            // Taken out, so that the memory has one owner, which adds in place.
            let dtype = self.weight.dtype();
            let weight = std::mem::replace(&mut self.weight, stand_in(dtype));
            let bias = std::mem::replace(&mut self.bias, Tensor::zeros([1], (&device, dtype)));
            let gradients = HeadGradients {
                hidden: stand_in(dtype).into_dispatch(),
                weight: weight.into_dispatch(),
                bias: bias.into_dispatch(),
            };
            let gradients = Dispatch::head_gradients(
                chunk.logits,
                chunk.head.tensors(),
                chunk.targets.into_dispatch(),
                upstream.into_dispatch(),
                gradients,
                plan.settings(),
                self.wanted,
            );
            if self.wanted.hidden {
                self.hidden.push(Tensor::from_dispatch(gradients.hidden));
            }
            self.weight = Tensor::from_dispatch(gradients.weight);
            self.bias = Tensor::from_dispatch(gradients.bias);
        }

        /// The result, with these gradients.
        pub fn attach(self, result: Tensor<1>, head: Head) -> Tensor<1> {
            let hidden = match self.wanted.hidden {
                true => Tensor::cat(self.hidden, 0),
                false => Tensor::zeros([1, 1], (&self.weight.device(), self.weight.dtype())),
            };
            let gradients = HeadGradients {
                hidden: hidden.into_dispatch(),
                weight: self.weight.into_dispatch(),
                bias: self.bias.into_dispatch(),
            };
            let result = result.into_dispatch();
            Tensor::from_dispatch(Dispatch::with_gradients(result, head.tensors(), gradients))
        }
    }
}

#[cfg(not(feature = "fused"))]
mod unconnected {
    //! A build without a backend of ours: everything is composed, and nothing here is reached.

    use super::{Device, Head, Int, Plan, Tensor};
    use crate::log_probs::composed;

    /// No device's backend is connected.
    pub fn available(_device: &Device) -> bool {
        false
    }

    pub fn token_log_probs(logits: Tensor<2>, targets: Tensor<1, Int>, plan: Plan) -> Tensor<2> {
        composed::token_log_probs(logits, targets, plan)
    }

    pub fn linear_log_probs(head: Head, targets: Tensor<1, Int>, plan: Plan) -> Tensor<2> {
        composed::linear_log_probs(head, targets, plan)
    }
}
