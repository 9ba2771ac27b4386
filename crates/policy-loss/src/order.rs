//! The value at a place in the order of all values.

use burn::tensor::{DType, Tensor, TensorData};

use crate::device::is_host;
use crate::valid::{as_numbers, largest, sum_per_row};

/// The value of all of `[B, T]` that has `index` smaller ones before it, `[1]`; NaN is behind all.
pub(crate) fn in_order(x: Tensor<2>, index: Tensor<1>) -> Tensor<1> {
    match is_host(&x.device()) {
        true => in_order_by_sorting(x, index),
        // Burn sorts on the host, so that a GPU would have to wait for it.
        false => in_order_by_counting(x, index),
    }
}

fn in_order_by_sorting(x: Tensor<2>, index: Tensor<1>) -> Tensor<1> {
    let [rows, columns] = x.dims();
    x.reshape([rows * columns]).sort(0).gather(0, index.int())
}

/// Values that are compared at once: seven numbers of f32 for each are 117 MB, and the least that a
/// buffer of wgpu may hold is 128 MiB.
const SLICE: usize = if cfg!(test) { 10 } else { 1 << 22 };

/// Narrows down between which two numbers of the type the value lies, by counting how many values
/// there are up to seven thresholds at once: first between two powers of two, then within the digits.
fn in_order_by_counting(x: Tensor<2>, index: Tensor<1>) -> Tensor<1> {
    const WAYS: usize = 8;
    let [rows, columns] = x.dims();
    let (dtype, length) = (x.dtype(), rows * columns);
    let (lowest, highest, digits, largest_number) = match dtype {
        DType::F64 => (
            f64::MIN_EXP - 1,
            f64::MAX_EXP - 1,
            f64::MANTISSA_DIGITS,
            f64::MAX,
        ),
        _ => (
            f32::MIN_EXP - 1,
            f32::MAX_EXP - 1,
            f32::MANTISSA_DIGITS,
            f64::from(f32::MAX),
        ),
    };
    // Halved, so that all of them lie between two powers of two that the type has.
    let values = x
        .reshape([1, length])
        .clamp(-largest_number, largest_number)
        * 0.5;
    let wanted = index + 1;
    let slices = values.clone().split(SLICE, 1);
    let count_up_to = |thresholds: Tensor<1>| {
        let [ways] = thresholds.dims();
        let thresholds = thresholds.reshape([ways, 1]);
        let counts = slices.iter().map(|values| {
            let shape = [ways, values.dims()[1]];
            let up_to = values.clone().expand(shape);
            let up_to = up_to.lower_equal(thresholds.clone().expand(shape));
            sum_per_row(as_numbers(&up_to, dtype)).reshape([ways])
        });
        counts.reduce(|a, b| a + b).expect("a batch has tokens")
    };
    // How many of the thresholds are too low.
    let passed = |thresholds: Tensor<1>| {
        let wanted = wanted.clone().expand(thresholds.dims());
        let low = count_up_to(thresholds).lower(wanted);
        low.float().cast(dtype).sum()
    };
    let options = (&values.device(), dtype);
    let constants = |numbers: Vec<f64>| {
        let length = numbers.len();
        let data = TensorData::new(numbers, [length]).convert_dtype(dtype);
        Tensor::<1>::from_data(data, options)
    };
    let steps = constants((1..WAYS).map(|step| step as f64).collect());

    let positive: Vec<f64> = (lowest..=highest)
        .map(|exponent| 2.0_f64.powi(exponent))
        .collect();
    let mut powers: Vec<f64> = positive.iter().rev().map(|power| -power).collect();
    powers.push(0.0);
    powers.extend(positive);
    let last = powers.len() - 1;
    let powers = constants(powers);
    let power = |place: Tensor<1>| powers.clone().gather(0, place.clamp_max(last as f64).int());
    let mut place = constants(vec![0.0]);
    let mut span = WAYS.pow(last.ilog(WAYS));
    while span > 0 {
        let places = place.clone().expand([WAYS - 1]) + steps.clone() * span as f64;
        place = place + passed(power(places)) * span as f64;
        span /= WAYS;
    }
    let mut low = power(place.clone());
    let mut high = power(place + 1);
    let mut width = high.clone() - low.clone();
    for _ in 0..digits.div_ceil(WAYS.ilog2()) {
        width = width / WAYS as f64;
        let wide = width.clone().expand([WAYS - 1]);
        let passed = passed(low.clone().expand([WAYS - 1]) + wide * steps.clone());
        let next = low.clone() + width.clone() * (passed.clone() + 1);
        let all = passed.clone().greater_elem((WAYS - 2) as f64);
        high = next.mask_where(all, high);
        low = low + width.clone() * passed;
    }

    // One number of the type is above `low` and not above `high`.
    let high = high.reshape([1, 1]).expand([1, length]);
    let above = values.clone().lower_equal(high).bool_not();
    let found = largest(values.clone().mask_fill(above, -largest_number)) * 2;
    let too_few = passed(constants(vec![2.0_f64.powi(highest)])).greater_elem(0);
    found.mask_fill(too_few, f64::NAN)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn same(values: &[f64], dtype: DType) {
        let device = Device::flex();
        let data = TensorData::new(values.to_vec(), [1, values.len()]).convert_dtype(dtype);
        let x = Tensor::<2>::from_data(data, (&device, dtype));
        for index in 0..values.len() {
            let index = || {
                let data = TensorData::new(vec![index as f64], [1]).convert_dtype(dtype);
                Tensor::<1>::from_data(data, (&device, dtype))
            };
            let number = |x: Tensor<1>| x.into_data().iter::<f64>().next().expect("a number");
            let sorted = number(in_order_by_sorting(x.clone(), index()));
            let counted = number(in_order_by_counting(x.clone(), index()));
            let both_nan = sorted.is_nan() && counted.is_nan();
            assert!(
                sorted == counted || both_nan,
                "{sorted}, {counted}, {values:?}"
            );
        }
    }

    #[test]
    fn counting_finds_what_sorting_finds() {
        let mut state = 1_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as f64 / f64::from(1_u32 << 31)
        };
        for dtype in [DType::F32, DType::F64] {
            let most = match dtype {
                DType::F64 => f64::MAX,
                _ => f64::from(f32::MAX),
            };
            same(&[0.0], dtype);
            same(&[1.5, 1.5, 1.5, -0.0, 0.0], dtype);
            same(&[f64::NAN, 1.0, most, -most, -1.0, f64::NAN, 0.0], dtype);
            same(
                &[1.0, 1.0 + f64::from(f32::EPSILON), 1.0 - 1e-7, 2.0, 0.5],
                dtype,
            );
            // Of every size, and both signs.
            let sizes: Vec<f64> = (0..60)
                .map(|_| (random() - 0.5) * 2.0_f64.powi((random() * 200.0) as i32 - 100))
                .collect();
            same(&sizes, dtype);
            // Whole numbers, many of them the same.
            let ties: Vec<f64> = (0..60).map(|_| (random() * 20.0).floor()).collect();
            same(&ties, dtype);
        }
    }
}
