//! How fast a model is sampled from.

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::model::{Llama, PROMPT, Places};
use crate::sampler::{Sampling, draw, sample};
use crate::weights;

/// The first token, which the others follow.
const FIRST: u32 = 1;
/// How often what takes less than a minute is measured; the best counts, since other work on the
/// machine only slows it down.
const ROUNDS: usize = 3;

/// Prints how fast `tokens` are sampled from the model in `directory`, one sequence alone and
/// several together.
///
/// # Errors
///
/// The model cannot be read, or has a shorter context, or the device fails.
pub fn bench(
    directory: &Path,
    tokens: usize,
    sequences: usize,
    device: &Device,
) -> Result<(), Box<dyn Error>> {
    let model = weights::load(directory, device)?;
    let bytes = bytes_of(&model);
    let gigabytes = bytes as f64 / 1e9;
    let bandwidth = (0..ROUNDS)
        .map(|_| read_bandwidth(bytes))
        .fold(0.0, f64::max);
    say!("weights read for a token: {gigabytes:.3} GB of f32");
    say!("host memory, read by all threads: {bandwidth:.1} GB/s");
    say!("{tokens} tokens of each sequence:");
    let mut cached = [f64::INFINITY; 2];
    for (together, cached) in [1, sequences].into_iter().zip(&mut cached) {
        for _ in 0..ROUNDS {
            *cached = cached.min(with_cache(&model, tokens, together, device)?);
        }
        let speed = gigabytes * tokens as f64 / *cached;
        say!(
            "  with the cache, {together} together: {:.1} tokens/s, {:.1} ms a step, weights at \
             {speed:.1} GB/s, {:.2} times as long as reading them",
            (tokens * together) as f64 / *cached,
            1e3 * *cached / tokens as f64,
            bandwidth / speed,
        );
    }
    let mut all = 0.0;
    for length in 1..=tokens {
        all += without_cache(&model, length, 1, device)?;
    }
    say!(
        "  without, 1 together: {:.1} tokens/s; the cache is {:.1} times as fast over all tokens",
        tokens as f64 / all,
        all / cached[0],
    );
    for (together, cached) in [1, sequences].into_iter().zip(cached) {
        let mut last = f64::INFINITY;
        for _ in 0..ROUNDS {
            last = last.min(without_cache(&model, tokens, together, device)?);
        }
        say!(
            "  without, {together} together: {:.0} ms for the last step; the cache is {:.1} times as \
             fast there",
            1e3 * last,
            last * tokens as f64 / cached,
        );
    }
    Ok(())
}

/// Bytes of the weights that a step of the sampler reads.
fn bytes_of(model: &Llama) -> usize {
    let config = model.config();
    // A few rows of an embedding are read; all of one that is the head as well.
    let embedding = match config.tie_word_embeddings {
        true => 0,
        false => config.vocab_size * config.hidden_size,
    };
    (model.num_params() - embedding) * size_of::<f32>()
}

/// Gigabytes in a second, at which all threads together read as many bytes of host memory.
fn read_bandwidth(bytes: usize) -> f64 {
    let memory = vec![1_u64; bytes / size_of::<u64>()];
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let start = Instant::now();
    thread::scope(|scope| {
        for part in memory.chunks(memory.len().div_ceil(threads)) {
            scope.spawn(move || black_box(part.iter().fold(0, |sum, word| sum ^ word)));
        }
    });
    bytes as f64 / 1e9 / start.elapsed().as_secs_f64()
}

const EVERYTHING: Sampling = Sampling {
    temperature: 1.0,
    top_k: None,
    top_p: None,
    max_tokens: 1,
    may_end: false,
};

/// Seconds for sequences, all of this length.
fn with_cache(
    model: &Llama,
    tokens: usize,
    sequences: usize,
    device: &Device,
) -> Result<f64, Box<dyn Error>> {
    let sampling = Sampling {
        max_tokens: tokens,
        ..EVERYTHING
    };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let start = Instant::now();
    let prompts = [vec![FIRST]];
    sample(model, &prompts, sequences, &sampling, device, &mut rng)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds for one more token of each sequence, all of which are computed anew.
fn without_cache(
    model: &Llama,
    length: usize,
    sequences: usize,
    device: &Device,
) -> Result<f64, Box<dyn Error>> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let start = Instant::now();
    let rows = |row: Vec<i32>| {
        let shape = [sequences, length];
        Tensor::<2, Int>::from_data(TensorData::new(row.repeat(sequences), shape), device)
    };
    let places = Places {
        positions: rows((0..length as i32).collect()),
        segments: rows(vec![PROMPT; length]),
    };
    let hidden = model.hidden(rows(vec![FIRST as i32; length]), places, None);
    let logits = model.logits(hidden.narrow(1, length - 1, 1).squeeze_dim(1));
    let logits: Vec<f32> = logits.try_into_vec_as()?;
    for logits in logits.chunks(logits.len() / sequences) {
        draw(logits, &EVERYTHING, &mut rng)?;
    }
    Ok(start.elapsed().as_secs_f64())
}
