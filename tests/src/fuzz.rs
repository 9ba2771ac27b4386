//! What fuzzing checks of losses and of heads, as functions of bytes. The targets in `fuzz/` call them, and so
//! does a test, with every input that was once found.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use burn::tensor::{DType, Tensor};
use policy_loss::{Entropy, GlobalTotals, MissingRolloutLogProbs, PolicyLossConfig, Sum};
use policy_loss_kernels::Kind;
use policy_loss_oracle::{Answer, Random};
use serde_json::Value;

use crate::case::{Case, HostAdvantages, round};
use crate::compare::{Tolerance, assert_all_near};
use crate::configs::{self, describe};
use crate::log_probs::case::HeadCase;
use crate::log_probs::suite::distillation::{self, DIVERGENCES};
use crate::log_probs::suite::{self as head, Layout};
use crate::runner::{IMPLEMENTATIONS, Mode, Runner, values};

/// Tokens of a sequence; a vector unit holds up to 16 of them.
const LENGTHS: [usize; 8] = [1, 2, 3, 5, 8, 17, 33, 70];

/// A random batch under a random objective: what each implementation on Flex and NdArray makes of it is
/// what the oracle says. Whether it was compared: not where the objective has no meaning, nor where a
/// decision is a matter of rounding.
///
/// # Panics
///
/// Two of them do not agree.
pub fn losses(bytes: &[u8]) -> bool {
    let mut bytes = Bytes::new(bytes);
    let Some(config) = config(&mut bytes) else {
        return false;
    };
    let dtype = bytes.pick(&[DType::F64, DType::F32]);
    let case = case(config, &mut bytes);
    let answer = case.rounded(dtype, dtype).answer();
    let least_margin = match dtype {
        DType::F64 => 1e-9,
        _ => 1e-4,
    };
    if answer.margin < least_margin {
        return false;
    }
    for runner in runners() {
        if runner.covers(&config) {
            compare(runner, &case, dtype, &answer);
        }
    }
    true
}

/// Random logits, sharp ones among them, with all that changes them, and those of a teacher: what each
/// implementation on Flex and NdArray makes of a head that hands them through is what the oracle says.
///
/// # Panics
///
/// Two of them do not agree.
pub fn heads(bytes: &[u8]) {
    let mut bytes = Bytes::new(bytes);
    let dtype = bytes.pick(&[DType::F64, DType::F32]);
    let case = head_case(dtype, &mut bytes);
    let chunk = bytes.pick(&[None, Some(1), Some(2)]);
    let divergence = bytes.pick(&DIVERGENCES);
    let of_logits = [(); 2].map(|()| bytes.is_one_of(2));
    let mut student = case.clone();
    (student.kept, student.temperatures) = (None, None);
    let mut teacher = student.clone();
    teacher
        .hidden
        .iter_mut()
        .for_each(|x| *x = round(dtype, bytes.around(10.0)));
    let answer = case.answer();
    let epsilon = match dtype {
        DType::F64 => f64::EPSILON,
        _ => f64::from(f32::EPSILON),
    };
    let size = |case: &HeadCase, coldest: f64| {
        let logits = case.answer().logits.into_iter().map(f64::abs);
        let logits = logits.fold(1.0, f64::max);
        case.softcap.map_or(logits, |cap| cap.min(logits).max(1.0)) / coldest
    };
    let valid = (0..case.shape[0]).filter(|token| case.is_valid(*token));
    let temperatures = case.temperatures.as_ref();
    let temperature = |token| temperatures.map_or(case.temperature, |it| it[token]);
    let coldest = valid.map(temperature).fold(1.0, f64::min);
    let largest = answer.logits.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
    let tolerance = |size: f64, off: f64| Tolerance {
        relative: off,
        absolute: off * size,
    };
    // A logit is rounded where it is divided by the temperature: by as much probabilities are off.
    let off = 16.0 * epsilon * size(&case, coldest);
    // A probability times the logarithm of one, times the gradients that reach them.
    let slope = 8.0 / coldest;
    let off_pair = 16.0 * epsilon * size(&student, student.temperature.min(1.0));
    let distance = size(&student, student.temperature).max(size(&teacher, student.temperature));
    let of_rows = distance * 2.0 / student.temperature;
    let of_pair = [distance, of_rows, of_rows * (1.0 + largest)].map(|it| tolerance(it, off_pair));
    for runner in runners() {
        let config = head::config(runner, &case, Entropy::Tracked).with_chunk_tokens(chunk);
        let outcome = head::linear(runner, &case, config, Layout::Linear, dtype);
        let what = format!("{runner}, {dtype:?}, {chunk:?}, {case:?}");
        let near = |name: &str, actual: Option<&Vec<f64>>, expected: &[f64], size: f64| {
            let actual = actual.unwrap_or_else(|| panic!("no {name} of {what}"));
            assert_all_near(
                tolerance(size, off),
                &format!("{name} of {what}"),
                actual,
                expected,
            );
        };
        let log_probs = Some(&outcome.log_probs);
        near("log_probs", log_probs, &answer.log_probs, 1.0);
        let entropies = outcome.entropies.as_ref();
        near("entropies", entropies, &answer.entropies, 4.0);
        if case.squares_gradient.is_some() {
            let squares = outcome.sums_of_squares.as_ref();
            near("sums_of_squares", squares, &answer.sums_of_squares, 1.0);
        }
        let gradient = outcome.hidden_gradient.as_ref();
        near("logits' gradient", gradient, &answer.hidden_gradient, slope);
        let rows = gradient
            .expect("it was there")
            .chunks(case.shape[1])
            .enumerate();
        for (token, row) in rows.filter(|(token, _)| !case.is_valid(*token)) {
            let is_zero = row.iter().all(|x| *x == 0.0) && outcome.log_probs[token] == 0.0;
            assert!(is_zero, "masked token {token} of {what}");
        }
        let gradient = outcome.weight_gradient.as_ref();
        let size = slope * (1.0 + largest);
        near("weight's gradient", gradient, &answer.weight_gradient, size);
        let how = (of_logits, chunk, dtype);
        let what = format!("{what}, {of_logits:?}, {divergence:?}");
        let pair = [&student, &teacher];
        distillation::compare(runner, pair, divergence, how, (of_pair, &what));
    }
}

fn head_case(dtype: DType, bytes: &mut Bytes) -> HeadCase {
    let tokens = bytes.pick(&[1, 2, 3, 5]);
    let vocabulary = bytes.pick(&[1, 2, 3, 8, 17, 33]);
    let scale = match dtype {
        DType::F64 => bytes.pick(&[1.0, 10.0, 100.0, 1e4]),
        // Larger ones are rounded to nothing that could be compared.
        _ => bytes.pick(&[1.0, 10.0, 30.0, 100.0]),
    };
    let mut case = HeadCase::new(0, [tokens, vocabulary, vocabulary]);
    let one = |i: usize| f64::from(u8::from(i.is_multiple_of(vocabulary + 1)));
    case.weight = (0..vocabulary * vocabulary).map(one).collect();
    let mut number = |most: f64| round(dtype, bytes.around(most));
    case.hidden = (0..tokens * vocabulary).map(|_| number(scale)).collect();
    case.log_prob_gradient = (0..tokens).map(|_| number(2.0)).collect();
    case.entropy_gradient = (0..tokens).map(|_| number(2.0)).collect();
    let squares = (0..tokens).map(|_| number(2.0)).collect();
    case.squares_gradient = Some(squares).filter(|_| bytes.is_one_of(2));
    let words = vocabulary as u8;
    case.targets = (0..tokens)
        .map(|_| i64::from(bytes.next() % words))
        .collect();
    case.temperature = bytes.pick(&[1.0, 0.5, 2.25]);
    case.softcap = bytes.pick(&[None, Some(3.0), Some(50.0)]);
    if bytes.is_one_of(3) {
        let temperatures = (0..tokens).map(|_| bytes.pick(&[1.0, 0.25, 1.5]));
        case.temperatures = Some(temperatures.collect());
        case.temperature = 1.0;
    }
    if bytes.is_one_of(3) {
        let kept = (0..tokens).map(|_| {
            let count = bytes.next() % 6;
            (0..count)
                .map(|_| u32::from(bytes.next() % words))
                .collect()
        });
        case.kept = Some(kept.collect());
    }
    if bytes.is_one_of(3) {
        let mask: Vec<bool> = (0..tokens).map(|_| !bytes.is_one_of(3)).collect();
        let garbage = bytes.pick(&[0.0, f64::NAN, f64::INFINITY, 1e30]);
        for (row, is_valid) in case.hidden.chunks_mut(vocabulary).zip(&mask) {
            if !is_valid {
                row.fill(garbage);
            }
        }
        case.mask = Some(mask);
    }
    case
}

/// Numbers from bytes; all that follow the last one are 0.
struct Bytes<'bytes> {
    rest: &'bytes [u8],
    dither: Random,
}

impl<'bytes> Bytes<'bytes> {
    fn new(bytes: &'bytes [u8]) -> Self {
        Self {
            rest: bytes,
            dither: Random(0),
        }
    }

    fn next(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((first, rest)) => {
                self.rest = rest;
                *first
            }
            None => 0,
        }
    }

    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[usize::from(self.next()) % values.len()]
    }

    /// Whether something happens that does so in one of `many`.
    fn is_one_of(&mut self, many: u8) -> bool {
        self.next() % many == 1
    }

    /// In `[low, high)`; no two are the same, so that none meets a bound.
    fn between(&mut self, low: f64, high: f64) -> f64 {
        let place = (f64::from(self.next()) + self.dither.between(0.0, 1.0)) / 256.0;
        low + (high - low) * place
    }

    /// Around 0, most of them small.
    fn around(&mut self, most: f64) -> f64 {
        most * self.between(-1.0, 1.0).powi(3)
    }
}

/// Parts of the objectives that the suite lists, put together anew, and some of their numbers
/// changed. As JSON, so that a part that is new comes by itself.
fn config(bytes: &mut Bytes) -> Option<PolicyLossConfig> {
    static LISTED: OnceLock<(Vec<Value>, BTreeSet<String>)> = OnceLock::new();
    let (listed, parts) = LISTED.get_or_init(|| {
        let configs = configs::all().into_iter();
        let listed: Vec<Value> = configs
            .map(|config| serde_json::to_value(config).expect("plain data"))
            .collect();
        let parts = listed.iter().filter_map(Value::as_object);
        let parts = parts.flat_map(|parts| parts.keys().cloned()).collect();
        (listed, parts)
    });
    let chosen = parts.iter().filter_map(|part| {
        let nth = usize::from(bytes.next()) % listed.len();
        Some((part.clone(), listed[nth].get(part)?.clone()))
    });
    let mut json = Value::Object(chosen.collect());
    change_numbers(&mut json, bytes);
    let config: PolicyLossConfig = serde_json::from_value(json).expect("numbers in their places");
    config.init().is_ok().then_some(config)
}

fn change_numbers(json: &mut Value, bytes: &mut Bytes) {
    match json {
        Value::Object(fields) => fields.values_mut().for_each(|it| change_numbers(it, bytes)),
        Value::Array(items) => items.iter_mut().for_each(|it| change_numbers(it, bytes)),
        Value::Number(number) => {
            if let (Some(old), true) = (number.as_f64(), number.is_f64() && bytes.is_one_of(3)) {
                *json = Value::from(old * bytes.between(-2.0, 2.0).exp2());
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

fn case(config: PolicyLossConfig, bytes: &mut Bytes) -> Case {
    let shape = [bytes.pick(&[1, 2, 3, 4]), bytes.pick(&LENGTHS)];
    let length = shape[0] * shape[1];
    let mut case = Case::new("fuzz", shape).with_config(config);
    // Beyond 20 a log-ratio is clamped.
    let most = bytes.pick(&[0.01, 3.0, 3.0, 25.0]);
    case.on_policy = bytes.is_one_of(8);
    if bytes.is_one_of(2) {
        let mask = (0..length).map(|_| !bytes.is_one_of(4)).collect();
        case.action_mask = Some(mask);
    }
    case.advantages = match bytes.pick(&[2, 2, 0, 1]) {
        0 => HostAdvantages::Sequence(advantages(shape[0], bytes)),
        1 => HostAdvantages::Column(advantages(shape[0], bytes)),
        _ => HostAdvantages::Token(advantages(length, bytes)),
    };
    let can_miss = config.objective.missing_rollout_log_probs != MissingRolloutLogProbs::Propagate;
    let mut rollout = vec![0.0; length];
    let mut reference = vec![0.0; length];
    let mut entropies = vec![0.0; length];
    for i in 0..length {
        case.old_log_probs[i] = bytes.between(-6.0, 0.0);
        case.log_probs[i] = case.old_log_probs[i] + bytes.around(most);
        rollout[i] = match can_miss && bytes.is_one_of(8) {
            true => f64::NAN,
            false => case.old_log_probs[i] - bytes.around(3.0),
        };
        reference[i] = case.log_probs[i] - bytes.around(2.0);
        entropies[i] = bytes.between(0.0, 3.0);
    }
    let garbage = bytes.pick(&[0.0, f64::NAN, f64::INFINITY, 1e30]);
    case.rollout_log_probs = Some(rollout);
    case.ref_log_probs = Some(reference);
    case.entropies = Some(entropies);
    let masked: Vec<usize> = (0..length).filter(|i| !case.is_valid(*i)).collect();
    for (name, column) in case.columns_mut() {
        if name != "advantages" {
            masked.iter().for_each(|i| column[*i] = garbage);
        }
    }
    case.segment_ids = bytes
        .is_one_of(2)
        .then(|| (0..length).map(|_| bytes.pick(&[0, 0, 0, 1])).collect());
    case.prompt_ids = Some((0..shape[0]).map(|_| bytes.pick(&[0, 1, 2])).collect());
    if bytes.is_one_of(3) {
        let (prompts, tokens) = case.count_prompts();
        case.prompt_tokens = Some(tokens.iter().map(|tokens| tokens + 3).collect());
        case.totals = Some(
            GlobalTotals::new()
                .with_tokens(case.valid_tokens() + 5)
                .with_sequences(case.valid_sequences() + 2)
                .with_prompts(prompts + 1)
                .with_world_size(bytes.pick(&[1, 2, 7])),
        );
        case.entropy_threshold = Some(bytes.between(0.0, 3.0));
        case.second_moment_limit = Some(bytes.between(0.0, 0.5));
    }
    case
}

fn advantages(length: usize, bytes: &mut Bytes) -> Vec<f64> {
    let advantage = |_| match bytes.next() {
        // Neither good nor bad.
        7 => 0.0,
        _ => bytes.between(-2.0, 2.0),
    };
    (0..length).map(advantage).collect()
}

fn runners() -> &'static [Runner] {
    static RUNNERS: OnceLock<Vec<Runner>> = OnceLock::new();
    RUNNERS.get_or_init(|| {
        let probes = [
            (policy_loss_flex::BACKEND, policy_loss_flex::device()),
            (policy_loss_ndarray::BACKEND, policy_loss_ndarray::device()),
        ];
        let probes = probes.into_iter();
        let runners = probes.flat_map(|(backend, device)| {
            let device = device.expect("every machine has it").autodiff();
            IMPLEMENTATIONS.map(|implementation| Runner {
                backend,
                device: device.clone(),
                hardware: policy_loss::device::Hardware::Cpu,
                mode: Mode::Autodiff,
                implementation,
            })
        });
        runners.collect()
    })
}

/// How far results lie from those of the oracle, in proportion to what their rounding errors are
/// relative to: ten times as far as any of 4,000 did. A wrong formula is further off.
fn relative(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-13,
        _ => 1e-5,
    }
}

fn compare(runner: &Runner, case: &Case, dtype: DType, answer: &Answer) {
    let shape = [case.sequences, case.tokens];
    let what = format!("{runner}, {dtype:?}, {shape:?}, {}", describe(&case.config));
    let near = |name: &str, got: f64, want: f64, size: f64| {
        let tolerance = Tolerance {
            relative: 0.0,
            // What is smaller is what the oracle's own differences leave.
            absolute: relative(dtype) * size + 1e-17,
        };
        let name = format!("{name} of {what}: got {got:e}, expected {want:e}, size {size:e}");
        assert!(tolerance.accepts(got, want), "{name}");
    };
    let leaf = runner.leaf(case, dtype);
    let entropies = case.entropies.as_ref().expect("it has some");
    let entropies: Tensor<2> = runner.tracked(entropies, shape, dtype);
    let batch = runner.batch(case, leaf.clone(), dtype);
    let batch = batch.with_entropies(entropies.clone());
    let output = runner.forward(&what, &runner.init(&case.config), batch);
    let loss = output.read().expect("the output can be read").loss;
    near("loss", loss, answer.loss, answer.sizes.loss);
    let sums = output.metrics.sums().expect("sums can be read").to_row();
    let wanted = answer.sums.to_row().into_iter();
    let wanted = wanted.zip(answer.sizes.sums.to_row());
    for ((sum, got), (want, size)) in Sum::ALL.iter().zip(sums).zip(wanted) {
        match sum.kind() {
            Kind::Count => near(sum.name(), got, want, 0.0),
            Kind::Sum | Kind::Least | Kind::Largest => near(sum.name(), got, want, size),
        }
    }
    let gradients = output.loss.backward();
    let gradient = leaf.grad(&gradients).expect("log_probs have a gradient");
    for (i, got) in values(gradient).into_iter().enumerate() {
        let name = format!("gradient {i}");
        near(&name, got, answer.gradient[i], answer.sizes.gradient[i]);
        assert!(case.is_valid(i) || got.to_bits() == 0, "{name} of {what}");
    }
    let of_entropies = entropies.grad(&gradients);
    assert_eq!(
        of_entropies.is_some(),
        case.config.objective.entropy_bonus.is_some(),
        "{what}"
    );
    for (i, got) in of_entropies.map(values).into_iter().flatten().enumerate() {
        let want = answer.entropy_gradient[i];
        near(&format!("gradient of entropy {i}"), got, want, want.abs());
    }
}
