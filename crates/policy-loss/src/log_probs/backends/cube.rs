//! Log-probs on every device that CubeCL has a runtime for: the products are Burn's, which tunes
//! them for the device; the softmax is a kernel for its statistics and one for its gradient.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::tensor::CubeTensor;
use policy_loss_kernels::cube::log_probs::{self as kernels, Logits, Statistics};

use crate::backends::cube::{buffer, tensor};
use crate::composed::arithmetic;
use crate::log_probs::ops::{LogProbsOps, RowStatistics, Settings, TokenTensors};
use crate::log_probs::{VocabularyShard, chunked};

impl LogProbsOps for CubeBackend {
    fn softmax_statistics(
        logits: FloatTensor<Self>,
        tokens: TokenTensors<Self>,
        settings: Settings,
    ) -> RowStatistics<Self> {
        let like = logits.clone();
        let [rows, _] = logits.shape().dims();
        let statistics = kernels::statistics(&like.client, &whole(logits, tokens, settings));
        let dtype = arithmetic(like.dtype);
        RowStatistics {
            values: tensor(&like, statistics.values, [settings.values(), rows], dtype),
            moments: tensor(&like, statistics.moments, [2, rows], dtype),
        }
    }

    fn softmax_gradient(
        logits: FloatTensor<Self>,
        words: VocabularyShard,
        tokens: TokenTensors<Self>,
        statistics: RowStatistics<Self>,
        upstream: FloatTensor<Self>,
        settings: Settings,
        into: DType,
    ) -> FloatTensor<Self> {
        let (client, device) = (logits.client.clone(), logits.device.clone());
        let shape = logits.shape();
        let gradient = kernels::gradient(
            &client,
            whole(logits, tokens, settings),
            kernels::Words {
                first: words.first,
                vocabulary: words.vocabulary,
            },
            &Statistics {
                values: buffer(statistics.values),
                moments: buffer(statistics.moments),
            },
            &buffer(upstream),
            settings.entropy_gradient,
            dtype_to_storage_type(into),
        );
        CubeTensor::new_contiguous(client, device, shape, gradient.handle, into)
    }

    fn product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        into: DType,
    ) -> FloatTensor<Self> {
        if left.dtype == into {
            return Self::float_matmul(left, right);
        }
        // Half types are multiplied as they are; only the sums are wider.
        let strategy = MatmulStrategy::default();
        matmul(left.clone(), right.clone(), None, strategy, into)
            .unwrap_or_else(|_| chunked::product::<Self>(left, right, into))
    }
}

fn whole(logits: CubeTensor, tokens: TokenTensors<CubeBackend>, settings: Settings) -> Logits {
    let [rows, vocabulary] = logits.shape().dims();
    Logits {
        logits: buffer(logits),
        targets: buffer(tokens.targets),
        scales: buffer(tokens.scales),
        rows,
        vocabulary,
        entropy: settings.entropy,
        squares: settings.squares,
    }
}
