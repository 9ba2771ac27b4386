//! The inputs of a token, read from memory and converted to the type of the arithmetic.

use cubecl::prelude::*;

use super::blueprint::Blueprint;

/// The element types of a launch.
pub trait Elements: Send + Sync + 'static {
    type LogProbs: Float;
    type OldLogProbs: Float;
    type RolloutLogProbs: Float;
    type Advantages: Float;
    /// Booleans as the device stores them: 0 is false.
    type Mask: Int;
    /// The type of the arithmetic.
    type Real: Float;
    /// Number of tokens that a unit handles at once.
    type Width: Size;
}

impl<L: Float, O: Float, R: Float, V: Float, M: Int, A: Float, N: Size> Elements
    for (L, O, R, V, M, A, N)
{
    type LogProbs = L;
    type OldLogProbs = O;
    type RolloutLogProbs = R;
    type Advantages = V;
    type Mask = M;
    type Real = A;
    type Width = N;
}

/// The tensors, in vectors of tokens.
#[derive(CubeType, CubeLaunch)]
pub struct Inputs<E: Elements> {
    pub log_probs: Box<[Vector<E::LogProbs, E::Width>]>,
    pub old_log_probs: Box<[Vector<E::OldLogProbs, E::Width>]>,
    pub rollout_log_probs: ComptimeOption<Box<[Vector<E::RolloutLogProbs, E::Width>]>>,
    pub advantages: Advantages<E>,
    pub action_mask: ComptimeOption<Box<[Vector<E::Mask, E::Width>]>>,
}

/// Advantages per token or per sequence.
#[derive(CubeType, CubeLaunch)]
pub enum Advantages<E: Elements> {
    PerToken(Box<[Vector<E::Advantages, E::Width>]>),
    PerSequence(Box<[E::Advantages]>),
}

/// Where the action mask is true; absent where all tokens are valid, so that nothing is
/// selected.
#[derive(CubeType, Clone, Copy)]
pub struct Valid<N: Size> {
    tokens: ComptimeOption<Vector<bool, N>>,
}

#[cube]
impl<N: Size> Valid<N> {
    /// 0 at masked tokens, whatever stood there. Select before anything is computed from `x`:
    /// a product with 0 would keep a NaN.
    pub fn keep<A: Float>(&self, x: Vector<A, N>) -> Vector<A, N> {
        self.keep_or(x, A::new(0.0))
    }

    /// `masked` at masked tokens.
    pub fn keep_or<A: Float>(&self, x: Vector<A, N>, masked: A) -> Vector<A, N> {
        #[comptime]
        match self.tokens {
            ComptimeOption::Some(tokens) => select_many(tokens, x, Vector::new(masked)),
            ComptimeOption::None => x,
        }
    }

    /// The number of valid tokens at which `condition` holds.
    pub fn count<A: Float>(&self, condition: Vector<bool, N>) -> A {
        self.keep(indicator::<A, N>(condition)).vector_sum()
    }

    /// The number of valid tokens.
    pub fn total<A: Float>(&self) -> A {
        self.keep(Vector::<A, N>::new(A::new(1.0))).vector_sum()
    }
}

/// The number of tokens at which `condition` holds.
#[cube]
pub fn count<A: Float, N: Size>(condition: Vector<bool, N>) -> A {
    indicator::<A, N>(condition).vector_sum()
}

/// 1 where `condition` holds, else 0.
#[cube]
fn indicator<A: Float, N: Size>(condition: Vector<bool, N>) -> Vector<A, N> {
    let one = Vector::new(A::new(1.0));
    let zero = Vector::new(A::new(0.0));
    select_many(condition, one, zero)
}

#[cube]
impl<E: Elements> Inputs<E> {
    pub fn valid(&self, index: usize) -> Valid<E::Width> {
        let tokens = self.action_mask.as_ref().map(|mask| {
            let zero = Vector::new(E::Mask::from_int(0));
            mask[index].not_equal(&zero)
        });
        Valid::<E::Width> { tokens }
    }

    pub fn log_probs(&self, index: usize) -> Vector<E::Real, E::Width> {
        Vector::cast_from(self.log_probs[index])
    }

    pub fn old_log_probs(&self, index: usize) -> Vector<E::Real, E::Width> {
        Vector::cast_from(self.old_log_probs[index])
    }

    /// Present where the objective reads it.
    pub fn rollout_log_probs(&self, index: usize) -> Vector<E::Real, E::Width> {
        Vector::cast_from(self.rollout_log_probs.as_ref().unwrap()[index])
    }

    /// What the ratio is taken against.
    pub fn base(
        &self,
        index: usize,
        #[comptime] blueprint: Blueprint,
    ) -> Vector<E::Real, E::Width> {
        if comptime!(blueprint.against_rollout) {
            self.rollout_log_probs(index)
        } else {
            self.old_log_probs(index)
        }
    }

    /// The advantages of the tokens at `index`, which are part of `sequence`.
    pub fn advantages(&self, index: usize, sequence: usize) -> Vector<E::Real, E::Width> {
        #[comptime]
        match &self.advantages {
            Advantages::PerToken(advantages) => Vector::cast_from(advantages[index]),
            Advantages::PerSequence(advantages) => {
                Vector::new(E::Real::cast_from(advantages[sequence]))
            }
        }
    }
}
