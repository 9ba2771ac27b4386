//! Hidden states, a head, and what follows from them.

use policy_loss::KeptTokens;
use policy_loss_oracle::Random;

use super::oracle;

/// Hidden states and a head. Every number is exact in every float type.
#[derive(Debug, Clone)]
pub struct HeadCase {
    /// Tokens, length of a hidden state, vocabulary.
    pub shape: [usize; 3],
    /// `[N, H]`.
    pub hidden: Vec<f64>,
    /// `[H, V]`.
    pub weight: Vec<f64>,
    /// `[V]`.
    pub bias: Option<Vec<f64>>,
    /// `[N, V]`, in place of what hidden states and head come to.
    pub logits: Option<Vec<f64>>,
    /// `[N]`.
    pub targets: Vec<i64>,
    /// `[N]`.
    pub mask: Option<Vec<bool>>,
    /// What the sampler kept at each token, beside the target.
    pub kept: Option<Vec<Vec<u32>>>,
    /// What logits are divided by.
    pub temperature: f64,
    /// One for each token in place of it.
    pub temperatures: Option<Vec<f64>>,
    /// Where logits are bounded before that.
    pub softcap: Option<f64>,
    /// The gradient that reaches each log-prob.
    pub log_prob_gradient: Vec<f64>,
    /// The gradient that reaches each entropy.
    pub entropy_gradient: Vec<f64>,
    /// The gradient that reaches each sum of squared probabilities; absent where they are not asked
    /// for.
    pub squares_gradient: Option<Vec<f64>>,
}

/// What a case comes to.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct HeadAnswer {
    pub logits: Vec<f64>,
    pub log_probs: Vec<f64>,
    pub entropies: Vec<f64>,
    pub sums_of_squares: Vec<f64>,
    pub logits_gradient: Vec<f64>,
    pub hidden_gradient: Vec<f64>,
    pub weight_gradient: Vec<f64>,
    pub bias_gradient: Vec<f64>,
}

impl HeadCase {
    /// A case out of a seed, without bias, mask and temperature.
    pub fn new(seed: u64, shape: [usize; 3]) -> Self {
        let [tokens, width, vocabulary] = shape;
        let mut random = Random(seed);
        let mut grid = |count: usize, steps: f64, unit: f64| -> Vec<f64> {
            (0..count)
                .map(|_| random.between(-steps, steps).round() * unit)
                .collect()
        };
        Self {
            shape,
            hidden: grid(tokens * width, 32.0, 0.0625),
            weight: grid(width * vocabulary, 32.0, 0.0625),
            bias: None,
            logits: None,
            targets: (0..tokens).map(|i| (i * 7 % vocabulary) as i64).collect(),
            mask: None,
            kept: None,
            temperature: 1.0,
            temperatures: None,
            softcap: None,
            log_prob_gradient: grid(tokens, 8.0, 0.25),
            entropy_gradient: grid(tokens, 8.0, 0.25),
            squares_gradient: None,
        }
    }

    /// Adds a bias.
    pub fn with_bias(mut self) -> Self {
        let vocabulary = self.shape[2];
        let bias = (0..vocabulary).map(|word| (word * 5 % 17) as f64 * 0.125 - 1.0);
        self.bias = Some(bias.collect());
        self
    }

    /// Masks tokens, and puts what a mask has to keep out where it is false.
    pub fn with_mask(mut self, is_valid: fn(usize) -> bool) -> Self {
        let [tokens, width, _] = self.shape;
        let mask: Vec<bool> = (0..tokens).map(is_valid).collect();
        let garbage = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e4];
        for token in (0..tokens).filter(|token| !mask[*token]) {
            for column in 0..width {
                self.hidden[token * width + column] = garbage[(token + column) % 4];
            }
            self.targets[token] = [-100, 1 << 30][token % 2];
        }
        self.mask = Some(mask);
        self
    }

    /// Keeps some words: none, all, a few of which some stand there twice, with and without the
    /// target.
    pub fn with_kept(mut self) -> Self {
        let [tokens, _, vocabulary] = self.shape;
        let list = |token: usize| -> Vec<u32> {
            let words = 0..vocabulary as u32;
            match token % 4 {
                0 => words.rev().filter(|word| word % 3 != 1).collect(),
                1 => words.clone().chain(words).collect(),
                2 => Vec::new(),
                _ => words.cycle().skip(2).step_by(7).take(9).collect(),
            }
        };
        self.kept = Some((0..tokens).map(list).collect());
        self
    }

    /// What was kept, as the library takes it.
    pub fn kept_tokens(&self) -> Option<KeptTokens> {
        let lists = self.kept.as_ref()?;
        let mut offsets = vec![0];
        offsets.extend(lists.iter().scan(0, |end, list| {
            *end += list.len();
            Some(*end)
        }));
        Some(KeptTokens::new(lists.concat(), offsets))
    }

    /// Makes logits exact in every type, also after a product.
    pub fn exact_in_half_types(mut self) -> Self {
        for weight in &mut self.weight {
            *weight = (*weight * 2.0).round();
        }
        for hidden in &mut self.hidden {
            *hidden = hidden.round();
        }
        self
    }

    /// Sets the temperature.
    pub fn with_temperature(mut self, temperature: f64) -> Self {
        self.temperature = temperature;
        self
    }

    /// Sets a temperature for each token, and what a mask has to keep out where it is false.
    pub fn with_temperatures(mut self) -> Self {
        let garbage = [0.0, f64::NAN, -1.0, f64::INFINITY];
        let of = |token| match self.is_valid(token) {
            true => [0.5, 1.0, 0.75, 1.5, 2.0][token % 5],
            false => garbage[token % 4],
        };
        self.temperatures = Some((0..self.shape[0]).map(of).collect());
        self
    }

    /// That of a token.
    fn temperature(&self, token: usize) -> f64 {
        let one = self.temperatures.as_ref();
        one.map_or(self.temperature, |temperatures| temperatures[token])
    }

    /// Asks for the sums of squared probabilities. The first token's is all that its gradient comes
    /// from.
    pub fn with_squares(mut self) -> Self {
        let gradient = (0..self.shape[0]).map(|token| (token * 3 % 7) as f64 * 0.5 - 1.0);
        self.squares_gradient = Some(gradient.collect());
        (self.log_prob_gradient[0], self.entropy_gradient[0]) = (0.0, 0.0);
        self
    }

    /// Bounds the logits.
    pub fn with_softcap(mut self, cap: f64) -> Self {
        self.softcap = Some(cap);
        self
    }

    /// Gives the logits, in place of what hidden states and head come to.
    pub fn with_logits(mut self, logits: Vec<f64>) -> Self {
        self.logits = Some(logits);
        self
    }

    /// The logits as a caller has them: where the mask is false they may be anything.
    pub fn given_logits(&self) -> Vec<f64> {
        let mut logits = self.whole_logits();
        let rows = logits.chunks_mut(self.shape[2]).enumerate();
        for (_, row) in rows.filter(|(token, _)| !self.is_valid(*token)) {
            row.fill(f64::NAN);
        }
        logits
    }

    /// Whether a token counts.
    pub fn is_valid(&self, token: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask[token])
    }

    /// What the case comes to: 0 wherever the mask is false.
    pub fn answer(&self) -> HeadAnswer {
        let [tokens, _, vocabulary] = self.shape;
        let logits = self.whole_logits();
        let (mut log_probs, mut entropies) = (vec![0.0; tokens], vec![0.0; tokens]);
        let mut sums_of_squares = vec![0.0; tokens];
        let mut logits_gradient = vec![0.0; tokens * vocabulary];
        for token in (0..tokens).filter(|token| self.is_valid(*token)) {
            let range = token * vocabulary..(token + 1) * vocabulary;
            let mut row = logits[range.clone()].to_vec();
            if let Some(cap) = self.softcap {
                row.iter_mut().for_each(|z| *z = cap * (*z / cap).tanh());
            }
            if let Some(kept) = &self.kept {
                for (word, z) in row.iter_mut().enumerate() {
                    let is_kept = kept[token].contains(&(word as u32));
                    if !is_kept && word as i64 != self.targets[token] {
                        *z = f64::NEG_INFINITY;
                    }
                }
            }
            let of_squares = self.squares_gradient.as_ref();
            let mut answer = oracle::row(
                &row,
                self.targets[token] as usize,
                self.temperature(token),
                [
                    self.log_prob_gradient[token],
                    self.entropy_gradient[token],
                    of_squares.map_or(0.0, |gradient| gradient[token]),
                ],
            );
            if let Some(cap) = self.softcap {
                for (gradient, z) in answer.gradient.iter_mut().zip(&logits[range.clone()]) {
                    *gradient /= (z / cap).cosh().powi(2);
                }
            }
            (log_probs[token], entropies[token]) = (answer.log_prob, answer.entropy);
            sums_of_squares[token] = answer.sum_of_squares;
            logits_gradient[range].copy_from_slice(&answer.gradient);
        }
        let [hidden_gradient, weight_gradient, bias_gradient] = self.backwards(&logits_gradient);
        HeadAnswer {
            logits,
            log_probs,
            entropies,
            sums_of_squares,
            logits_gradient,
            hidden_gradient,
            weight_gradient,
            bias_gradient,
        }
    }

    /// The logits that were given, or those of hidden states and head.
    fn whole_logits(&self) -> Vec<f64> {
        if let Some(logits) = &self.logits {
            return logits.clone();
        }
        let mut logits = oracle::product(&self.valid_hidden(), &self.weight, self.shape);
        if let Some(bias) = &self.bias {
            for (i, logit) in logits.iter_mut().enumerate() {
                *logit += bias[i % self.shape[2]];
            }
        }
        logits
    }

    /// The gradients of hidden states, weight and bias, of that of the logits.
    pub fn backwards(&self, logits_gradient: &[f64]) -> [Vec<f64>; 3] {
        let [tokens, width, vocabulary] = self.shape;
        let up = oracle::transposed(&self.weight, [width, vocabulary]);
        let down = oracle::transposed(&self.valid_hidden(), [tokens, width]);
        let mut of_bias = vec![0.0; vocabulary];
        for (i, gradient) in logits_gradient.iter().enumerate() {
            of_bias[i % vocabulary] += gradient;
        }
        [
            oracle::product(logits_gradient, &up, [tokens, vocabulary, width]),
            oracle::product(&down, logits_gradient, [width, tokens, vocabulary]),
            of_bias,
        ]
    }

    /// The hidden states, 0 wherever the mask is false.
    fn valid_hidden(&self) -> Vec<f64> {
        let mut hidden = self.hidden.clone();
        let rows = hidden.chunks_mut(self.shape[1]).enumerate();
        for (_, row) in rows.filter(|(token, _)| !self.is_valid(*token)) {
            row.fill(0.0);
        }
        hidden
    }
}

#[cfg(test)]
mod tests {
    use policy_loss::{Tail, TeacherDivergence};

    use super::*;

    /// The oracle's gradients against its own values.
    #[test]
    fn gradients_are_slopes() {
        check_gradients(HeadCase::new(3, [3, 4, 5]));
        check_gradients(HeadCase::new(4, [3, 4, 5]).with_kept().with_temperatures());
    }

    fn check_gradients(case: HeadCase) {
        let case = case
            .with_bias()
            .with_squares()
            .with_mask(|token| token != 1)
            .with_temperature(0.7)
            .with_softcap(3.0);
        let value = |case: &HeadCase| -> f64 {
            let answer = case.answer();
            let of_squares = case.squares_gradient.as_ref().expect("it has one");
            (0..3)
                .map(|i| {
                    answer.log_probs[i] * case.log_prob_gradient[i]
                        + answer.entropies[i] * case.entropy_gradient[i]
                        + answer.sums_of_squares[i] * of_squares[i]
                })
                .sum()
        };
        let answer = case.answer();
        let check = |gradient: &[f64], number: fn(&mut HeadCase) -> &mut Vec<f64>| {
            for (i, gradient) in gradient.iter().enumerate() {
                let at = |step: f64| {
                    let mut moved = case.clone();
                    number(&mut moved)[i] += step;
                    value(&moved)
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((slope - gradient).abs() < 1e-8, "{slope} {gradient}");
            }
        };
        check(&answer.weight_gradient, |case| &mut case.weight);
        check(&answer.bias_gradient, |case| {
            case.bias.as_mut().expect("it has one")
        });
        let mut hidden = answer.hidden_gradient.clone();
        assert!(hidden.drain(4..8).all(|gradient| gradient == 0.0));
        check(&hidden[..4], |case| &mut case.hidden);
    }

    #[test]
    fn slopes_of_distances_are_slopes() {
        let [student, teacher] = [[0.5, -1.0, 2.0, 0.0, -4.0], [0.0, 1.0, 0.5, -2.0, -1.0]];
        let teacher = oracle::log_softmax(&teacher, 1.0);
        let words = [2, 4, 0];
        let teacher: Vec<f64> = words.iter().map(|word| teacher[*word]).collect();
        for divergence in [
            TeacherDivergence::Mixed { forward_share: 0.3 },
            TeacherDivergence::JensenShannon { teacher_share: 0.2 },
        ] {
            for tail in [Tail::Bucket, Tail::Ignored, Tail::Renormalized] {
                for least in [None, Some(-3.0)] {
                    let at = |student: &[f64]| {
                        let student = oracle::log_softmax(student, 1.0);
                        oracle::distance(divergence, (tail, least), &student, &words, &teacher)
                    };
                    let (_, slopes) = at(&student);
                    for word in 0..5 {
                        let moved = |step: f64| {
                            let mut moved = student;
                            moved[word] += step;
                            at(&moved).0
                        };
                        let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                        let distance = (slope - slopes[word]).abs();
                        assert!(
                            distance < 1e-9,
                            "{divergence:?}, {tail:?}, {least:?}: {distance}"
                        );
                    }
                }
            }
        }
    }
}
