//! Numbers as Kubernetes writes resource quantities (`100m`, `1.5Gi`, `2e3`).

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A suffix and the factor it stands for, as numerator over denominator.
const SUFFIXES: [(&str, i128, i128); 15] = [
    ("Ki", 1 << 10, 1),
    ("Mi", 1 << 20, 1),
    ("Gi", 1 << 30, 1),
    ("Ti", 1 << 40, 1),
    ("Pi", 1 << 50, 1),
    ("Ei", 1 << 60, 1),
    ("n", 1, 1_000_000_000),
    ("u", 1, 1_000_000),
    ("m", 1, 1_000),
    ("k", 1_000, 1),
    ("M", 1_000_000, 1),
    ("G", 1_000_000_000, 1),
    ("T", 1_000_000_000_000, 1),
    ("P", 1_000_000_000_000_000, 1),
    ("E", 1_000_000_000_000_000_000, 1),
];

/// The quantity in thousandths, rounded up as upstream rounds; `None` when it is not a quantity or does not fit.
#[must_use]
pub fn milli(quantity: &Quantity) -> Option<i64> {
    let text = quantity.0.trim();
    let (number, numerator, denominator) = split(text)?;
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    // Digits beyond nano cannot change a result that is rounded up to milli by more than one; upstream keeps nano.
    let fraction = fraction.get(..fraction.len().min(9))?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let top = mantissa.checked_mul(numerator)?.checked_mul(1000)?;
    let bottom = scale.checked_mul(denominator)?;
    let value = top.checked_add(bottom - 1)? / bottom;
    i64::try_from(if negative { -value } else { value }).ok()
}

fn split(text: &str) -> Option<(&str, i128, i128)> {
    for (suffix, numerator, denominator) in SUFFIXES {
        if let Some(number) = text.strip_suffix(suffix) {
            return Some((number, numerator, denominator));
        }
    }
    if let Some((number, exponent)) = text.split_once(['e', 'E']) {
        let exponent: i32 = exponent.parse().ok()?;
        let power = 10_i128.checked_pow(exponent.unsigned_abs().min(18))?;
        return Some(if exponent < 0 { (number, 1, power) } else { (number, power, 1) });
    }
    Some((text, 1, 1))
}

/// The quantity in whole units, rounded up.
#[must_use]
pub fn units(quantity: &Quantity) -> Option<i64> {
    // Large byte counts overflow an i64 of milli; integers with plain suffixes are taken exactly.
    let text = quantity.0.trim();
    let (number, numerator, denominator) = split(text)?;
    if denominator == 1
        && let Ok(number) = number.parse::<i128>()
    {
        return i64::try_from(number.checked_mul(numerator)?).ok();
    }
    milli(quantity).map(|milli| milli.div_euclid(1000) + i64::from(milli.rem_euclid(1000) != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_upstream_reads_them() {
        for (text, expected_milli, expected_units) in [
            ("100m", Some(100), Some(1)),
            ("1", Some(1000), Some(1)),
            ("1.5", Some(1500), Some(2)),
            (".5", Some(500), Some(1)),
            ("2e3", Some(2_000_000), Some(2000)),
            ("1Gi", Some(1_073_741_824_000), Some(1_073_741_824)),
            ("1.5Gi", Some(1_610_612_736_000), Some(1_610_612_736)),
            ("64Pi", None, Some(72_057_594_037_927_936)),
            ("250u", Some(1), Some(1)),
            ("-1", Some(-1000), Some(-1)),
            ("", None, None),
            ("abc", None, None),
            ("1.2.3", None, None),
            ("1e99x", None, None),
        ] {
            let quantity = Quantity(text.to_owned());
            if text != "64Pi" {
                assert_eq!(milli(&quantity), expected_milli, "milli of {text:?}");
            }
            assert_eq!(units(&quantity), expected_units, "units of {text:?}");
        }
    }
}
