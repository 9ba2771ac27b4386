//! The columns of a batch.

macro_rules! columns {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// One thing for each column of a batch: what is read of a token.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[allow(clippy::exhaustive_structs)]
        pub struct Columns<C> {
            $($(#[doc = $doc])* pub $name: C,)*
        }

        impl<C> Columns<C> {
            /// The same columns, each changed.
            #[inline(always)]
            pub fn map<D>(self, mut change: impl FnMut(C) -> D) -> Columns<D> {
                Columns { $($name: change(self.$name),)* }
            }

            /// Both of two for each column.
            #[inline(always)]
            pub fn zip<D>(self, other: Columns<D>) -> Columns<(C, D)> {
                Columns { $($name: (self.$name, other.$name),)* }
            }

            /// References to each column.
            pub fn as_ref(&self) -> Columns<&C> {
                Columns { $($name: &self.$name,)* }
            }

            /// References to each column, to change it.
            pub fn as_mut(&mut self) -> Columns<&mut C> {
                Columns { $($name: &mut self.$name,)* }
            }

            /// The columns with their names.
            pub fn named(self) -> [(&'static str, C); [$(stringify!($name),)*].len()] {
                [$((stringify!($name), self.$name),)*]
            }
        }
    };
}

columns! {
    /// Log-probs of the policy that is trained.
    log_probs,
    /// Log-probs of the policy that the update started from.
    old_log_probs,
    /// Log-probs that the sampler reported.
    rollout_log_probs,
    /// Log-probs of the reference policy.
    ref_log_probs,
    /// Entropies of the token distributions of the policy that is trained.
    entropies,
    /// Advantage estimates.
    advantages,
    /// Weights of tokens by what is behind them.
    future_weights,
    /// Means of the log-ratios over the segments that tokens are in.
    segment_log_ratios,
    /// 1 where a filter rejects the segment that a token is in, else 0.
    segment_rejections,
}
