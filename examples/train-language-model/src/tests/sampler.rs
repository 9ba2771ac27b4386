//! The sampler against the loops, the trainer and known distributions.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor};
use policy_loss::LogProbsConfig;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::oracle::next_log_probs;
use super::tiny::{END, Tiny, VOCABULARY};
use crate::batch::{Sequence, TokenBatch};
use crate::model::{Llama, PROMPT, Places};
use crate::sampler::{Answer, Sampling, draw, sample};
use crate::weights;

const EVERYTHING: Sampling = Sampling {
    temperature: 1.0,
    top_k: None,
    top_p: None,
    max_tokens: 12,
    may_end: true,
};

fn prompts() -> Vec<Vec<u32>> {
    vec![vec![5, 9, 1, 14, 2], vec![2], vec![7, 7, 20]]
}

fn model(seed: u64) -> (Tiny, Llama) {
    let tiny = Tiny::new(seed, true);
    let model = weights::load(tiny.write().path(), &Device::flex()).expect("it is whole");
    (tiny, model)
}

fn answers(model: &Llama, each: usize, sampling: &Sampling, seed: u64) -> Vec<Answer> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let answers = sample(model, &prompts(), each, sampling, &Device::flex(), &mut rng);
    answers.expect("it answers")
}

#[test]
fn hidden_states_do_not_depend_on_the_cache() {
    let (_, model) = model(10);
    let device = Device::flex();
    let tokens = Tensor::<2, Int>::from_ints([[0, 0, 5, 9, 1, 14], [3, 8, 2, 11, 7, 4]], &device);
    // Two columns of padding on the left of the first row.
    let positions = [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]];
    let segments = [[-1, -1, PROMPT, PROMPT, PROMPT, PROMPT], [PROMPT; 6]];
    let positions = Tensor::<2, Int>::from_ints(positions, &device);
    let segments = Tensor::<2, Int>::from_ints(segments, &device);
    let places = |from, count| Places {
        positions: positions.clone().narrow(1, from, count),
        segments: segments.clone().narrow(1, 0, from + count),
    };
    let whole = model.hidden(tokens.clone(), places(0, 6), None);
    let mut cache = model.cache(6);
    let first = tokens.clone().narrow(1, 0, 3);
    let first = model.hidden(first, places(0, 3), Some(&mut cache));
    // The rows change places on the way.
    let swap = Tensor::<1, Int>::from_ints([1, 0], &device);
    cache.select(swap.clone());
    let mut parts = vec![first.select(0, swap.clone())];
    for at in 3..6 {
        let tokens = tokens.clone().narrow(1, at, 1).select(0, swap.clone());
        let places = places(at, 1);
        let places = Places {
            positions: places.positions.select(0, swap.clone()),
            segments: places.segments.select(0, swap.clone()),
        };
        parts.push(model.hidden(tokens, places, Some(&mut cache)));
    }
    let stepwise = Tensor::cat(parts, 1).select(0, swap);
    let difference = (whole - stepwise).abs().max();
    assert!(difference.into_scalar::<f32>() < 1e-5);
}

#[test]
fn greedy_answers_are_the_most_probable_tokens() {
    let (tiny, model) = model(11);
    let greedy = Sampling {
        temperature: 0.0,
        ..EVERYTHING
    };
    for (prompt, answer) in prompts().iter().zip(answers(&model, 1, &greedy, 0)) {
        let tokens = [&prompt[..], &answer.tokens].concat();
        let expected = next_log_probs(&tiny, &tokens);
        for (at, token) in answer.tokens.iter().enumerate() {
            let row = &expected[prompt.len() - 1 + at];
            let best = (0..VOCABULARY).max_by(|a, b| row[*a].total_cmp(&row[*b]));
            assert_eq!(best, Some(*token as usize));
            let difference = f64::from(answer.log_probs[at]) - row[*token as usize];
            assert!(difference.abs() < 2e-5);
        }
    }
}

#[test]
fn reported_log_probs_are_those_of_the_trainer() {
    let (_, model) = model(12);
    let device = Device::flex();
    let sampling = Sampling {
        temperature: 0.7,
        ..EVERYTHING
    };
    let each = 5;
    let prompts = prompts();
    let answers = answers(&model, each, &sampling, 1);
    assert_eq!(answers.len(), prompts.len() * each);
    let sequences: Vec<_> = answers
        .iter()
        .enumerate()
        .map(|(row, answer)| Sequence {
            prompt: &prompts[row / each],
            answer: &answer.tokens,
        })
        .collect();
    let batch = TokenBatch::new(&sequences, &device);
    let trainer = LogProbsConfig::new().with_temperature(0.7).init();
    let trainer = trainer.expect("it has a meaning");
    let rows = batch.log_prob_rows(&model, &trainer);
    for (row, answer) in rows.expect("the shapes fit").iter().zip(&answers) {
        for (value, reported) in row.iter().zip(&answer.log_probs) {
            assert!((value - reported).abs() < 2e-5, "{value} is not {reported}");
        }
    }
    // Some answers ended early, so that rows were left out on the way.
    let finished = answers.iter().filter(|answer| answer.is_finished).count();
    assert!(finished > 0 && finished < answers.len(), "{finished}");
}

#[test]
fn an_answer_ends_with_the_first_end() {
    let (_, model) = model(13);
    for answer in answers(&model, 20, &EVERYTHING, 2) {
        assert_eq!(answer.tokens.len(), answer.log_probs.len());
        let end = answer.tokens.iter().position(|token| *token == END);
        assert_eq!(answer.is_finished, end.is_some());
        let length = end.map_or(EVERYTHING.max_tokens, |end| end + 1);
        assert_eq!(answer.tokens.len(), length);
    }
}

#[test]
fn an_answer_that_may_not_end_is_as_long_as_it_can_be() {
    let (_, model) = model(13);
    let endless = Sampling {
        may_end: false,
        ..EVERYTHING
    };
    let answers = answers(&model, 20, &endless, 2);
    assert!(answers.iter().any(|answer| answer.tokens.contains(&END)));
    for answer in answers {
        assert_eq!(answer.tokens.len(), EVERYTHING.max_tokens);
        assert!(!answer.is_finished);
    }
}

#[test]
fn the_seed_decides() {
    let (_, model) = model(14);
    let tokens = |seed| -> Vec<_> {
        let answers = answers(&model, 4, &EVERYTHING, seed);
        answers.into_iter().map(|answer| answer.tokens).collect()
    };
    assert_eq!(tokens(1), tokens(1));
    assert_ne!(tokens(1), tokens(2));
}

/// Probabilities 0.05, 0.5, 0.15 and 0.3.
fn logits() -> [f32; 4] {
    [0.05_f32, 0.5, 0.15, 0.3].map(|probability| probability.ln() + 7.0)
}

/// What is drawn, how often, and the probability that is reported for it.
fn drawn(sampling: &Sampling) -> BTreeMap<usize, (f64, f64)> {
    const DRAWS: usize = 20_000;
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut counts = BTreeMap::new();
    for _ in 0..DRAWS {
        let (token, log_prob) = draw(&logits(), sampling, &mut rng).expect("finite");
        let entry = counts.entry(token).or_insert((0.0, log_prob.exp()));
        entry.0 += 1.0 / DRAWS as f64;
    }
    counts
}

#[track_caller]
fn assert_drawn(sampling: Sampling, expected: &[(usize, f64)]) {
    let drawn = drawn(&sampling);
    assert_eq!(drawn.len(), expected.len(), "{drawn:?}");
    for (token, probability) in expected {
        let (frequency, reported) = drawn[token];
        assert!(
            (frequency - probability).abs() < 0.02,
            "{token}: {frequency}"
        );
        assert!((reported - probability).abs() < 1e-6, "{token}: {reported}");
    }
}

#[test]
fn tokens_come_as_often_as_they_should() {
    let all = [(0, 0.05), (1, 0.5), (2, 0.15), (3, 0.3)];
    assert_drawn(EVERYTHING, &all);
    let restricted = |top_k, top_p| Sampling {
        top_k,
        top_p,
        ..EVERYTHING
    };
    assert_drawn(restricted(Some(9), Some(1.0)), &all);
    assert_drawn(restricted(Some(2), None), &[(1, 0.625), (3, 0.375)]);
    assert_drawn(restricted(Some(1), None), &[(1, 1.0)]);
    // The token that reaches `top_p` is kept.
    assert_drawn(restricted(None, Some(0.79)), &[(1, 0.625), (3, 0.375)]);
    let three = [(1, 0.5 / 0.95), (2, 0.15 / 0.95), (3, 0.3 / 0.95)];
    assert_drawn(restricted(None, Some(0.81)), &three);
    assert_drawn(restricted(None, Some(0.1)), &[(1, 1.0)]);
    // `top_p` is a part of what `top_k` leaves.
    assert_drawn(restricted(Some(2), Some(0.6)), &[(1, 1.0)]);
    // Twice as cold, the probabilities are squared.
    let cold = Sampling {
        temperature: 0.5,
        ..EVERYTHING
    };
    let total = 0.0025 + 0.25 + 0.0225 + 0.09;
    let squared = [(0, 0.0025), (1, 0.25), (2, 0.0225), (3, 0.09)];
    assert_drawn(
        cold,
        &squared.map(|(token, square)| (token, square / total)),
    );
}

#[test]
fn what_cannot_be_sampled_is_said() {
    let (_, model) = model(15);
    let refused = |prompts: &[Vec<u32>]| {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let answers = sample(&model, prompts, 1, &EVERYTHING, &Device::flex(), &mut rng);
        answers.expect_err("refused").to_string()
    };
    let error = refused(&[vec![1], vec![]]);
    assert!(error.contains("prompt 1 has no tokens"), "{error}");
    let error = refused(&[vec![1; 53]]);
    assert!(
        error.contains("53 tokens") && error.contains("64 tokens"),
        "{error}"
    );
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for value in [f32::NAN, f32::INFINITY] {
        let error = draw(&[1.0, value], &EVERYTHING, &mut rng).expect_err("refused");
        assert!(error.to_string().contains("not finite"));
    }
}
