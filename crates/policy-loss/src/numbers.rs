//! Numbers of a batch that lie in one tensor, so that they come back in one transfer.

/// Declares numbers once, as tensors and as values, so that the two cannot drift apart.
macro_rules! numbers {
    ($tensors:ident, $values:ident; $($(#[doc = $doc:literal])* $name:ident,)*) => {
        impl $tensors {
            $($(#[doc = $doc])*
            pub fn $name(&self) -> Tensor<1> {
                self.packed.clone().narrow(0, Position::$name as usize, 1)
            })*

            /// Reads all of them back, in one transfer.
            ///
            /// # Errors
            ///
            /// The device failed to execute what was queued, or to deliver it.
            pub fn read(&self) -> Result<$values, TensorReadError> {
                Ok($values::from_packed(&self.packed.try_to_vec_as::<f64>()?))
            }
        }

        /// Where each stands in the packed tensor.
        #[allow(non_camel_case_types)]
        enum Position { $($name,)* }

        /// Separate tensors, each `[1]`, on their way into the packed one.
        struct Separate { $($name: Tensor<1>,)* }

        impl Separate {
            fn pack(self) -> $tensors {
                $tensors { packed: Tensor::cat(vec![$(self.$name,)*], 0) }
            }
        }

        #[doc = concat!("The values of [`", stringify!($tensors), "`], read back.")]
        #[derive(Debug, Clone, Copy, PartialEq, Serialize)]
        pub struct $values {
            $($(#[doc = $doc])* pub $name: f64,)*
        }

        impl $values {
            /// The name of each with its sentence, in the order of [`named`](Self::named).
            pub const SENTENCES: &'static [(&'static str, &'static str)] = &[
                $((stringify!($name), concat!($($doc,)*)),)*
            ];

            fn from_packed(packed: &[f64]) -> Self {
                Self { $($name: packed[Position::$name as usize],)* }
            }

            /// The name and the value of each, in the order of the documentation.
            pub fn named(&self) -> Vec<(&'static str, f64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}
pub(crate) use numbers;
