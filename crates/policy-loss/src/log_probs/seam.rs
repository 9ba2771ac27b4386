//! From tensors to the backends and back.

use std::ops::Range;

use burn::backend::Dispatch;
use burn::tensor::{Device, Int, Tensor};

use super::chunked::Sums;
use super::ops::{
    HeadLogits, HeadTensors, LogProbsOps, Pair, RowStatistics, Settings, TokenTensors, Wanted,
};
use super::prepared::Work;
use super::{KeptTokens, TeacherDivergence};

/// What is known of each token, as in `RowStatistics`.
#[derive(Debug, Clone)]
pub struct Statistics {
    pub values: Tensor<2>,
    pub moments: Tensor<2>,
}

/// Hidden states and a head that fit together, of one float type: a half type only where the backend
/// multiplies it as it is. Or logits of any type, in the place of hidden states.
#[derive(Debug, Clone)]
pub struct Head {
    pub hidden: Tensor<2>,
    /// `[1, 1]` where there is none.
    pub weight: Tensor<2>,
    /// In the type of the arithmetic; `[1]` where there is none.
    pub bias: Tensor<1>,
}

impl Head {
    /// Logits in the place of hidden states.
    pub fn of_logits(logits: Tensor<2>) -> Self {
        let none = Tensor::zeros([1], (&logits.device().without_autodiff(), logits.dtype()));
        Self {
            hidden: logits,
            weight: none.clone().reshape([1, 1]),
            bias: none,
        }
    }

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

    fn tensors(self) -> HeadTensors<Dispatch> {
        HeadTensors {
            hidden: self.hidden.into_dispatch(),
            weight: self.weight.into_dispatch(),
            bias: self.bias.into_dispatch(),
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

/// 128 MiB: 671 tokens of a vocabulary of 50,000 in f32, or 223 of 150,000.
const HOST_MEMORY_BUDGET: usize = 128 << 20;

/// Whether the device's backend is connected.
pub fn available(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "flex")]
        burn::backend::DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        burn::backend::DispatchDevice::NdArray(_) => true,
        #[cfg(feature = "cube")]
        burn::backend::DispatchDevice::Cube(_) => true,
        _ => false,
    }
}

/// Whether the device is one of CubeCL's.
pub fn is_gpu(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "cube")]
        burn::backend::DispatchDevice::Cube(_) => true,
        _ => false,
    }
}

/// Bytes that the device can spare for logits.
pub fn default_memory_budget(device: &Device) -> usize {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "cube")]
        burn::backend::DispatchDevice::Cube(device) => {
            let largest = device.client().properties().memory.max_page_size;
            // A quarter of the memory on CUDA, the largest buffer on wgpu.
            let share = usize::try_from(largest / 4).unwrap_or(usize::MAX);
            share.clamp(HOST_MEMORY_BUDGET, 1 << 30)
        }
        _ => HOST_MEMORY_BUDGET,
    }
}

/// Values, as in `RowStatistics`.
pub fn log_probs(work: Work) -> Tensor<2> {
    computed(work).values
}

/// What is known of each token, outside of autodiff.
pub fn statistics(work: Work) -> Statistics {
    let head = work.head.without_autodiff();
    computed(Work { head, ..work })
}

fn computed(work: Work) -> Statistics {
    let (head, tokens) = (work.head.tensors(), work.tokens.tensors());
    let statistics = Dispatch::log_probs(head, tokens, work.settings);
    Statistics {
        values: Tensor::from_dispatch(statistics.values),
        moments: Tensor::from_dispatch(statistics.moments),
    }
}

/// The values of statistics that are known already, with the gradients that they mean.
pub fn with_statistics(work: Work, statistics: Statistics) -> Tensor<2> {
    let (head, tokens) = (work.head.tensors(), work.tokens.tensors());
    let statistics = RowStatistics {
        values: statistics.values.into_dispatch(),
        moments: statistics.moments.into_dispatch(),
    };
    let values = Dispatch::log_probs_with(head, tokens, statistics, work.settings);
    Tensor::from_dispatch(values)
}

/// The divergence of two distributions at each token, `[1, N]`.
pub fn divergence(student: Work, teacher: Work, divergence: TeacherDivergence) -> Tensor<2> {
    let pair = Pair {
        divergence,
        student: student.settings,
        teacher: teacher.settings,
    };
    let [(student, of_student), (teacher, of_teacher)] =
        [student, teacher].map(|work| (work.head.tensors(), work.tokens.tensors()));
    let values = Dispatch::divergence(student, teacher, of_student, of_teacher, pair);
    Tensor::from_dispatch(values)
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
        Tensor::from_dispatch(self.logits.statistics.values.clone())
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
