//! What a mask does: the forms that trainers hold it in, and which tokens count.

use burn::tensor::{Bool, Tensor, TensorData};
use policy_loss::{BatchError, PolicyLossConfig, Reduction, action_mask, action_mask_from_tensor};

use super::sequence_ratio::gspo;
use crate::busy::busy;
use crate::case::Case;
use crate::compare::{Tolerance, bits};
use crate::configs::describe;
use crate::row::Row;
use crate::runner::Runner;

const THIRD: f64 = 1.0 / 3.0;

const MASK: [[u8; 3]; 2] = [[1, 0, 1], [0, 0, 1]];

fn read(mask: Tensor<2, Bool>) -> Vec<bool> {
    let ints = mask.int().try_into_vec_as::<i64>();
    let ints = ints.expect("the mask can be read");
    ints.into_iter().map(|x| x == 1).collect()
}

/// Bools, integers and floats of every width are the same mask.
pub fn every_form(runner: &Runner) {
    let expected: Vec<bool> = MASK.concat().iter().map(|x| *x == 1).collect();
    macro_rules! data {
        ($($type:ty),*) => {
            [$((stringify!($type), TensorData::from(MASK.map(|row| row.map(<$type>::from))))),*]
        };
    }
    let integers = data![u8, i16, u16, i32, u32, i64, u64, f32, f64];
    let halves =
        [("f16", half::f16::from_f32(1.0), half::f16::from_f32(0.0))].map(|(name, one, zero)| {
            let values: Vec<_> = expected
                .iter()
                .map(|x| if *x { one } else { zero })
                .collect();
            (name, TensorData::new(values, [2, 3]))
        });
    let bools = ("bool", TensorData::new(expected.clone(), [2, 3]));
    for (name, data) in integers.into_iter().chain(halves).chain([bools]) {
        let mask = action_mask(data, &runner.device);
        let mask = mask.unwrap_or_else(|error| panic!("{runner}, {name}: {error}"));
        assert_eq!(mask.dims(), [2, 3], "{runner}, {name}");
        assert_eq!(read(mask), expected, "{runner}, {name}");
    }
    for dtype in [runner.exact_dtypes(), runner.half_dtypes()].concat() {
        let floats: Vec<f64> = MASK.concat().into_iter().map(f64::from).collect();
        let tensor = runner.tensor(&floats, [2, 3], dtype);
        let mask = action_mask_from_tensor(tensor);
        let mask = mask.unwrap_or_else(|error| panic!("{runner}, {dtype:?}: {error}"));
        assert_eq!(read(mask), expected, "{runner}, {dtype:?}");
    }
    let empty = action_mask(TensorData::new(Vec::<bool>::new(), [0, 3]), &runner.device);
    assert_eq!(empty.expect("it is a mask").dims(), [0, 3]);
}

/// A weight is no mask: the error says which value stands where.
pub fn other_values_are_refused(runner: &Runner) {
    for wrong in [0.5, 2.0, -1.0, 1e-9, f64::NAN, f64::INFINITY] {
        let floats = [1.0, 0.0, 1.0, 0.0, wrong, 2.0];
        let data = TensorData::new(floats.to_vec(), [2, 3]);
        let tensor: Tensor<2> = runner.tensor(&floats, [2, 3], burn::tensor::DType::F32);
        for result in [
            action_mask(data, &runner.device),
            action_mask_from_tensor(tensor),
        ] {
            let error = result.expect_err("no mask");
            assert!(error.to_string().contains("action_mask"), "{error}");
            match error {
                BatchError::MaskValue { value, index } => {
                    assert_eq!(index, 4, "{runner}");
                    // The tensor holds it in f32.
                    let near = Tolerance::of(1e-6).accepts(value, wrong);
                    assert!(near, "{runner}: {value} is not {wrong}");
                }
                other => panic!("{runner}: {other:?}"),
            }
        }
    }
    let integers = TensorData::from([[0i64, 1, 2]]);
    let error = action_mask(integers, &runner.device).expect_err("no mask");
    let expected = BatchError::MaskValue {
        value: 2.0,
        index: 2,
    };
    assert_eq!(error, expected, "{runner}");
    let vector = TensorData::from([0i64, 1]);
    let error = action_mask(vector, &runner.device).expect_err("no mask");
    assert!(
        matches!(error, BatchError::Shape { .. }),
        "{runner}: {error:?}"
    );
}

/// Tokens that are not valid take part in nothing, wherever they lie.
pub fn only_valid_tokens_count(runner: &Runner) {
    let mut case = Case::new("a masked row", [2, 3]);
    case.log_probs = vec![0.0, 0.0, 0.0, 0.5, 0.5, 0.5];
    case.action_mask = Some(vec![true, true, true, false, false, false]);
    for reduction in [Reduction::TokenMean, Reduction::SequenceMean] {
        case.config = PolicyLossConfig::new().with_reduction(reduction);
        Row::of(case.clone())
            .loss(-1.0)
            .gradient(&[-THIRD, -THIRD, -THIRD, 0.0, 0.0, 0.0])
            .metric("valid_tokens", 3.0)
            .metric("valid_sequences", 1.0)
            .check(runner);
    }
    let ratio = 0.1f64.exp();
    for config in [PolicyLossConfig::new(), gspo()] {
        Row::new("a hole", &[0.1, 5.0, 0.1])
            .config(config)
            .mask(&[true, false, true])
            .loss(-ratio)
            .gradient(&[-ratio / 2.0, 0.0, -ratio / 2.0])
            .check(runner);
        Row::new("padding in front", &[5.0, 5.0, 0.1])
            .config(config)
            .mask(&[false, false, true])
            .loss(-ratio)
            .gradient(&[0.0, 0.0, -ratio])
            .check(runner);
    }
}

/// Without a mask, every token is valid, in every mode.
pub fn no_mask(runner: &Runner) {
    for config in runner.configs() {
        let mut case = busy(1).with_config(config);
        case.name = format!("no mask, {}", describe(&config));
        case.action_mask = Some(vec![true; 24]);
        for dtype in runner.exact_dtypes() {
            let masked = runner.outcome(&case, dtype);
            let absent = runner.outcome(
                &Case {
                    action_mask: None,
                    ..case.clone()
                },
                dtype,
            );
            let what = format!("{runner}, {dtype:?}, {}", case.name);
            assert_eq!(bits(&masked), bits(&absent), "{what}");
            assert_eq!(absent.metrics.valid_tokens, 24.0, "{what}");
        }
    }
}
