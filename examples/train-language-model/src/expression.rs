//! Arithmetic expressions of whole numbers, computed without rounding.

/// An expression that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Expression {
    /// The numbers in it, in their order.
    pub numbers: Vec<i64>,
    /// Numerator and denominator, without a common factor; the denominator is above 0.
    pub value: (i64, i64),
}

/// Reads `+`, `-`, `*`, `/` and parentheses; after `=`, the value may stand. `None` where it is no
/// such expression, divides by 0, or leaves the range of the numbers.
pub fn parse(text: &str) -> Option<Expression> {
    let (left, right) = match text.split_once('=') {
        Some((left, right)) => (left, Some(right)),
        None => (text, None),
    };
    let mut parser = Parser::new(left);
    let value = parser.sum()?;
    let is_whole = parser.rest.is_empty();
    let agrees = match right {
        Some(right) => right.trim().parse::<i64>().ok().map(|value| (value, 1)) == Some(value),
        None => true,
    };
    (is_whole && agrees).then_some(Expression {
        numbers: parser.numbers,
        value,
    })
}

struct Parser<'a> {
    rest: &'a str,
    numbers: Vec<i64>,
    /// How deep parentheses may still go.
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text.trim(),
            numbers: Vec::new(),
            depth: 64,
        }
    }

    fn sum(&mut self) -> Option<(i64, i64)> {
        let mut value = self.product()?;
        while let Some(sign) = self.one_of("+-") {
            let (n, d) = self.product()?;
            let n = if sign == '-' { n.checked_neg()? } else { n };
            let (a, b) = (value.0.checked_mul(d)?, n.checked_mul(value.1)?);
            value = reduced(a.checked_add(b)?, value.1.checked_mul(d)?)?;
        }
        Some(value)
    }

    fn product(&mut self) -> Option<(i64, i64)> {
        let mut value = self.number()?;
        while let Some(sign) = self.one_of("*/") {
            let (n, d) = self.number()?;
            let (n, d) = if sign == '/' { (d, n) } else { (n, d) };
            value = reduced(value.0.checked_mul(n)?, value.1.checked_mul(d)?)?;
        }
        Some(value)
    }

    fn number(&mut self) -> Option<(i64, i64)> {
        if self.one_of("(").is_some() {
            self.depth = self.depth.checked_sub(1)?;
            let value = self.sum()?;
            self.depth += 1;
            self.one_of(")")?;
            return Some(value);
        }
        let end = self.rest.find(|c: char| !c.is_ascii_digit());
        let (digits, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let number = digits.parse().ok()?;
        self.numbers.push(number);
        self.rest = rest.trim_start();
        Some((number, 1))
    }

    fn one_of(&mut self, signs: &str) -> Option<char> {
        let sign = self.rest.chars().next().filter(|c| signs.contains(*c))?;
        self.rest = self.rest[1..].trim_start();
        Some(sign)
    }
}

/// `None` where the denominator is 0.
fn reduced(numerator: i64, denominator: i64) -> Option<(i64, i64)> {
    let (mut a, mut b) = (numerator.checked_abs()?, denominator.checked_abs()?);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let factor = a * denominator.signum();
    (denominator != 0).then(|| (numerator / factor, denominator / factor))
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn value(text: &str) -> Option<(i64, i64)> {
        parse(text).map(|expression| expression.value)
    }

    #[test]
    fn values_are_exact() {
        for (text, expected) in [
            ("7", (7, 1)),
            ("2 + 3 * 4", (14, 1)),
            ("(2 + 3) * 4", (20, 1)),
            ("10 - 4 - 3", (3, 1)),
            ("1 / 3 + 1 / 6", (1, 2)),
            ("2 / (1 - 3)", (-1, 1)),
            ("0 / 5", (0, 1)),
            (" 8/( 3 )*3 = 8", (8, 1)),
        ] {
            assert_eq!(value(text), Some(expected), "{text}");
        }
        let numbers = parse("(12 - 3) * 4").map(|expression| expression.numbers);
        assert_eq!(numbers, Some(vec![12, 3, 4]));
    }

    #[test]
    fn what_is_no_expression_has_no_value() {
        for text in [
            "",
            "+",
            "2 +",
            "2 3",
            "(2",
            "2)",
            "-2",
            "2 x 3",
            "é",
            "4 / 0",
            "4 / (2 - 2)",
            "2 + 2 = 5",
            "2 = 2 = 2",
            "99999999999999999999",
            "9999999999 * 9999999999 * 9",
        ] {
            assert_eq!(value(text), None, "{text}");
        }
        let deep = "(".repeat(1_000_000);
        assert_eq!(value(&deep), None);
    }
}
