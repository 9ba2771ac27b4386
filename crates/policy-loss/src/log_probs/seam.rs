//! From tensors to the backends and back.

#[cfg(feature = "fused")]
use std::ops::Range;

use burn::tensor::{Device, Int, Tensor};

use super::KeptTokens;

#[cfg(feature = "fused")]
pub use connected::*;
#[cfg(not(feature = "fused"))]
pub use unconnected::*;

/// What logits are, or what they are made of.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "there is one of it in a call")]
pub enum Rows {
    Logits(Tensor<2>),
    Hidden(Head),
}

/// What is known of each token, as in `RowStatistics`.
#[derive(Debug, Clone)]
pub struct Statistics {
    pub values: Tensor<2>,
    pub moments: Tensor<2>,
}

/// Hidden states and a head that fit together. Hidden states and weight are of one float type: a
/// half type only where the backend multiplies it as it is.
#[derive(Debug, Clone)]
pub struct Head {
    pub hidden: Tensor<2>,
    pub weight: Tensor<2>,
    /// In the type of the arithmetic; `[1]` where there is none.
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

/// What is given of each token, outside of autodiff.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub targets: Tensor<1, Int>,
    /// `1 / temperature`, in the type of the arithmetic.
    pub scales: Tensor<1>,
    /// In sorted lists; absent where the whole vocabulary was.
    pub kept: Option<KeptTokens>,
    /// Other words whose log-probs are asked for, `[N, K]`; only where nothing else is.
    pub candidates: Option<Tensor<2, Int>>,
}

#[cfg(feature = "fused")]
impl Tokens {
    /// What is given of some of them.
    pub fn slice(&self, tokens: Range<usize>) -> Self {
        Self {
            kept: self.kept.as_ref().map(|kept| kept.slice(&tokens)),
            candidates: self.candidates.clone().map(|ids| ids.slice(tokens.clone())),
            targets: self.targets.clone().slice(tokens.clone()),
            scales: self.scales.clone().slice(tokens),
        }
    }
}

/// 128 MiB: 671 tokens of a vocabulary of 50,000 in f32, or 223 of 150,000.
const HOST_MEMORY_BUDGET: usize = 128 << 20;

#[cfg(feature = "fused")]
mod connected {
    use burn::backend::{Dispatch, DispatchDevice};

    use super::{Device, HOST_MEMORY_BUDGET, Head, Rows, Statistics, Tensor, Tokens};
    use crate::log_probs::TeacherDivergence;
    use crate::log_probs::chunked::Sums;
    use crate::log_probs::ops::{
        HeadLogits, HeadTensors, LogProbsOps, Pair, RowStatistics, Settings, TokenTensors, Wanted,
    };
    use crate::log_probs::prepared::Work;

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

    /// Whether the device is one of CubeCL's.
    pub fn is_gpu(device: &Device) -> bool {
        match device.clone().without_autodiff().as_dispatch() {
            #[cfg(feature = "cube")]
            DispatchDevice::Cube(_) => true,
            _ => false,
        }
    }

    /// Bytes that the device can spare for logits.
    pub fn default_memory_budget(device: &Device) -> usize {
        match device.clone().without_autodiff().as_dispatch() {
            #[cfg(feature = "cube")]
            DispatchDevice::Cube(device) => {
                let largest = device.client().properties().memory.max_page_size;
                // A quarter of the memory on CUDA, the largest buffer on wgpu.
                let share = usize::try_from(largest / 4).unwrap_or(usize::MAX);
                share.clamp(HOST_MEMORY_BUDGET, 1 << 30)
            }
            _ => HOST_MEMORY_BUDGET,
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

    impl Tokens {
        fn tensors(self) -> TokenTensors<Dispatch> {
            let [count] = self.targets.dims();
            let stand_in = || self.targets.clone().reshape([count, 1]);
            TokenTensors {
                candidates: self.candidates.unwrap_or_else(stand_in).into_dispatch(),
                targets: self.targets.into_dispatch(),
                scales: self.scales.into_dispatch(),
                kept: self.kept,
            }
        }
    }

    /// Values, as in `RowStatistics`.
    pub fn log_probs(work: Work) -> Tensor<2> {
        computed(work).values
    }

    /// What is known of each token, outside of autodiff.
    pub fn statistics(work: Work) -> Statistics {
        let rows = match work.rows {
            Rows::Logits(logits) => Rows::Logits(logits.without_autodiff()),
            Rows::Hidden(head) => Rows::Hidden(head.without_autodiff()),
        };
        computed(Work { rows, ..work })
    }

    fn computed(work: Work) -> Statistics {
        let (tokens, settings) = (work.tokens.tensors(), work.settings);
        let statistics = match work.rows {
            Rows::Logits(logits) => {
                Dispatch::token_log_probs(logits.into_dispatch(), tokens, settings)
            }
            Rows::Hidden(head) => Dispatch::linear_log_probs(head.tensors(), tokens, settings),
        };
        Statistics {
            values: Tensor::from_dispatch(statistics.values),
            moments: Tensor::from_dispatch(statistics.moments),
        }
    }

    /// The values of statistics that are known already, with the gradients that they mean.
    pub fn with_statistics(work: Work, statistics: Statistics) -> Tensor<2> {
        let (tokens, settings) = (work.tokens.tensors(), work.settings);
        let statistics = RowStatistics {
            values: statistics.values.into_dispatch(),
            moments: statistics.moments.into_dispatch(),
        };
        Tensor::from_dispatch(match work.rows {
            Rows::Logits(logits) => {
                Dispatch::token_log_probs_with(logits.into_dispatch(), tokens, statistics, settings)
            }
            Rows::Hidden(head) => {
                Dispatch::linear_log_probs_with(head.tensors(), tokens, statistics, settings)
            }
        })
    }

    /// The divergence of two distributions at each token, `[1, N]`.
    pub fn divergence(student: Work, teacher: Work, divergence: TeacherDivergence) -> Tensor<2> {
        let pair = Pair {
            divergence,
            student: student.settings,
            teacher: teacher.settings,
            of_student_logits: matches!(student.rows, Rows::Logits(_)),
            of_teacher_logits: matches!(teacher.rows, Rows::Logits(_)),
        };
        let [(student, of_student), (teacher, of_teacher)] =
            [student, teacher].map(|work| (work.rows.head().tensors(), work.tokens.tensors()));
        let values = Dispatch::divergence(student, teacher, of_student, of_teacher, pair);
        Tensor::from_dispatch(values)
    }

    impl Rows {
        /// Logits stand in the place of hidden states.
        pub fn head(self) -> Head {
            match self {
                Self::Hidden(head) => head,
                Self::Logits(logits) => {
                    let plain = logits.device().without_autodiff();
                    let dtype = logits.dtype();
                    Head {
                        hidden: logits,
                        weight: Tensor::zeros([1, 1], (&plain, dtype)),
                        bias: Tensor::zeros([1], (&plain, dtype)),
                    }
                }
            }
        }
    }

    /// A chunk's logits on their way from the forward to the backward pass.
    pub struct Chunk {
        logits: HeadLogits<Dispatch>,
        head: Head,
        tokens: Tokens,
    }

    impl Chunk {
        pub fn forward(head: Head, tokens: Tokens, settings: Settings) -> Self {
            let logits =
                Dispatch::head_logits(head.clone().tensors(), tokens.clone().tensors(), settings);
            Self {
                logits,
                head,
                tokens,
            }
        }

        /// As in `RowStatistics`.
        pub fn values(&self) -> Tensor<2> {
            Tensor::from_dispatch(self.logits.values.clone())
        }
    }

    /// Gradients that are known chunk by chunk, before anybody asks for them.
    pub struct Known(Sums<Dispatch>);

    impl Known {
        /// Gradients for what is tracked of a head.
        pub fn of(head: &Head, settings: Settings) -> Self {
            let wanted = Wanted {
                hidden: head.hidden.is_tracked(),
                weight: head.weight.is_tracked(),
                bias: settings.has_bias && head.bias.is_tracked(),
                in_parts: false,
            };
            let plain = head.clone().without_autodiff().tensors();
            Self(Sums::new(&plain, settings, wanted))
        }

        /// With those of a chunk, for the gradient `upstream` of its values.
        pub fn add(self, chunk: Chunk, upstream: Tensor<2>, settings: Settings) -> Self {
            let (head, tokens) = (chunk.head.tensors(), chunk.tokens.tensors());
            let upstream = upstream.into_dispatch();
            Self(self.0.add(|sums, wanted| {
                let logits = chunk.logits;
                Dispatch::head_gradients(logits, head, tokens, upstream, sums, settings, wanted)
            }))
        }

        /// The result, with these gradients.
        pub fn attach(self, result: Tensor<1>, head: Head) -> Tensor<1> {
            let gradients = self.0.finish(head.weight.dtype());
            let result = result.into_dispatch();
            Tensor::from_dispatch(Dispatch::with_gradients(result, head.tensors(), gradients))
        }
    }
}

#[cfg(not(feature = "fused"))]
mod unconnected {
    //! A build without a backend of ours: everything is composed, and nothing here is reached.

    use super::{Device, Statistics, Tensor};
    use crate::log_probs::prepared::Work;
    use crate::log_probs::{TeacherDivergence, composed};

    /// No GPU is connected.
    pub fn is_gpu(_device: &Device) -> bool {
        false
    }

    /// What every device can spare.
    pub fn default_memory_budget(_device: &Device) -> usize {
        super::HOST_MEMORY_BUDGET
    }

    /// No device's backend is connected.
    pub fn available(_device: &Device) -> bool {
        false
    }

    pub fn log_probs(work: Work) -> Tensor<2> {
        composed::log_probs(work)
    }

    pub fn statistics(_work: Work) -> Statistics {
        unreachable!("everything is composed")
    }

    pub fn with_statistics(_work: Work, _statistics: Statistics) -> Tensor<2> {
        unreachable!("everything is composed")
    }

    pub fn divergence(_student: Work, _teacher: Work, _divergence: TeacherDivergence) -> Tensor<2> {
        unreachable!("everything is composed")
    }
}
