//! The operations that formulas are written in, on a device. `cpu/words.rs` has the same names for
//! the lanes of a vector unit.

use cubecl::prelude::*;

use crate::kind::Kind;

/// The types that a formula is compiled for.
pub trait Elements: Send + Sync + 'static {
    /// The type of the arithmetic.
    type Real: Float;
    /// Number of tokens in a vector.
    type Width: Size;
}

/// Numbers, one for each of a few tokens.
pub type Values<E> = Vector<<E as Elements>::Real, <E as Elements>::Width>;

/// A number of a row.
type Real<E> = <E as Elements>::Real;

/// Conditions, one for each of a few tokens.
pub type Flags<E> = Vector<bool, <E as Elements>::Width>;

/// `exp(x)`, and `exp(x) - 1 - x`, which loses all digits near 0 when it is formed from `exp(x)`.
#[derive(CubeType, Clone, Copy)]
pub struct Exponential<E: Elements> {
    pub value: Values<E>,
    pub minus_one_minus_x: Values<E>,
}

/// The number of no token at all.
#[cube]
pub fn neutral<A: Float>(#[comptime] kind: Kind) -> A {
    A::new(comptime!(kind.neutral() as f32))
}

/// One number of two. Comparisons with NaN are false, so that NaN is left out of the extremes.
#[cube]
pub fn combine<A: Float>(#[comptime] kind: Kind, left: A, right: A) -> A {
    match kind {
        Kind::Sum | Kind::Count => left + right,
        Kind::Least => select(right < left, right, left),
        Kind::Largest => select(right > left, right, left),
    }
}

/// The same number for every token.
#[cube]
pub fn constant<E: Elements>(_like: Values<E>, #[comptime] value: f64) -> Values<E> {
    Vector::new(E::Real::new(comptime!(value as f32)))
}

/// A number of the objective.
#[cube]
pub fn number<E: Elements>(_like: Values<E>, number: &InputScalar) -> Values<E> {
    Vector::new(number.get::<E::Real>())
}

#[cube]
pub fn at_least_one<A: Float>(count: A) -> A {
    let one = A::new(1.0);
    select(count > one, count, one)
}

/// Words whose value is one expression. `#[cube]` comes from outside: it and the expressions name the
/// same variables.
macro_rules! words {
    ($hash:tt $cube:tt $(
        $(#[doc = $doc:literal])*
        $name:ident($($argument:ident: $type:ident),*) -> $output:ident = $value:expr;
    )*) => {$(
        $(#[doc = $doc])*
        $hash $cube
        pub fn $name<E: Elements>($($argument: $type<E>),*) -> $output<E> {
            $value
        }
    )*};
}

words! {
    #[cube]
    /// A number of the row.
    whole(total: Real) -> Values = Vector::new(total);
    /// A number of the row, divided by its number of tokens. Divided, not multiplied by
    /// `1 / tokens`: a mean of equal numbers is that number.
    mean(total: Real, tokens: Real) -> Values =
        Vector::new(total / at_least_one::<E::Real>(tokens));
    nowhere(_like: Values) -> Flags = Vector::new(false);
    less(left: Values, right: Values) -> Flags = left.less_than(&right);
    greater(left: Values, right: Values) -> Flags = left.greater_than(&right);
    at_most(left: Values, right: Values) -> Flags = left.less_equal(&right);
    at_least(left: Values, right: Values) -> Flags = left.greater_equal(&right);
    equal(left: Values, right: Values) -> Flags = left.equal(&right);
    is_nan(x: Values) -> Flags = x.is_nan();
    both(left: Flags, right: Flags) -> Flags = left.vec_and(right);
    either(left: Flags, right: Flags) -> Flags = left.or(right);
    choose(condition: Flags, yes: Values, no: Values) -> Values = select_many(condition, yes, no);
    /// The value, but `low` where it is less; NaN stays, which the built-in `max` of a device need not
    /// keep.
    raised(x: Values, low: Values) -> Values = select_many(x.less_than(&low), low, x);
    /// The value, but `high` where it is greater; NaN stays.
    lowered(x: Values, high: Values) -> Values = select_many(x.greater_than(&high), high, x);
    negative(x: Values) -> Values = Values::<E>::new(E::Real::new(0.0)) - x;
    minus_product(x: Values, a: Values, b: Values) -> Values = x - a * b;
    exponential(x: Values) -> Values = x.exp();
    square_root(x: Values) -> Values = x.sqrt();
    /// `ln(left / right)` of positive numbers.
    logarithm_of_quotient(left: Values, right: Values) -> Values = left.ln() - right.ln();
    /// What numbers add to a sum.
    total(x: Values) -> Real = x.vector_sum();
    /// A sum with `a * b` added to it.
    plus_product(sum: Real, a: Values, b: Values) -> Real = sum + (a * b).vector_sum();
    /// What numbers that are NaN or infinite add to a count.
    count_non_finite(x: Values) -> Real = count::<E>(x.is_nan().or(x.is_inf()));
    /// The smallest number, where the condition holds; NaN is left out.
    least(known: Real, condition: Flags, x: Values) -> Real =
        extreme::<E>(Kind::Least, known, condition, x);
    /// The largest number, where the condition holds; NaN is left out.
    largest(known: Real, condition: Flags, x: Values) -> Real =
        extreme::<E>(Kind::Largest, known, condition, x);
}

/// Of `x` within ±20, or NaN.
///
/// `exp(x) - 1 - x` loses all digits near 0, where the series
/// `x^2 / 2 (1 + x / 3 (1 + x / 4 (...)))` has no cancellation.
#[cube]
pub fn exponential_of_bounded<E: Elements>(
    x: Values<E>,
    #[comptime] double: bool,
) -> Exponential<E> {
    // The first term left out is below half a rounding at the limit.
    let terms = comptime!(if double { 15 } else { 8 });
    let one = Values::<E>::new(E::Real::new(1.0));
    let mut series = one;
    #[unroll]
    for k in 0..comptime!(terms - 2) {
        let divisor = E::Real::from_int(comptime!(terms - k));
        series = one + series * x * Vector::new(E::Real::new(1.0) / divisor);
    }
    series *= x * x * Vector::new(E::Real::new(0.5));
    let limit = Vector::new(E::Real::new(0.5));
    let value = x.exp();
    Exponential::<E> {
        value,
        minus_one_minus_x: select_many(x.abs().less_than(&limit), series, value - one - x),
    }
}

/// What conditions add to a count.
#[cube]
pub fn count<E: Elements>(condition: Flags<E>) -> E::Real {
    let one = Values::<E>::new(E::Real::new(1.0));
    let zero = Values::<E>::new(E::Real::new(0.0));
    select_many(condition, one, zero).vector_sum()
}

#[cube]
fn extreme<E: Elements>(
    #[comptime] kind: Kind,
    known: E::Real,
    condition: Flags<E>,
    x: Values<E>,
) -> E::Real {
    let others = Values::<E>::new(neutral::<E::Real>(kind));
    let x = select_many(condition, x, others);
    let mut extreme = known;
    #[unroll]
    for place in 0..E::Width::value() {
        extreme = combine::<E::Real>(kind, extreme, x.extract(place));
    }
    extreme
}
