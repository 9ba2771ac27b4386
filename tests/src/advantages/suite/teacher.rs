//! A teacher's log-probs in the advantages.

use burn::tensor::{DType, Tensor};
use policy_loss::{
    Advantages, BatchError, ReverseKlAdvantage, TeacherBatch, TeacherFactor, TeacherOutput,
    TeacherSignalConfig as Config,
};
use policy_loss_oracle::Random;

use crate::advantages::oracle::taught;
use crate::case::round;
use crate::compare::{Tolerance, assert_all_near, assert_names, assert_near};
use crate::runner::{Mode, Runner, values};

/// A batch on the host.
#[derive(Clone)]
pub(super) struct Case {
    pub shape: [usize; 2],
    pub teacher: Vec<f64>,
    pub log_probs: Vec<f64>,
    /// Absent: the teacher alone.
    pub advantages: Option<Vec<f64>>,
    pub mask: Vec<bool>,
}

impl Case {
    fn random(shape: [usize; 2], seed: u64) -> Self {
        let random = &mut Random(seed);
        let mut numbers = |from: f64, to: f64| -> Vec<f64> {
            let one = |_| round(DType::F32, random.between(from, to));
            (0..shape[0] * shape[1]).map(one).collect()
        };
        let mut advantages = numbers(-2.0, 2.0);
        // Some say nothing.
        advantages.iter_mut().step_by(5).for_each(|a| *a = 0.0);
        Self {
            shape,
            teacher: numbers(-3.0, 0.0),
            log_probs: numbers(-3.0, 0.0),
            advantages: Some(advantages),
            mask: numbers(0.0, 3.0).iter().map(|x| *x > 1.0).collect(),
        }
    }

    fn taught(&self, signal: &Config) -> Vec<f64> {
        let width = self.shape[1];
        let zeros = vec![0.0; self.mask.len()];
        let advantages = self.advantages.as_ref().unwrap_or(&zeros);
        let rows = (0..self.shape[0]).map(|b| b * width..(b + 1) * width);
        rows.flat_map(|row| {
            let pairs = self.teacher[row.clone()]
                .iter()
                .zip(&self.log_probs[row.clone()]);
            let gaps: Vec<f64> = pairs.map(|(t, l)| t - l).collect();
            taught(signal, &advantages[row.clone()], &gaps, &self.mask[row])
        })
        .collect()
    }

    fn batch(&self, runner: &Runner, dtype: DType) -> TeacherBatch {
        let tensor = |values: &[f64]| -> Tensor<2> { runner.tensor(values, self.shape, dtype) };
        let log_probs = runner.tracked(&self.log_probs, self.shape, dtype);
        let mut batch = TeacherBatch::new(tensor(&self.teacher), log_probs)
            .with_action_mask(runner.mask(&self.mask, self.shape));
        if let Some(advantages) = &self.advantages {
            batch = batch.with_advantages(tensor(advantages));
        }
        batch
    }

    pub(super) fn run(&self, runner: &Runner, config: Config, dtype: DType) -> TeacherOutput {
        let output = config
            .init()
            .expect("sound")
            .forward(self.batch(runner, dtype));
        output.unwrap_or_else(|error| panic!("{runner}: {config:?}: {error}"))
    }
}

fn configs() -> Vec<Config> {
    vec![
        ReverseKlAdvantage::new(1.0).into(),
        ReverseKlAdvantage::new(0.3).with_clamp(0.5).into(),
        ReverseKlAdvantage::new(0.3).with_discount(0.9).into(),
        ReverseKlAdvantage::new(1.0).with_discount(1.0).into(),
        ReverseKlAdvantage::new(1.0).with_early_weight(0.5).into(),
        ReverseKlAdvantage::new(0.7)
            .with_clamp(1.0)
            .with_discount(0.5)
            .with_early_weight(2.0)
            .into(),
        TeacherFactor::default().into(),
        TeacherFactor::default().with_mix(1.0).with_clip(1.0).into(),
        TeacherFactor::default().with_negative_only(true).into(),
    ]
}

fn tolerance(dtype: DType) -> Tolerance {
    match dtype {
        DType::F64 => Tolerance::of(1e-12),
        _ => Tolerance::of(1e-5),
    }
}

/// Random batches with holes in the mask, with advantages and, where they can do without, alone.
pub fn agrees_with_the_oracle(runner: &Runner) {
    let shapes: &[[usize; 2]] = match runner.is_slow() {
        true => &[[3, 5]],
        false => &[[1, 1], [1, 7], [6, 1], [3, 5], [5, 12]],
    };
    for (seed, shape) in shapes.iter().enumerate() {
        let case = Case::random(*shape, seed as u64);
        let mut alone = case.clone();
        alone.advantages = None;
        let gap = alone.taught(&ReverseKlAdvantage::new(1.0).into());
        let count = case.mask.iter().filter(|valid| **valid).count().max(1);
        let mean = gap.iter().sum::<f64>() / count as f64;
        for config in configs() {
            for dtype in runner.exact_dtypes() {
                let what = format!("{runner}, {dtype:?}, {shape:?}, {config:?}");
                let output = case.run(runner, config, dtype);
                assert_eq!(output.advantages.dims(), *shape, "{what}");
                let actual = values(output.advantages);
                assert_all_near(tolerance(dtype), &what, &actual, &case.taught(&config));
                assert_all_near(tolerance(dtype), &what, &values(output.gap), &gap);
                assert_near(tolerance(dtype), &what, values(output.mean_gap)[0], mean);
                if matches!(config, Config::ReverseKl(_)) {
                    let actual = values(alone.run(runner, config, dtype).advantages);
                    assert_all_near(tolerance(dtype), &what, &actual, &alone.taught(&config));
                }
            }
        }
    }
}

/// Whatever stands at masked positions changes no bit.
pub fn masked_content_changes_nothing(runner: &Runner) {
    let kinds = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e30, 7.0];
    let clean = Case::random([3, 5], 3);
    let mut case = clean.clone();
    let mut kind = kinds.iter().cycle();
    for i in (0..15).filter(|i| !clean.mask[*i]) {
        case.teacher[i] = *kind.next().expect("endless");
        case.log_probs[i] = *kind.next().expect("endless");
        case.advantages.as_mut().expect("given")[i] = *kind.next().expect("endless");
    }
    for config in configs() {
        for dtype in runner.exact_dtypes() {
            let one = values(clean.run(runner, config, dtype).advantages);
            let two = values(case.run(runner, config, dtype).advantages);
            let bits = |x: Vec<f64>| -> Vec<u64> { x.into_iter().map(f64::to_bits).collect() };
            assert_eq!(bits(one), bits(two), "{runner}, {dtype:?}, {config:?}");
        }
    }
}

/// One advantage a sequence, in both forms.
pub fn sequence_advantages(runner: &Runner) {
    let dtype = DType::F32;
    let tensor = |values: &[f64]| -> Tensor<2> { runner.tensor(values, [2, 2], dtype) };
    let column: Tensor<2> = runner.tensor(&[1.0, -1.0], [2, 1], dtype);
    let list: Tensor<1> = runner.tensor(&[1.0, -1.0], [2], dtype);
    for advantages in [Advantages::from(column), Advantages::from(list)] {
        let teacher = tensor(&[-1.0, -0.5, -2.0, -0.25]);
        let batch = TeacherBatch::new(teacher, tensor(&[-1.0; 4])).with_advantages(advantages);
        let signal = Config::from(ReverseKlAdvantage::new(1.0))
            .init()
            .expect("sound");
        let actual = values(signal.forward(batch).expect("accepted").advantages);
        assert_all_near(tolerance(dtype), "sum", &actual, &[1.0, 1.5, -2.0, -0.25]);
    }
}

/// Nothing flows into what the advantages were made of.
pub fn no_gradient_flows(runner: &Runner) {
    if runner.mode == Mode::Plain {
        return;
    }
    let tracked = |values: &[f64]| -> Tensor<2> { runner.tracked(values, [1, 3], DType::F32) };
    for config in configs() {
        let inputs = [[-1.0; 3], [-0.5; 3], [2.0; 3]].map(|x| tracked(&x));
        let [teacher, log_probs, advantages] = inputs.clone();
        let batch = TeacherBatch::new(teacher, log_probs).with_advantages(advantages);
        let output = config
            .init()
            .expect("sound")
            .forward(batch)
            .expect("accepted");
        let weights = tracked(&[1.0, 2.0, 3.0]);
        let gradients = (output.advantages * weights.clone()).sum().backward();
        assert!(weights.grad(&gradients).is_some(), "{runner}: {config:?}");
        for input in inputs {
            assert!(input.grad(&gradients).is_none(), "{runner}: {config:?}");
        }
    }
}

/// What the teacher has not scored is an error, never 0, unless it is masked.
pub fn missing_log_probs(runner: &Runner) {
    for value in [f64::NAN, f64::NEG_INFINITY, f64::INFINITY] {
        for config in configs() {
            let mut case = Case::random([2, 3], 1);
            case.mask = vec![true, false, true, true, true, true];
            case.teacher[1] = f64::NAN;
            case.run(runner, config, DType::F32);
            case.teacher[3] = value;
            let batch = case.batch(runner, DType::F32);
            let error = config.init().expect("sound").forward(batch);
            let error = error.expect_err("it is refused");
            let BatchError::NotFinite {
                tensor: "teacher_log_probs",
                value: found,
                index: 3,
                ..
            } = error
            else {
                panic!("{runner}: {error:?}");
            };
            assert_eq!(found.to_bits() << 12 == 0, value.to_bits() << 12 == 0);
            assert!(error.to_string().contains("accepted: finite"), "{error}");
        }
    }
}

/// Shapes that do not belong together, and advantages that are needed.
pub fn errors(runner: &Runner) {
    let zeros = |shape: [usize; 2]| Tensor::<2>::zeros(shape, &runner.device);
    let new = || TeacherBatch::new(zeros([2, 3]), zeros([2, 3]));
    let cases = [
        (
            TeacherBatch::new(zeros([3, 2]), zeros([2, 3])),
            "teacher_log_probs",
        ),
        (new().with_advantages(zeros([3, 2])), "advantages"),
        (new().with_advantages(zeros([3, 1])), "advantages"),
        (
            new().with_action_mask(zeros([2, 2]).equal_elem(0)),
            "action_mask",
        ),
    ];
    let signal = Config::from(ReverseKlAdvantage::default())
        .init()
        .expect("sound");
    for (batch, name) in cases {
        let error = signal.forward(batch).expect_err("it is refused");
        assert!(
            matches!(error, BatchError::Shape { tensor, .. } if tensor == name),
            "{runner}: {error:?}"
        );
    }
    let factor = Config::from(TeacherFactor::default());
    let result = factor.init().expect("sound").forward(new());
    let error = result.expect_err("it is refused");
    assert_names(&error, &["TeacherBatch::with_advantages"]);
}

/// No token at all, and none that is valid.
pub fn nothing(runner: &Runner) {
    for config in configs() {
        let signal = config.init().expect("sound");
        for shape in [[0, 3], [2, 0]] {
            let empty: Tensor<2> = runner.tensor(&[], shape, DType::F32);
            let batch = TeacherBatch::new(empty.clone(), empty.clone()).with_advantages(empty);
            let output = signal.forward(batch).expect("accepted");
            assert_eq!(output.advantages.dims(), shape, "{runner}");
            assert_eq!(values(output.mean_gap), [0.0], "{runner}");
        }
        let mut case = Case::random([2, 3], 1);
        case.mask = vec![false; 6];
        case.teacher = vec![f64::NAN; 6];
        let output = case.run(runner, config, DType::F32);
        assert_eq!(values(output.advantages), [0.0; 6], "{runner}");
        assert_eq!(values(output.mean_gap), [0.0], "{runner}");
    }
}
