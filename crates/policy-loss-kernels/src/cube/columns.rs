//! The inputs of a batch, read in vectors of tokens and converted to the type of the arithmetic.

use cubecl::prelude::*;

use super::blueprint::Blueprint;

/// The types of a launch.
pub trait Elements: Send + Sync + 'static {
    type LogProbs: Float;
    type OldLogProbs: Float;
    type RolloutLogProbs: Float;
    type Advantages: Float;
    /// Booleans as the device stores them: 0 is false.
    type Mask: Int;
    /// The type of the arithmetic.
    type Real: Float;
    /// Number of tokens in a vector.
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

type Column<T, N> = Box<[Vector<T, N>]>;
type OptionalColumn<T, N> = ComptimeOption<Column<T, N>>;

/// The inputs as vectors of tokens. No vector holds tokens of two sequences.
#[derive(CubeType, CubeLaunch)]
pub struct Columns<E: Elements> {
    log_probs: Column<E::LogProbs, E::Width>,
    old_log_probs: Column<E::OldLogProbs, E::Width>,
    /// Present where the objective reads it.
    rollout_log_probs: OptionalColumn<E::RolloutLogProbs, E::Width>,
    /// Present where the objective asks for them.
    weights: OptionalColumn<E::Real, E::Width>,
    /// Present where the objective has a penalty.
    ref_log_probs: OptionalColumn<E::Real, E::Width>,
    advantages: AdvantageColumn<E>,
    mask: OptionalColumn<E::Mask, E::Width>,
}

/// Advantages per token, or one per sequence.
#[derive(CubeType, CubeLaunch)]
#[expect(
    dead_code,
    reason = "a launch constructs the type that is derived from it"
)]
pub enum AdvantageColumn<E: Elements> {
    PerToken(Column<E::Advantages, E::Width>),
    PerSequence(Box<[E::Advantages]>),
}

#[cube]
impl<E: Elements> Columns<E> {
    pub fn valid(&self, index: usize) -> Valid<E::Width> {
        let tokens = self.mask.as_ref().map(|mask| {
            let masked = Vector::new(E::Mask::from_int(0));
            mask[index].not_equal(&masked)
        });
        Valid::<E::Width> { tokens }
    }

    pub fn log_probs(&self, index: usize) -> Vector<E::Real, E::Width> {
        Vector::cast_from(self.log_probs[index])
    }

    pub fn old_log_probs(&self, index: usize) -> Vector<E::Real, E::Width> {
        Vector::cast_from(self.old_log_probs[index])
    }

    pub fn rollout_log_probs(&self, index: usize) -> Vector<E::Real, E::Width> {
        Vector::cast_from(self.rollout_log_probs.as_ref().unwrap()[index])
    }

    pub fn weights(&self, index: usize) -> Vector<E::Real, E::Width> {
        self.weights.as_ref().unwrap()[index]
    }

    pub fn ref_log_probs(&self, index: usize) -> Vector<E::Real, E::Width> {
        self.ref_log_probs.as_ref().unwrap()[index]
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

    /// The advantages of the tokens at `index`, which belong to `sequence`.
    pub fn advantages(&self, index: usize, sequence: usize) -> Vector<E::Real, E::Width> {
        #[comptime]
        match &self.advantages {
            AdvantageColumn::PerToken(advantages) => Vector::cast_from(advantages[index]),
            AdvantageColumn::PerSequence(advantages) => {
                Vector::new(E::Real::cast_from(advantages[sequence]))
            }
        }
    }
}

/// Where the mask is true; absent where all tokens are valid, so that nothing is selected.
#[derive(CubeType, Clone, Copy)]
pub struct Valid<N: Size> {
    tokens: ComptimeOption<Vector<bool, N>>,
}

#[cube]
impl<N: Size> Valid<N> {
    /// 0 at masked tokens, whatever stood there. To be called before anything is computed from
    /// `x`: a product with 0 would keep a NaN.
    pub fn keep<A: Float>(&self, x: Vector<A, N>) -> Vector<A, N> {
        self.keep_or(x, A::new(0.0))
    }

    /// `otherwise` at masked tokens.
    pub fn keep_or<A: Float>(&self, x: Vector<A, N>, otherwise: A) -> Vector<A, N> {
        #[comptime]
        match self.tokens {
            ComptimeOption::Some(tokens) => select_many(tokens, x, Vector::new(otherwise)),
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
