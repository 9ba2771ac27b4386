//! The operations that formulas are written in, over the lanes of a vector unit. `cube/words.rs`
//! has the same names for a device.

use std::ops::{Add, AddAssign, Div, Mul, Not, Sub};

use super::exp::{Exponential as Parts, exp};
pub use super::lanes::Lanes as Elements;
use super::lanes::Real;
use crate::kind::Kind;

/// Marks what a device evaluates when it compiles.
macro_rules! comptime {
    ($value:expr) => {
        $value
    };
}
pub(crate) use comptime;

/// Numbers, one for each lane.
#[derive(Clone, Copy)]
pub struct Values<E: Elements>(pub E, pub E::Vector);

/// Conditions, one for each lane.
#[derive(Clone, Copy)]
pub struct Flags<E: Elements>(pub E, pub E::Mask);

/// A number of a whole row.
#[derive(Clone, Copy)]
pub struct Total<E: Elements>(pub E, pub f64);

/// `exp(x)`, and `exp(x) - 1 - x`, which loses all digits near 0 when it is formed from `exp(x)`.
pub struct Exponential<E: Elements> {
    pub value: Values<E>,
    pub minus_one_minus_x: Values<E>,
}

macro_rules! operators {
    ($($trait:ident $method:ident $operation:ident,)*) => {
        $(impl<E: Elements> $trait for Values<E> {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(self.0, self.0.$operation(self.1, other.1))
            }
        })*
    };
}
operators! { Add add add, Sub sub sub, Mul mul mul, Div div div, }

impl<E: Elements> AddAssign for Values<E> {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl<E: Elements> Not for Flags<E> {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        Self(self.0, self.0.not(self.1))
    }
}

/// The number that lanes make together. A macro, so that one of the reductions is compiled and not
/// all three.
macro_rules! fold {
    (Sum, $values:expr) => {
        $values.0.sum($values.1)
    };
    (Count, $values:expr) => {
        $values.0.sum($values.1)
    };
    (Least, $values:expr) => {
        $values.0.smallest($values.1)
    };
    (Largest, $values:expr) => {
        $values.0.largest($values.1)
    };
}
pub(crate) use fold;

#[inline(always)]
pub fn splat<E: Elements>(lanes: E, value: f64) -> Values<E> {
    Values(lanes, lanes.splat(E::Real::from_f64(value)))
}

#[inline(always)]
pub fn neutral<E: Elements>(lanes: E, kind: Kind) -> Values<E> {
    splat(lanes, kind.neutral())
}

/// The same number in every lane.
#[inline(always)]
pub fn constant<E: Elements>(like: Values<E>, value: f64) -> Values<E> {
    splat(like.0, value)
}

/// A number of the objective.
#[inline(always)]
pub fn number<E: Elements>(like: Values<E>, value: &f64) -> Values<E> {
    splat(like.0, *value)
}

/// A number of the row.
#[inline(always)]
pub fn whole<E: Elements>(total: Total<E>) -> Values<E> {
    splat(total.0, total.1)
}

/// A number of the row, divided by its number of tokens. Divided, not multiplied by `1 / tokens`,
/// and before it is rounded: a mean of equal numbers is that number.
#[inline(always)]
pub fn mean<E: Elements>(total: Total<E>, tokens: Total<E>) -> Values<E> {
    splat(total.0, total.1 / tokens.1.max(1.0))
}

#[inline(always)]
pub fn nowhere<E: Elements>(like: Values<E>) -> Flags<E> {
    Flags(like.0, like.0.never())
}

/// Operations that the lanes have themselves.
macro_rules! words {
    ($(
        $(#[$doc:meta])*
        $name:ident($first:ident: $First:ident $(, $other:ident: $Other:ident)*) -> $Output:ident = $method:ident;
    )*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name<E: Elements>($first: $First<E> $(, $other: $Other<E>)*) -> $Output<E> {
            $Output($first.0, $first.0.$method($first.1 $(, $other.1)*))
        }
    )*};
}
words! {
    less(left: Values, right: Values) -> Flags = less;
    greater(left: Values, right: Values) -> Flags = greater;
    at_most(left: Values, right: Values) -> Flags = at_most;
    equal(left: Values, right: Values) -> Flags = equal;
    both(left: Flags, right: Flags) -> Flags = and;
    either(left: Flags, right: Flags) -> Flags = or;
    choose(condition: Flags, yes: Values, no: Values) -> Values = select;
    /// The value, but `low` where it is less; NaN stays.
    raised(x: Values, low: Values) -> Values = raised;
    /// The value, but `high` where it is greater; NaN stays.
    lowered(x: Values, high: Values) -> Values = lowered;
    negative(x: Values) -> Values = negative;
    square_root(x: Values) -> Values = square_root;
}

#[inline(always)]
pub fn at_least<E: Elements>(left: Values<E>, right: Values<E>) -> Flags<E> {
    Flags(left.0, left.0.at_most(right.1, left.1))
}

#[inline(always)]
pub fn is_nan<E: Elements>(x: Values<E>) -> Flags<E> {
    !equal(x, x)
}

/// `x - a * b`, rounded once.
#[inline(always)]
pub fn minus_product<E: Elements>(x: Values<E>, a: Values<E>, b: Values<E>) -> Values<E> {
    Values(x.0, x.0.mul_add(x.0.negative(a.1), b.1, x.1))
}

#[inline(always)]
pub fn exponential<E: Elements>(x: Values<E>) -> Values<E> {
    Values(x.0, exp(x.0, x.1))
}

/// Of `x` within ±20, or NaN.
#[inline(always)]
pub fn exponential_of_bounded<E: Elements>(x: Values<E>, _double: bool) -> Exponential<E> {
    let parts = Parts::of_bounded(x.0, x.1);
    Exponential {
        value: Values(x.0, parts.value(x.0)),
        minus_one_minus_x: Values(x.0, parts.minus_one_minus_x(x.0)),
    }
}

/// `ln(left / right)` of positive numbers, exact where they are nearly equal.
#[inline(always)]
pub fn logarithm_of_quotient<E: Elements>(left: Values<E>, right: Values<E>) -> Values<E> {
    // Of the larger number over the smaller one, and the sign put back: a small quotient less 1 is
    // rounded to -1, whose logarithm is infinite.
    let falls = less(left, right);
    let small = choose(falls, left, right);
    let growth = (choose(falls, right, left) - small) / small;
    let logarithm = |x: E::Real| E::Real::from_f64(x.to_f64().ln_1p());
    let rise = Values(left.0, left.0.map(growth.1, logarithm));
    choose(falls, negative(rise), rise)
}

/// What numbers add to a sum.
#[inline(always)]
pub fn total<E: Elements>(x: Values<E>) -> Values<E> {
    x
}

/// A sum with `a * b` added to it, rounded once.
#[inline(always)]
pub fn plus_product<E: Elements>(sum: Values<E>, a: Values<E>, b: Values<E>) -> Values<E> {
    Values(sum.0, sum.0.mul_add(a.1, b.1, sum.1))
}

/// What conditions add to a count.
#[inline(always)]
pub fn count<E: Elements>(condition: Flags<E>) -> Values<E> {
    let lanes = condition.0;
    // Adding -0 changes no number, which the compiler knows, and adds under a mask.
    choose(condition, splat(lanes, 1.0), splat(lanes, -0.0))
}

/// What stands for numbers that are NaN or infinite until they are counted: a sum that they are in
/// is not finite. Few blocks hold any, and are counted once more.
#[inline(always)]
pub fn count_non_finite<E: Elements>(x: Values<E>) -> Values<E> {
    x
}

/// Where numbers are NaN or infinite.
#[inline(always)]
#[expect(clippy::eq_op, reason = "an infinity minus itself is NaN")]
pub fn is_non_finite<E: Elements>(x: Values<E>) -> Flags<E> {
    is_nan(x - x)
}

/// The smaller one of each lane, where the condition holds; NaN is left out.
#[inline(always)]
pub fn least<E: Elements>(least: Values<E>, condition: Flags<E>, x: Values<E>) -> Values<E> {
    let smaller = Values(x.0, x.0.smaller(x.1, least.1));
    choose(condition, smaller, least)
}

/// The larger one of each lane, where the condition holds; NaN is left out.
#[inline(always)]
pub fn largest<E: Elements>(largest: Values<E>, condition: Flags<E>, x: Values<E>) -> Values<E> {
    let larger = Values(x.0, x.0.larger(x.1, largest.1));
    choose(condition, larger, largest)
}
