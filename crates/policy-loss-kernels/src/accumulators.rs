//! Declares numbers that are accumulated over tokens, once for all machines.

/// Declares a list of numbers with their kinds, and, where only some objectives need a number, a
/// condition on the blueprint. It becomes
///
/// - a struct of f64 on the host, with `merge`;
/// - an enum that names them, whose variants are called like the fields, with `needed`, those that an
///   objective needs;
/// - `gpu`: the struct of one unit, in the arithmetic of a kernel;
/// - `cpu`: the struct of the lanes of a vector unit, and their totals.
macro_rules! accumulators {
    (
        $(#[$meta:meta])*
        pub struct $Sums:ident, $Sum:ident, $Totals:ident {
            $($(#[doc = $doc:literal])* $name:ident: $kind:ident $(if $needed:expr)?,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct $Sums {
            $($(#[doc = $doc])* pub $name: f64,)*
        }

        #[doc = concat!("Names the fields of [`", stringify!($Sums), "`].")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, missing_docs)]
        pub enum $Sum { $($name,)* }

        impl $Sum {
            /// All of them, in their order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// How parts are put together.
            #[must_use]
            pub const fn kind(self) -> $crate::kind::Kind {
                match self { $(Self::$name => $crate::kind::Kind::$kind,)* }
            }

            /// Those that an objective needs, in their order. The others stay neutral.
            #[must_use]
            pub fn needed(blueprint: &$crate::blueprint::Blueprint) -> Vec<Self> {
                let is_needed = |number: &Self| match number {
                    $(Self::$name => {
                        let is_needed: fn(&$crate::blueprint::Blueprint) -> bool =
                            $crate::accumulators::or_always!($($needed)?);
                        is_needed(blueprint)
                    })*
                };
                Self::ALL.iter().copied().filter(is_needed).collect()
            }

            /// The name of the field.
            #[must_use]
            #[allow(dead_code, reason = "nobody asks for the name of a `RowSum`")]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }

        impl Default for $Sums {
            /// Of no token.
            fn default() -> Self {
                Self { $($name: $crate::kind::Kind::$kind.neutral(),)* }
            }
        }

        impl $Sums {
            /// Puts the numbers of another part of the tokens to these.
            pub fn merge(&mut self, other: &Self) {
                $(self.$name = $crate::kind::Kind::$kind.merge(self.$name, other.$name);)*
            }

            /// The numbers in their order.
            #[must_use]
            pub fn to_row(self) -> Vec<f64> {
                vec![$(self.$name,)*]
            }

            /// From numbers in their order; those that are missing are neutral.
            #[must_use]
            pub fn from_row(row: &[f64]) -> Self {
                let mut sums = Self::default();
                let fields = [$(&mut sums.$name,)*];
                for (field, value) in fields.into_iter().zip(row) {
                    *field = *value;
                }
                sums
            }
        }

        #[cfg(feature = "cube")]
        pub(crate) mod gpu {
            #![allow(missing_docs, dead_code)]

            use cubecl::prelude::*;

            use super::$Sum;
            use crate::cube::lanes::Lanes;
            use crate::cube::words::{Elements, combine, neutral};

            fn place(needed: &[$Sum], sum: $Sum) -> usize {
                let place = needed.iter().position(|other| *other == sum);
                place.expect("a sum that is needed")
            }

            #[derive(CubeType)]
            pub struct $Sums<E: Elements> { $(pub $name: E::Real,)* }

            pub type $Totals<E> = $Sums<E>;

            #[cube]
            impl<E: Elements> $Sums<E> {
                pub fn new() -> Self {
                    $Sums::<E> { $($name: neutral::<E::Real>(comptime!($Sum::$name.kind())),)* }
                }

                pub fn add(&mut self, other: &$Sums<E>) {
                    $(self.$name = combine::<E::Real>(comptime!($Sum::$name.kind()), self.$name, other.$name);)*
                }

                /// Puts the numbers of the other lanes of a row to those that are needed.
                pub fn fold_lanes(
                    &mut self,
                    lanes: &mut Lanes<E::Real>,
                    #[comptime] needed: Vec<$Sum>,
                ) {
                    $(if comptime!(needed.contains(&$Sum::$name)) {
                        self.$name = lanes.fold(comptime!($Sum::$name.kind()), self.$name);
                    })*
                }

                /// Writes the numbers that are needed to a column of `[numbers, columns]`.
                pub fn write(
                    &self,
                    numbers: &mut [E::Real],
                    column: usize,
                    columns: usize,
                    #[comptime] needed: Vec<$Sum>,
                ) {
                    $(if comptime!(needed.contains(&$Sum::$name)) {
                        let place = comptime!(place(&needed, $Sum::$name));
                        numbers[place * columns + column] = self.$name;
                    })*
                }

                /// Puts the numbers of `count` columns together, with all lanes of a row.
                pub fn read(
                    &mut self,
                    numbers: &[E::Real],
                    first: usize,
                    count: usize,
                    columns: usize,
                    lanes: &mut Lanes<E::Real>,
                    #[comptime] needed: Vec<$Sum>,
                ) {
                    $(if comptime!(needed.contains(&$Sum::$name)) {
                        let place = comptime!(place(&needed, $Sum::$name));
                        let kind = comptime!($Sum::$name.kind());
                        let mut own = neutral::<E::Real>(kind);
                        let mut column = lanes.lane;
                        while column < count {
                            let other = numbers[place * columns + first + column];
                            own = combine::<E::Real>(kind, own, other);
                            column += lanes.count();
                        }
                        self.$name = lanes.fold(kind, own);
                    })*
                }

                pub fn get(&self, #[comptime] sum: $Sum) -> E::Real {
                    match sum { $($Sum::$name => self.$name,)* }
                }
            }
        }

        #[cfg(feature = "cpu")]
        pub(crate) mod cpu {
            #![allow(missing_docs, dead_code)]

            use crate::kind::Kind;
            use crate::cpu::words::{Elements, Total, Values, fold, neutral};

            #[derive(Clone, Copy)]
            pub struct $Sums<E: Elements> { $(pub $name: Values<E>,)* }

            pub struct $Totals<E: Elements> { $(pub $name: Total<E>,)* }

            impl<E: Elements> $Sums<E> {
                #[inline(always)]
                pub fn new(lanes: E) -> Self {
                    Self { $($name: neutral(lanes, Kind::$kind),)* }
                }

                /// Moves what is rounded when it is added up into the numbers on the host, and goes
                /// on from 0.
                #[inline(always)]
                pub fn flush(&mut self, lanes: E, sums: &mut super::$Sums) {
                    $(if let Kind::Sum = Kind::$kind {
                        sums.$name += fold!(Sum, self.$name);
                        self.$name = neutral(lanes, Kind::Sum);
                    })*
                }

                /// Moves everything into the numbers on the host.
                #[inline(always)]
                pub fn finish(self, sums: &mut super::$Sums) {
                    $(sums.$name = Kind::$kind.merge(sums.$name, fold!($kind, self.$name));)*
                }
            }

            impl<E: Elements> $Totals<E> {
                #[inline(always)]
                pub fn new(lanes: E, sums: &super::$Sums) -> Self {
                    Self { $($name: Total(lanes, sums.$name),)* }
                }
            }
        }
    };
}
pub(crate) use accumulators;

/// A condition, or that nothing is asked for.
macro_rules! or_always {
    () => {
        |_| true
    };
    ($condition:expr) => {
        $condition
    };
}
pub(crate) use or_always;
