//! Log-probs on every device that CubeCL has a runtime for, in Burn's own operations: the products
//! are autotuned, and the softmax is fused where fusion is on.

use burn_cubecl::CubeBackend;

use crate::log_probs::ops::LogProbsOps;

impl LogProbsOps for CubeBackend {}
