//! The task: answer a prompt of digits with the same digits in reverse order, then stop.
//!
//! ```text
//! prompt   . . 4 0 7 ?       padded on the left, so that every answer starts in the same column
//! answer   7 0 4 END
//! ```
//!
//! Nothing but the rule in [`reward`] ever tells the policy what a right answer is. To follow it,
//! each answer token has to look up one particular token of the prompt, and an answer has to stop
//! where the prompt began.

use rand::{Rng, RngExt};

/// The tokens `0..DIGITS` are the digits themselves.
pub const DIGITS: usize = 10;
/// Fills up a prompt on the left and an answer on the right.
pub const PADDING: i32 = DIGITS as i32;
/// Ends a prompt.
pub const ASK: i32 = PADDING + 1;
/// Ends an answer.
pub const END: i32 = ASK + 1;
/// Number of different tokens.
pub const VOCABULARY: usize = DIGITS + 3;

const FEWEST_DIGITS: usize = 3;
const MOST_DIGITS: usize = 6;
/// Tokens of a padded prompt.
pub const PROMPT_LENGTH: usize = MOST_DIGITS + 1;
/// Tokens of the longest answer.
pub const ANSWER_LENGTH: usize = MOST_DIGITS + 1;

/// A prompt, padded on the left.
pub type Prompt = [i32; PROMPT_LENGTH];

/// Draws a prompt of three to six digits.
pub fn draw_prompt(rng: &mut impl Rng) -> Prompt {
    let digits = rng.random_range(FEWEST_DIGITS..=MOST_DIGITS);
    let mut prompt = [PADDING; PROMPT_LENGTH];
    for token in &mut prompt[MOST_DIGITS - digits..MOST_DIGITS] {
        *token = rng.random_range(0..DIGITS as i32);
    }
    prompt[MOST_DIGITS] = ASK;
    prompt
}

/// The fraction of right tokens, in `[0, 1]`. Both a missing token and one too many count as
/// wrong, so that only the whole answer, with its end, earns 1.
pub fn reward(prompt: &Prompt, answer: &[i32]) -> f32 {
    let digits = prompt[..MOST_DIGITS].iter().rev();
    let expected: Vec<i32> = digits
        .copied()
        .take_while(|token| *token != PADDING)
        .chain([END])
        .collect();
    let right = expected.iter().zip(answer).filter(|(a, b)| a == b).count();
    right as f32 / expected.len().max(answer.len()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: Prompt = [PADDING, PADDING, PADDING, 4, 0, 7, ASK];

    #[test]
    fn only_the_whole_answer_earns_one() {
        assert_eq!(reward(&PROMPT, &[7, 0, 4, END]), 1.0);
        assert_eq!(reward(&PROMPT, &[7, 0, 4]), 0.75);
        assert_eq!(reward(&PROMPT, &[7, 0, 4, 4, END]), 0.6);
        assert_eq!(reward(&PROMPT, &[7, 1, 4, END]), 0.75);
        assert_eq!(reward(&PROMPT, &[]), 0.0);
    }
}
