//! Quantities in the canonical form that upstream writes (`k8s.io/apimachinery/pkg/api/resource`).

/// Upstream's words for a text that is no quantity.
pub const FORMAT: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Suffix {
    /// A power of 1024.
    Binary(u32),
    /// A power of ten, written with a letter.
    Decimal(i32),
    /// A power of ten, written `e3`.
    Exponent(i32),
}

fn suffix(text: &str) -> Option<Suffix> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [(&str, i32); 10] = [
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
    if let Some(i) = BINARY.iter().position(|s| *s == text) {
        return u32::try_from(i + 1).ok().map(Suffix::Binary);
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == text) {
        return Some(Suffix::Decimal(*power));
    }
    let power: i32 = text.strip_prefix(['e', 'E'])?.parse().ok()?;
    (-1000..=1000).contains(&power).then_some(Suffix::Exponent(power))
}

/// The form of `text` that upstream writes, `None` when it is no quantity: `0.5` is `500m`, `1024Mi` is `1Gi`, `1000m`
/// is `1`. A text that upstream's parser takes for canonical is kept, though it may not be: `+1`, `007`, `1.234`.
pub fn canonical(text: &str) -> Option<String> {
    let text = text.trim();
    let shown = computed(text)?;
    Some(if kept(text) { text.to_owned() } else { shown })
}

/// Whether upstream's parser keeps the text: it looks at the digits and at the suffix, not at sign and leading zeros.
/// `text` is a quantity.
fn kept(text: &str) -> bool {
    /// Digits that always fit what the parser counts in.
    const DIGITS: usize = 18;
    let body = text.trim_start_matches(['+', '-']).trim_start_matches('0');
    let end = body.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(body.len());
    let (number, unit) = body.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let places = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    match suffix(unit) {
        _ if whole.is_empty() => false,
        Some(Suffix::Binary(power)) => {
            // The parser's estimate of the decimal digits that the suffix stands for.
            let room = (power as usize).checked_mul(3).and_then(|used| 14usize.checked_sub(used));
            fraction.is_empty()
                && room.is_some_and(|room| digits.len() <= room)
                && digits.parse::<u64>().is_ok_and(|number| number & 7 != 0)
        }
        Some(Suffix::Decimal(power) | Suffix::Exponent(power)) => {
            let scale = power.saturating_sub(places);
            digits.len() <= DIGITS && scale >= -9 && scale % 3 == 0 && !digits.ends_with("000")
        }
        None => false,
    }
}

fn computed(text: &str) -> Option<String> {
    let (negative, body) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = body.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(body.len());
    let (number, unit) = body.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let suffix = suffix(unit)?;
    let digits = format!("{whole}{}", fraction.trim_end_matches('0'));
    let digits = digits.trim_start_matches('0');
    if digits.len() > 36 {
        return None;
    }
    let mantissa: u128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let scale = -i32::try_from(fraction.trim_end_matches('0').len()).ok()?;
    let shown = match suffix {
        _ if mantissa == 0 => "0".to_owned(),
        Suffix::Binary(power) => binary(mantissa, scale, power)?,
        Suffix::Decimal(power) => decimal(mantissa, scale + power, false)?,
        Suffix::Exponent(power) => decimal(mantissa, scale + power, true)?,
    };
    Some(if negative && shown != "0" { format!("-{shown}") } else { shown })
}

/// `mantissa * 10^scale * 1024^power`.
fn binary(mantissa: u128, scale: i32, power: u32) -> Option<String> {
    let value = mantissa.checked_mul(1024u128.checked_pow(power)?)?;
    let divisor = 10u128.checked_pow(scale.unsigned_abs())?;
    if value % divisor != 0 || value / divisor < 1024 {
        // A fraction of a byte, or too small for a binary suffix: written as a decimal.
        return decimal(value, scale, false);
    }
    let (mut value, mut power) = (value / divisor, 0);
    while power < 6 && value.is_multiple_of(1024) {
        value /= 1024;
        power += 1;
    }
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    Some(format!("{value}{}", UNITS.get(power)?))
}

/// `mantissa * 10^scale` with the largest exponent (a multiple of three) that leaves no fraction.
fn decimal(mut mantissa: u128, mut scale: i32, exponent: bool) -> Option<String> {
    while mantissa.is_multiple_of(10) {
        mantissa /= 10;
        scale += 1;
    }
    // Nothing is smaller than a nano: round up.
    while scale < -9 {
        mantissa = mantissa.div_ceil(10);
        scale += 1;
    }
    while mantissa.is_multiple_of(10) {
        mantissa /= 10;
        scale += 1;
    }
    while scale.rem_euclid(3) != 0 || (scale > 18 && !exponent) {
        mantissa = mantissa.checked_mul(10)?;
        scale -= 1;
    }
    if exponent {
        return Some(if scale == 0 { mantissa.to_string() } else { format!("{mantissa}e{scale}") });
    }
    let unit = match scale {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        0 => "",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        18 => "E",
        _ => return None,
    };
    Some(format!("{mantissa}{unit}"))
}
