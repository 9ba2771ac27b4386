//! Where tests are made of the parts of a suite: one for each backend, mode and part.

/// Calls a macro with every backend that is compiled in: the one line that a new backend needs. What
/// stands behind the macro's name is handed to it first.
#[macro_export]
macro_rules! for_each_backend {
    ($callback:ident $($body:tt)?) => {
        $callback! { $($body)?
            flex: policy_loss_flex,
            ndarray: policy_loss_ndarray,
            #[cfg(feature = "wgpu")]
            wgpu: policy_loss_wgpu,
            #[cfg(feature = "cuda")]
            cuda: policy_loss_cuda,
        }
    };
}

/// A module for each backend with what stands in the braces, and its `probe`.
#[macro_export]
macro_rules! matrix {
    ($body:tt $($(#[cfg($condition:meta)])? $backend:ident: $adapter:ident,)+) => {
        $($(#[cfg($condition)])? mod $backend {
            fn probe() -> &'static $crate::Probe {
                static PROBE: std::sync::OnceLock<$crate::Probe> = std::sync::OnceLock::new();
                PROBE.get_or_init(|| {
                    $crate::Probe::of($adapter::BACKEND, $adapter::device, $adapter::devices)
                })
            }

            $crate::without_braces! $body
        })+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! without_braces {
    ($($body:tt)*) => { $($body)* };
}

/// In the module of a backend's mode: a test for each part of each file of a suite, run by a
/// function that takes the probe, the mode and the part.
#[macro_export]
macro_rules! tests {
    ($run:path, $suite:path, $mode:ident; $($file:ident: $($part:ident),+;)+) => {
        $(mod $file {
            use $suite as suite;

            $(#[test]
            fn $part() {
                $run(super::super::probe(), $crate::Mode::$mode, suite::$file::$part);
            })+
        })+
    };
}
