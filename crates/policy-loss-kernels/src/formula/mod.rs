//! The formulas of an objective, written once for all machines.
//!
//! [`formulas!`] hands the same items to `#[cube]`, which makes kernels of them, and to a generic
//! function over the lanes of a vector unit. The operations that the formulas are written in have
//! the same names on both machines (`cube/words.rs`, `cpu/words.rs`); walking through memory and
//! adding up the numbers of units or lanes is what each machine does for itself.
//!
//! In the formulas
//!
//! - `Values<E>` are numbers, one for each of a few tokens; `Flags<E>` are conditions on them;
//! - a masked token is a token with log-ratio 0 and advantage 0: everything is chosen by the mask
//!   before it is exponentiated or multiplied, so that it does not matter what stands there;
//! - comparisons with NaN are false, and a NaN that a value depends on reaches it.

pub(crate) mod parts;
pub(crate) mod penalty;
pub(crate) mod rollout;
pub(crate) mod row;
pub(crate) mod row_sums;
pub(crate) mod surrogate;
pub(crate) mod token;

pub(crate) use crate::sums;
pub(crate) use crate::sums::observed;

/// Compiles items for both machines, in the modules `gpu` and `cpu`. The modules beside this one
/// whose items they use are named first.
macro_rules! formulas {
    (use [$($used:ident),* $(,)?]; $($item:tt)*) => {
        #[cfg(feature = "cube")]
        pub(crate) mod gpu {
            #![allow(clippy::assign_op_pattern, unused_imports)]

            use cubecl::prelude::*;

            use crate::blueprint::Blueprint;
            use crate::numbers::gpu::NumberArguments as Numbers;
            use crate::cube::words::*;
            use crate::objective::*;
            $(pub(crate) use crate::formula::$used::gpu::*;)*

            $($item)*
        }

        #[cfg(feature = "cpu")]
        pub(crate) mod cpu {
            #![allow(clippy::assign_op_pattern, unused_imports)]

            use crate::blueprint::Blueprint;
            use crate::numbers::Numbers;
            use crate::cpu::words::*;
            use crate::objective::*;
            $(pub(crate) use crate::formula::$used::cpu::*;)*

            $crate::formula::cpu_items! { $($item)* }
        }
    };
}
pub(crate) use formulas;

/// The items as they stand, without what only `#[cube]` understands.
macro_rules! cpu_items {
    () => {};
    (
        $(#[doc = $doc:literal])*
        #[derive(CubeType, Clone, Copy)]
        pub struct $name:ident<$e:ident: $bound:ident> { $($fields:tt)* }
        $($rest:tt)*
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy)]
        pub struct $name<$e: $bound> { $($fields)* }
        $crate::formula::cpu_items! { $($rest)* }
    };
    (
        $(#[doc = $doc:literal])*
        #[cube]
        pub fn $name:ident<$e:ident: $bound:ident>(
            $($(#[$comptime:ident])? $argument:ident: $type:ty),* $(,)?
        ) $(-> $output:ty)? $body:block
        $($rest:tt)*
    ) => {
        $(#[doc = $doc])*
        #[inline(always)]
        #[allow(clippy::too_many_arguments)]
        pub fn $name<$e: $bound>($($argument: $type),*) $(-> $output)? $body
        $crate::formula::cpu_items! { $($rest)* }
    };
}
pub(crate) use cpu_items;
