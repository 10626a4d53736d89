//! Quantities (`100m`, `1Gi`) as numbers that can be compared.

use serde_json::Value;

use super::{Field, GREATER_THAN_ZERO, NON_NEGATIVE};
use crate::field::ErrorList;

/// An amount in billionths: the finest step that upstream keeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Quantity(pub i128);

const NANO: i128 = 1_000_000_000;

impl Quantity {
    /// `None` when the text is no quantity or beyond what fits.
    pub fn parse(text: &str) -> Option<Quantity> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 30 {
            return None;
        }
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let (factor, exponent) = scale(suffix)?;
        let exponent = exponent + 9 - i32::try_from(fraction.len()).ok()?;
        let scaled = digits.checked_mul(factor)?;
        let power = |n: i32| 10i128.checked_pow(n.unsigned_abs());
        let value = if exponent >= 0 {
            scaled.checked_mul(power(exponent)?)?
        } else {
            // Upstream rounds up what is finer than a billionth.
            let by = power(exponent)?;
            (scaled + by - 1) / by
        };
        Some(Quantity(if negative { -value } else { value }))
    }

    /// A quantity in JSON: text, or a bare number.
    pub fn of(value: &Value) -> Option<Quantity> {
        match value {
            Value::String(s) => Quantity::parse(s),
            Value::Number(n) => Quantity::parse(&n.to_string()),
            _ => None,
        }
    }

    pub fn is_integer(self) -> bool {
        self.0 % NANO == 0
    }

    /// Rounded up, as upstream's `Value()`.
    pub fn whole(self) -> i128 {
        self.0.div_euclid(NANO) + i128::from(self.0.rem_euclid(NANO) != 0)
    }
}

/// Factor and decimal exponent of a suffix.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(i) = binary.iter().position(|b| *b == suffix) {
        return Some((1i128 << (10 * (i + 1)), 0));
    }
    let decimal = [
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    if let Some((_, e)) = decimal.iter().find(|(s, _)| *s == suffix) {
        return Some((1, *e));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    Some((1, exponent.parse::<i32>().ok().filter(|e| e.abs() <= 24)?))
}

/// The field's text without quotes, for messages.
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub fn non_negative(f: &Field, errors: &mut ErrorList) {
    if Quantity::of(f.value).is_some_and(|q| q.0 < 0) {
        f.invalid(errors, NON_NEGATIVE);
    }
}

pub fn positive(f: &Field, errors: &mut ErrorList) {
    if Quantity::of(f.value).is_some_and(|q| q.0 <= 0) {
        f.invalid(errors, GREATER_THAN_ZERO);
    }
}
