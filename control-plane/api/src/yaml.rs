//! YAML into the JSON tree, and back: the dialect of upstream's `sigs.k8s.io/yaml` (YAML 1.1 scalars, `<<` merges).

use std::{borrow::Cow, collections::HashMap};

use granit_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Number, Value};

use crate::decode::{Decoded, MAX_DEPTH};

/// Nodes that a document may have once its aliases are replaced.
const MAX_NODES: usize = 1_000_000;
/// Bytes of text that a document may have once its aliases are replaced.
const MAX_TEXT: usize = 16 << 20;

/// How many keys that come twice are named.
const MAX_SAID: usize = 100;

/// The first document of `text`. Errors carry upstream's `line N: …` where the line is known.
pub fn parse(text: &str) -> Result<Decoded, String> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder { parser, anchors: HashMap::new(), strict: Vec::new(), nodes: 0, text: 0 };
    let value = builder.document()?;
    Ok(Decoded { value, strict: builder.strict })
}

struct Builder<'i> {
    parser: Parser<'i, granit_parser::StrInput<'i>>,
    /// What an alias stands for, with its nodes and its bytes of text.
    anchors: HashMap<usize, (Value, usize, usize)>,
    strict: Vec<String>,
    nodes: usize,
    text: usize,
}

impl<'i> Builder<'i> {
    /// The next event and the line it is on.
    fn event(&mut self) -> Result<(Event<'i>, usize), String> {
        match self.parser.next_event() {
            None => Ok((Event::StreamEnd, 0)),
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(error)) => {
                let line = error.marker().line();
                let words = error.info();
                let words = match words.to_ascii_lowercase() {
                    w if w.contains("mapping values are not allowed") => {
                        return Err("mapping values are not allowed in this context".into());
                    }
                    w if w.contains("node content") || w.contains("unclosed") => {
                        "did not find expected node content".into()
                    }
                    _ => words.to_owned(),
                };
                Err(format!("line {line}: {words}"))
            }
        }
    }

    fn document(&mut self) -> Result<Value, String> {
        loop {
            match self.event()? {
                (Event::StreamStart | Event::DocumentStart(..), _) => {}
                (Event::StreamEnd | Event::DocumentEnd, _) => return Ok(Value::Null),
                (event, line) => return self.node(event, line, 0),
            }
        }
    }

    fn count(&mut self, nodes: usize, text: usize) -> Result<(), String> {
        self.nodes += nodes;
        self.text += text;
        if self.nodes > MAX_NODES || self.text > MAX_TEXT {
            Err("document contains excessive aliasing".into())
        } else {
            Ok(())
        }
    }

    fn node(&mut self, event: Event<'i>, line: usize, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("line {line}: exceeded max depth"));
        }
        let (nodes, text) = (self.nodes, self.text);
        self.count(1, 0)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.count(0, text.len())?;
                (scalar(&text, style, tag.as_deref(), line)?, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.event()? {
                        (Event::SequenceEnd, _) => break,
                        (event, line) => items.push(self.node(event, line, depth + 1)?),
                    }
                }
                (Value::Array(items), anchor)
            }
            Event::MappingStart(_, anchor, _) => (self.mapping(depth)?, anchor),
            Event::Alias(id) => {
                let itself = || format!("line {line}: anchor contains itself");
                let (nodes, text) =
                    self.anchors.get(&id).map(|(_, nodes, text)| (*nodes, *text)).ok_or_else(itself)?;
                self.count(nodes, text)?;
                return self.anchors.get(&id).map(|(value, ..)| value.clone()).ok_or_else(itself);
            }
            _ => return Err(format!("line {line}: did not find expected node content")),
        };
        if anchor != 0 {
            // What is kept for aliases is as large as what they stand for.
            let (nodes, text) = (self.nodes - nodes, self.text - text);
            self.count(nodes, text)?;
            self.anchors.insert(anchor, (value.clone(), nodes, text));
        }
        Ok(value)
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, String> {
        let mut map = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, line) = self.event()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = self.node(event, line, depth + 1)?;
            let (event, value_line) = self.event()?;
            let value = self.node(event, value_line, depth + 1)?;
            if merge {
                merged.push((value, line));
                continue;
            }
            let key = key_text(key).ok_or_else(|| format!("line {line}: invalid map key"))?;
            if map.contains_key(&key) && self.strict.len() < MAX_SAID {
                self.strict
                    .push(format!("line {line}: key {} already set in map", crate::status::quoted(&key)));
            }
            map.insert(key, value);
        }
        for (value, line) in merged {
            merge_into(&mut map, value, line)?;
        }
        Ok(Value::Object(map))
    }
}

fn merge_into(map: &mut Map<String, Value>, value: Value, line: usize) -> Result<(), String> {
    match value {
        Value::Object(other) => {
            for (key, value) in other {
                map.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(list) => list.into_iter().try_for_each(|item| match item {
            item @ Value::Object(_) => merge_into(map, item, line),
            _ => Err(format!("line {line}: map merge requires map or sequence of maps as the value")),
        }),
        _ => Err(format!("line {line}: map merge requires map or sequence of maps as the value")),
    }
}

fn key_text(key: Value) -> Option<String> {
    match key {
        Value::String(text) => Some(text),
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) => Some(n.to_string()),
        Value::Null => Some("null".into()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Result<Value, String> {
    let core = tag.and_then(Tag::core_suffix);
    let string = || Value::String(text.to_owned());
    match core {
        Some("str" | "binary" | "timestamp") => return Ok(string()),
        Some("null") => return Ok(Value::Null),
        None if style != ScalarStyle::Plain || tag.is_some() => return Ok(string()),
        _ => {}
    }
    let value = plain(text).ok_or_else(|| format!("line {line}: cannot encode {text} as JSON"))?;
    match (core, value) {
        (Some("float"), Value::Number(n)) => {
            Ok(n.as_f64().and_then(Number::from_f64).map_or(Value::Null, Value::Number))
        }
        (_, value) => Ok(value),
    }
}

/// What a plain scalar means in YAML 1.1. `None` for numbers that JSON does not have.
fn plain(text: &str) -> Option<Value> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => true.into(),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => false.into(),
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf"
        | "-.Inf" | "-.INF" => return None,
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    })
}

fn number(text: &str) -> Option<Number> {
    let first = text.bytes().next()?;
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return None;
    }
    let plain: Cow<'_, str> = if text.contains('_') { text.replace('_', "").into() } else { text.into() };
    integer(&plain).or_else(|| float(&plain))
}

fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let based = |prefixes: &[&str], radix| {
        prefixes.iter().find_map(|p| digits.strip_prefix(p)).map(|rest| (rest, radix))
    };
    let (digits, radix) = based(&["0x", "0X"], 16)
        .or_else(|| based(&["0o", "0O"], 8))
        .or_else(|| based(&["0b", "0B"], 2))
        .or_else(|| digits.strip_prefix('0').filter(|r| !r.is_empty()).map(|rest| (rest, 8)))
        .unwrap_or((digits, 10));
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let value = u64::from_str_radix(digits, radix).ok()?;
    if !negative {
        return Some(value.into());
    }
    i128::from(value).checked_neg().and_then(|v| i64::try_from(v).ok()).map(Number::from)
}

fn float(text: &str) -> Option<Number> {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (body, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_ok = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    if !(digits(whole) && digits(fraction) && exponent_ok) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let value: f64 = text.strip_prefix('+').unwrap_or(text).parse().ok()?;
    Number::from_f64(value)
}

/// `value` as YAML, in the form that upstream's serializer writes: sorted keys, lists at their key's indent.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(&mut out, map, 0, false),
        Value::Array(list) if !list.is_empty() => write_list(&mut out, list, 0),
        other => {
            write_scalar(&mut out, other, 0);
            out.push('\n');
        }
    }
    out
}

/// Longer keys are announced by `?`.
const MAX_SIMPLE_KEY: usize = 128;

fn indent(out: &mut String, by: usize) {
    out.extend(std::iter::repeat_n(' ', by));
}

fn write_map(out: &mut String, map: &Map<String, Value>, level: usize, inline_first: bool) {
    for (i, (key, value)) in map.iter().enumerate() {
        if i > 0 || !inline_first {
            indent(out, level);
        }
        if key.contains('\n') || key.len() > MAX_SIMPLE_KEY {
            out.push_str("? ");
            write_text(out, key, level + 2);
            out.push('\n');
            indent(out, level);
        } else {
            write_simple(out, key, None);
        }
        out.push(':');
        write_field(out, value, level);
    }
}

fn write_field(out: &mut String, value: &Value, level: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            write_map(out, map, level + 2, false);
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            write_list(out, list, level);
        }
        other => {
            out.push(' ');
            write_scalar(out, other, level + 2);
            out.push('\n');
        }
    }
}

fn write_list(out: &mut String, list: &[Value], level: usize) {
    for item in list {
        indent(out, level);
        out.push('-');
        match item {
            Value::Object(map) if !map.is_empty() => {
                out.push(' ');
                write_map(out, map, level + 2, true);
            }
            Value::Array(inner) if !inner.is_empty() => {
                out.push('\n');
                write_list(out, inner, level + 2);
            }
            other => {
                out.push(' ');
                write_scalar(out, other, level + 2);
                out.push('\n');
            }
        }
    }
}

fn write_scalar(out: &mut String, value: &Value, level: usize) {
    match value {
        Value::String(text) => write_text(out, text, level),
        other => out.push_str(&other.to_string()),
    }
}

/// A string, quoted or as a block when it would not read back as itself.
fn write_text(out: &mut String, text: &str, level: usize) {
    let printable = text.chars().all(|c| c == '\n' || c == '\t' || printable(c));
    if printable && text.contains('\n') && !text.starts_with([' ', '\n', '\t']) && !text.contains(" \n") {
        out.push_str(match (text.ends_with('\n'), text.ends_with("\n\n")) {
            (_, true) => "|+",
            (true, _) => "|",
            _ => "|-",
        });
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            out.push('\n');
            if !line.is_empty() {
                indent(out, level.max(2));
                out.push_str(line);
            }
        }
        return;
    }
    if text.contains('\n') {
        write_double_quoted(out, text);
    } else {
        write_simple(out, text, Some(level));
    }
}

/// A string that is no block, broken into lines of that indentation. A key stays on its line.
fn write_simple(out: &mut String, text: &str, level: Option<usize>) {
    if !text.chars().all(|c| c == '\t' || printable(c)) {
        write_double_quoted(out, text);
    } else if needs_quotes(text) {
        match matches!(plain(text), Some(Value::String(_))) {
            // What would read as another type is double-quoted, what would break the syntax single-quoted.
            true => {
                out.push('\'');
                write_folded(out, text, level, true);
                out.push('\'');
            }
            false => write_double_quoted(out, text),
        }
    } else {
        write_folded(out, text, level, false);
    }
}

/// Columns after which upstream's emitter breaks a line at the next single space.
const WIDTH: usize = 80;

/// A text on as many lines as it takes, or on one without an indentation for more; `quoted` is within single quotes.
fn write_folded(out: &mut String, text: &str, level: Option<usize>, quoted: bool) {
    let mut column = out.rsplit('\n').next().unwrap_or_default().chars().count();
    let mut spaces = false;
    let mut rest = text.chars().peekable();
    let mut first = true;
    while let Some(c) = rest.next() {
        let inner = !quoted || (!first && rest.peek().is_some());
        first = false;
        if let Some(level) = level
            && c == ' '
            && inner
            && !spaces
            && column > WIDTH
            && rest.peek() != Some(&' ')
        {
            out.push('\n');
            indent(out, level);
            (column, spaces) = (level, true);
            continue;
        }
        if quoted && c == '\'' {
            out.push(c);
            column += 1;
        }
        out.push(c);
        column += 1;
        spaces = c == ' ';
    }
}

/// Whether upstream's emitter writes a character as itself. Characters beyond the basic plane are escaped.
fn printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
}

fn write_double_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{85}' => out.push_str("\\N"),
            '\u{2028}' => out.push_str("\\L"),
            '\u{2029}' => out.push_str("\\P"),
            c if printable(c) => out.push(c),
            c => out.push_str(&match u32::from(c) {
                n @ 0..=0xff => format!("\\x{n:02X}"),
                n @ 0x100..=0xffff => format!("\\u{n:04X}"),
                n => format!("\\U{n:08X}"),
            }),
        }
    }
    out.push('"');
}

fn needs_quotes(text: &str) -> bool {
    if !matches!(plain(text), Some(Value::String(_))) {
        return true;
    }
    let special = text.starts_with([
        '-', '?', ':', ',', '[', ']', '{', '}', '#', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`', ' ',
    ]) && !(text.starts_with(['-', '?', ':']) && text.len() > 1 && !text[1..].starts_with(' '));
    special
        || text.ends_with([' ', ':'])
        || text.contains(": ")
        || text.contains(" #")
        || text.contains('\t')
        || text == "<<"
        || text == "="
}
