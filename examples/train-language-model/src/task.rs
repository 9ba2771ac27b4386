//! What is asked, and the rules that grade the answers.

use std::fmt::Write;

use clap::ValueEnum;
use rand::{Rng, RngExt};

use crate::error::ModelError;
use crate::expression;
use crate::template::{answer_begins, message};
use crate::tokens::Tokenizer;

/// What the model learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// The sum of several numbers. At level `n` these are `n + 1` numbers of one digit.
    Sum,
    /// An expression that makes a target of numbers, each of which it uses once. At level `n` these
    /// are `n + 1` numbers of one digit.
    Countdown,
}

/// One question, with a rule for its answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    task: Task,
    numbers: Vec<i64>,
    target: i64,
    /// An answer that is right.
    example: String,
}

impl Task {
    /// What the model is told before the first question.
    fn instruction(self) -> &'static str {
        match self {
            Self::Sum => "Answer like this: 4 + 3 = 7",
            Self::Countdown => "Use each number once to make the target, like this: 8 - 5 + 2 = 5",
        }
    }

    /// How many questions of a level there are, at least: choices of numbers, in their order.
    pub fn questions(self, level: u32) -> u64 {
        9_u64.saturating_pow(level + 1)
    }

    /// Draws a question of a level above 0.
    pub fn draw(self, level: u32, rng: &mut impl Rng) -> Problem {
        let count = level as usize + 1;
        let numbers: Vec<i64> = (0..count).map(|_| rng.random_range(1..10)).collect();
        let (target, example) = match self {
            Self::Sum => {
                let target = numbers.iter().sum::<i64>();
                (target, format!("{} = {target}", sum_of(&numbers)))
            }
            Self::Countdown => {
                // From left to right, so that no parentheses are needed.
                let mut target = numbers[0];
                let mut example = target.to_string();
                for number in &numbers[1..] {
                    let (sign, next) = match target > *number && rng.random_bool(0.5) {
                        true => ('-', target - number),
                        false => ('+', target + number),
                    };
                    write!(example, " {sign} {number}").expect("a string takes everything");
                    target = next;
                }
                (target, format!("{example} = {target}"))
            }
        };
        Problem {
            task: self,
            numbers,
            target,
            example,
        }
    }

    /// The prompt of a question, after `examples` with their answers.
    ///
    /// # Errors
    ///
    /// The tokenizer has no tokens for it.
    pub fn prompt(
        self,
        problem: &Problem,
        examples: &[&Problem],
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, ModelError> {
        let mut text = message("system", self.instruction());
        for example in examples {
            text += &message("user", &example.question());
            text += &message("assistant", &example.example);
        }
        text += &message("user", &problem.question());
        text += &answer_begins();
        tokenizer.encode(&text)
    }
}

impl Problem {
    /// Whether the question is the same, word by word; another right answer may be known.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        (self.task, &self.numbers, self.target) == (other.task, &other.numbers, other.target)
    }

    /// The question as text.
    pub fn question(&self) -> String {
        match self.task {
            Task::Sum => format!("What is {}?", sum_of(&self.numbers)),
            Task::Countdown => {
                let numbers: Vec<_> = self.numbers.iter().map(i64::to_string).collect();
                format!("Numbers: {}. Target: {}", numbers.join(", "), self.target)
            }
        }
    }

    /// 1 for an answer that is right and nothing else, 0 for every other.
    pub fn reward(&self, answer: &str) -> f32 {
        let is_right = match self.task {
            Task::Sum => {
                let answer = answer.trim();
                let number = match answer.split_once(" = ") {
                    Some((terms, number)) if terms == sum_of(&self.numbers) => number,
                    _ => answer,
                };
                number == self.target.to_string()
            }
            Task::Countdown => self.is_made_by(answer),
        };
        f32::from(u8::from(is_right))
    }

    /// Whether an expression has the value of the target, and uses each number once.
    fn is_made_by(&self, answer: &str) -> bool {
        let Some(expression) = expression::parse(answer) else {
            return false;
        };
        let (mut used, mut given) = (expression.numbers, self.numbers.clone());
        used.sort_unstable();
        given.sort_unstable();
        used == given && expression.value == (self.target, 1)
    }
}

fn sum_of(numbers: &[i64]) -> String {
    let numbers: Vec<_> = numbers.iter().map(i64::to_string).collect();
    numbers.join(" + ")
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn problem(task: Task, numbers: &[i64], target: i64) -> Problem {
        Problem {
            task,
            numbers: numbers.to_vec(),
            target,
            example: String::new(),
        }
    }

    #[test]
    fn a_sum_is_the_number_or_the_equation() {
        let problem = problem(Task::Sum, &[7, 5], 12);
        assert_eq!(problem.question(), "What is 7 + 5?");
        for right in ["12", " 12\n", "7 + 5 = 12"] {
            assert_eq!(problem.reward(right), 1.0, "{right:?}");
        }
        for wrong in [
            "",
            "13",
            "12.",
            "7 + 5 = 13",
            "5 + 7 = 12",
            "6 + 6 = 12",
            "1 2",
            "012",
            "twelve",
            "12 12",
            "= 12",
            "7 + 5 = 12 = 12",
        ] {
            assert_eq!(problem.reward(wrong), 0.0, "{wrong:?}");
        }
    }

    #[test]
    fn an_expression_uses_each_number_once() {
        let problem = problem(Task::Countdown, &[3, 8, 3], 16);
        assert_eq!(problem.question(), "Numbers: 3, 8, 3. Target: 16");
        for wrong in [
            "8 * (3 - 3 / 3)",
            "3 * 8",
            "16",
            "8 + 8",
            "3 + 8 + 3 + 2",
            "",
        ] {
            assert_eq!(problem.reward(wrong), 0.0, "{wrong:?}");
        }
        let problem = self::problem(Task::Countdown, &[3, 8, 3], 8);
        for right in ["8 * 3 / 3", "3/3*8", "8+(3-3)", "3 - 3 + 8 = 8", " 3+8-3 "] {
            assert_eq!(problem.reward(right), 1.0, "{right:?}");
        }
        for wrong in [
            "8",
            "3 + 3 + 8",
            "8 + 3 - 3 = 9",
            "3 / (3 - 3) + 8",
            "8 + 3 - 3 apples",
        ] {
            assert_eq!(problem.reward(wrong), 0.0, "{wrong:?}");
        }
        // A third of 8 times 3 is 8, without rounding.
        assert_eq!(
            self::problem(Task::Countdown, &[8, 3, 3], 8).reward("8 / 3 * 3"),
            1.0
        );
    }

    #[test]
    fn every_question_has_an_answer() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for task in [Task::Sum, Task::Countdown] {
            for level in 1..6 {
                for _ in 0..200 {
                    let problem = task.draw(level, &mut rng);
                    assert_eq!(problem.numbers.len(), level as usize + 1);
                    assert_eq!(problem.reward(&problem.example), 1.0, "{problem:?}");
                }
            }
        }
    }
}
