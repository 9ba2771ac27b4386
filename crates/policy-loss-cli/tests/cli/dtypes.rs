//! The types of floats: what is computed in them, and what becomes of those that a device lacks.

use safetensors::Dtype;

use crate::support::{Batch, CPU_BACKENDS, close};

#[test]
fn f64_is_computed_in_f64() {
    // e^0.1 differs in the eighth digit where 0.1 or the exponential is rounded to f32.
    let batch = Batch::default()
        .f64("log_probs", &[1, 2], &[0.1, 0.0])
        .f64("old_log_probs", &[1, 2], &[0.0; 2])
        .f64("advantages", &[1], &[1.0]);
    for backend in CPU_BACKENDS {
        let got = batch.write().evaluate(&["--device", backend]);
        assert_eq!(got.gradient.dtype, Dtype::F64);
        let loss = got.report["loss"].as_f64().unwrap();
        close(loss, -1.052_585_459_037_824, 1e-15, backend);
        close(
            got.gradient.values[0],
            -0.552_585_459_037_824,
            1e-15,
            backend,
        );
    }
}

#[test]
fn mixed_types_are_read_together() {
    let expected = Batch::two_rows().write().evaluate(&[]);
    let mixed = Batch::two_rows()
        .cast("old_log_probs", Dtype::F64)
        .cast("advantages", Dtype::BF16)
        .f32("rollout_log_probs", &[2, 3], &[0.0; 6])
        .cast("rollout_log_probs", Dtype::F16);
    for backend in CPU_BACKENDS {
        // 1 and -0.5 are the same in bf16, so nothing changes.
        let got = mixed.write().evaluate(&["--device", backend]);
        let loss = got.report["loss"].as_f64().unwrap();
        close(
            loss,
            expected.report["loss"].as_f64().unwrap(),
            1e-6,
            backend,
        );
        assert_eq!(got.gradient.dtype, Dtype::F32);
    }
}

#[test]
fn the_gradient_has_the_type_of_log_probs() {
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F64] {
        let batch = Batch::two_rows().cast("log_probs", dtype);
        let got = batch.write().evaluate(&[]);
        assert_eq!(got.gradient.dtype, dtype);
        assert!(got.gradient.values.iter().any(|x| *x != 0.0));
    }
}

/// Equal up to one step of the type.
#[cfg(any(feature = "ndarray", feature = "wgpu"))]
#[track_caller]
fn near(got: &[f64], expected: &[f64], dtype: Dtype) {
    let step = match dtype {
        Dtype::F16 => 2f64.powi(-10),
        _ => 2f64.powi(-7),
    };
    for (got, expected) in got.iter().zip(expected) {
        assert!(
            (got - expected).abs() <= step * expected.abs(),
            "{got}, {expected}"
        );
    }
}

#[cfg(feature = "ndarray")]
mod ndarray {
    use half::{bf16, f16};

    use super::*;

    /// The float tensors of a batch that must be there.
    const FLOATS: [&str; 3] = ["log_probs", "old_log_probs", "advantages"];

    /// NdArray lacks f16 and bf16: the result is that of the same values in f32, and the gradient is
    /// rounded once, at the end.
    #[test]
    fn what_a_device_lacks_is_widened_without_loss() {
        for dtype in [Dtype::F16, Dtype::BF16] {
            let narrow = FLOATS
                .iter()
                .fold(Batch::two_rows(), |batch, name| batch.cast(name, dtype));
            let wide = FLOATS
                .iter()
                .fold(Batch::two_rows(), |batch, name| rounded(batch, name, dtype));
            let got = narrow.write().evaluate(&["--device", "ndarray"]);
            let expected = wide.write().evaluate(&["--device", "ndarray"]);
            for name in FLOATS {
                let note = format!(
                    "`{name}` is widened from {}",
                    dtype.to_string().to_lowercase()
                );
                assert!(got.notes.contains(&note), "{}", got.notes);
            }
            assert_eq!(got.report, expected.report);
            assert_eq!(got.gradient.dtype, dtype);
            let rounded = expected
                .gradient
                .values
                .iter()
                .map(|x| round(*x as f32, dtype).into());
            assert_eq!(got.gradient.values, rounded.collect::<Vec<f64>>());

            // Flex has both types, and needs no detour.
            let flex = narrow.write().evaluate(&["--device", "flex"]);
            assert!(!flex.notes.contains("widened"), "{}", flex.notes);
            assert_eq!(flex.gradient.dtype, dtype);
            near(&flex.gradient.values, &got.gradient.values, dtype);
        }
    }

    /// The values that `cast` would leave, in f32.
    fn rounded(batch: Batch, name: &str, to: Dtype) -> Batch {
        let (shape, values) = batch.values(name);
        let values: Vec<_> = values.into_iter().map(|x| round(x, to)).collect();
        batch.f32(name, &shape, &values)
    }

    /// The nearest value of a narrower float type.
    fn round(value: f32, to: Dtype) -> f32 {
        match to {
            Dtype::F16 => f16::from_f32(value).to_f32(),
            Dtype::BF16 => bf16::from_f32(value).to_f32(),
            other => panic!("{other} is not narrower than f32"),
        }
    }
}

#[cfg(feature = "wgpu")]
mod wgpu {
    use super::*;

    #[test]
    fn f64_log_probs_are_refused() {
        let batch = Batch::two_rows().cast("log_probs", Dtype::F64).write();
        let telling = ["`log_probs` is f64", "accepted there: f32", "--device flex"];
        batch.refuses(&["--device", "wgpu"], 3, &telling);
    }

    #[test]
    fn f64_constants_are_narrowed_with_a_note() {
        let expected = Batch::two_rows().write().evaluate(&[]);
        let batch = Batch::two_rows()
            .cast("old_log_probs", Dtype::F64)
            .cast("advantages", Dtype::F64);
        let got = batch.write().evaluate(&["--device", "wgpu"]);
        let note = "`old_log_probs` is narrowed from f64 to f32";
        assert!(got.notes.contains(note), "{}", got.notes);
        let loss = got.report["loss"].as_f64().unwrap();
        close(
            loss,
            expected.report["loss"].as_f64().unwrap(),
            1e-6,
            "loss",
        );
    }

    #[test]
    fn bf16_is_widened_and_its_gradient_narrowed_again() {
        let batch = Batch::two_rows().cast("log_probs", Dtype::BF16).write();
        let flex = batch.evaluate(&[]);
        let got = batch.evaluate(&["--device", "wgpu"]);
        assert_eq!(got.gradient.dtype, Dtype::BF16);
        near(&got.gradient.values, &flex.gradient.values, Dtype::BF16);
    }
}
