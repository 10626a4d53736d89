//! Label and field selectors: parsing with upstream's words (`k8s.io/apimachinery/pkg/{labels,fields}`), matching.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{kind::Kind, status::quoted, validate::names};

/// How a requirement compares the label's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub compare: Compare,
}

impl Requirement {
    /// Whether `value`, the label's value if there is one, satisfies this.
    pub fn accepts(&self, value: Option<&str>) -> bool {
        match (&self.compare, value) {
            (Compare::Exists, v) => v.is_some(),
            (Compare::Absent, v) => v.is_none(),
            (Compare::In(set), v) => v.is_some_and(|v| set.contains(v)),
            (Compare::NotIn(set), v) => v.is_none_or(|v| !set.contains(v)),
            (Compare::Greater(n), v) => v.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *n),
            (Compare::Less(n), v) => v.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *n),
        }
    }
}

/// All requirements must hold. The empty one matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches no object at all (an absent `metav1.LabelSelector`).
    pub fn nothing() -> Self {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// The text form of a `labelSelector` parameter: `a=b,c in (d,e),!f`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Parser::new(text).parse()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// A `metav1.LabelSelector` object: absent matches nothing, empty matches everything.
    pub fn from_object(object: &Value) -> Result<Self, String> {
        if object.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in object["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(requirement(key, "=", BTreeSet::from([value]))?);
        }
        for expression in object["matchExpressions"].as_array().into_iter().flatten() {
            let key = expression["key"].as_str().unwrap_or_default();
            let values = expression["values"].as_array().into_iter().flatten();
            let values: BTreeSet<String> = values.filter_map(Value::as_str).map(Into::into).collect();
            let operator = match expression["operator"].as_str().unwrap_or_default() {
                "In" => "in",
                "NotIn" => "notin",
                "Exists" => "exists",
                "DoesNotExist" => "!",
                other => return Err(format!("{} is not a valid label selector operator", quoted(other))),
            };
            if matches!(operator, "in" | "notin") && values.is_empty() {
                return Err("for 'in', 'notin' operators, values set can't be empty".into());
            }
            if matches!(operator, "exists" | "!") && !values.is_empty() {
                return Err("values set must be empty for exists and does not exist".into());
            }
            requirements.push(requirement(key, operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// `labels` is `metadata.labels`, or null.
    pub fn matches(&self, labels: &Value) -> bool {
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }

    /// The same over any way to look a label up.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.accepts(label(&r.key)))
    }

    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl std::fmt::Display for LabelSelector {
    /// Upstream's canonical text, as a Scale's `status.selector` carries it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(",");
            match &r.compare {
                Compare::In(set) if set.len() == 1 => write!(f, "{}={}", r.key, list(set))?,
                Compare::In(set) => write!(f, "{} in ({})", r.key, list(set))?,
                Compare::NotIn(set) => write!(f, "{} notin ({})", r.key, list(set))?,
                Compare::Exists => f.write_str(&r.key)?,
                Compare::Absent => write!(f, "!{}", r.key)?,
                Compare::Greater(n) => write!(f, "{}>{n}", r.key)?,
                Compare::Less(n) => write!(f, "{}<{n}", r.key)?,
            }
        }
        Ok(())
    }
}

fn requirement(key: &str, operator: &str, values: BTreeSet<String>) -> Result<Requirement, String> {
    check_key(key)?;
    let integer = || {
        let value = values.first().map(String::as_str).unwrap_or_default();
        value.parse::<i64>().map_err(|_| {
            format!(
                "values[0]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
                quoted(value)
            )
        })
    };
    let compare = match operator {
        "exists" => Compare::Exists,
        "!" => Compare::Absent,
        ">" => Compare::Greater(integer()?),
        "<" => Compare::Less(integer()?),
        _ => {
            for (i, value) in values.iter().enumerate() {
                let errors = names::label_value(value);
                if !errors.is_empty() {
                    let detail = errors.join("; ");
                    return Err(format!("values[{i}][{key}]: Invalid value: {}: {detail}", quoted(value)));
                }
            }
            match operator {
                "in" | "=" | "==" => Compare::In(values),
                _ => Compare::NotIn(values),
            }
        }
    };
    Ok(Requirement { key: key.into(), compare })
}

fn check_key(key: &str) -> Result<(), String> {
    let errors = names::qualified(key);
    if errors.is_empty() {
        return Ok(());
    }
    let detail = errors.join("; ").replacen("a qualified name", "a valid label key", 1);
    Err(format!("<nil>: Invalid value: {}: {detail}", quoted(key)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

fn token_of(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::Open,
        _ => return None,
    })
}

/// In a value's place `in` and `notin` are ordinary words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Operator,
    Value,
}

struct Parser {
    tokens: Vec<(Token, String)>,
    next: usize,
}

impl Parser {
    fn new(text: &str) -> Self {
        Parser { tokens: lex(text), next: 0 }
    }

    fn peek(&self, place: Place) -> (Token, &str) {
        let Some((token, text)) = self.tokens.get(self.next) else { return (Token::End, "") };
        match (place, token) {
            (Place::Value, Token::In | Token::NotIn) => (Token::Identifier, text),
            _ => (*token, text),
        }
    }

    fn take(&mut self, place: Place) -> (Token, String) {
        let (token, text) = self.peek(place);
        let taken = (token, text.to_owned());
        self.next += 1;
        taken
    }

    fn parse(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek(Place::Value) {
                (Token::Identifier | Token::Not, _) => {
                    let one = self.one().map_err(|e| format!("unable to parse requirement: {e}"))?;
                    requirements.push(one);
                    match self.take(Place::Value) {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => match self.peek(Place::Value) {
                            (Token::Identifier | Token::Not, _) => {}
                            (_, text) => {
                                return Err(format!("found '{text}', expected: identifier after ','"));
                            }
                        },
                        (_, text) => {
                            return Err(format!("found '{text}', expected: ',' or 'end of string'"));
                        }
                    }
                }
                (Token::End, _) => return Ok(requirements),
                (_, text) => {
                    return Err(format!("found '{text}', expected: !, identifier, or 'end of string'"));
                }
            }
        }
    }

    fn one(&mut self) -> Result<Requirement, String> {
        let mut absent = false;
        let mut head = self.take(Place::Value);
        if head.0 == Token::Not {
            absent = true;
            head = self.take(Place::Value);
        }
        if head.0 != Token::Identifier {
            return Err(format!("found '{}', expected: identifier", head.1));
        }
        let key = head.1;
        check_key(&key)?;
        if absent {
            return requirement(&key, "!", BTreeSet::new());
        }
        if matches!(self.peek(Place::Value).0, Token::End | Token::Comma) {
            return requirement(&key, "exists", BTreeSet::new());
        }
        let (token, operator) = self.take(Place::Operator);
        let values = match token {
            Token::In | Token::NotIn => self.values()?,
            Token::Equals | Token::DoubleEquals | Token::NotEquals | Token::Greater | Token::Less => {
                self.exact()?
            }
            _ => {
                return Err(format!("found '{operator}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        };
        requirement(&key, &operator, values)
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        let (token, text) = self.take(Place::Value);
        if token != Token::Open {
            return Err(format!("found '{text}' expected: '('"));
        }
        match self.peek(Place::Value) {
            (Token::Identifier | Token::Comma, _) => {
                let set = self.list()?;
                match self.take(Place::Value) {
                    (Token::Close, _) => Ok(set),
                    (_, text) => Err(format!("found '{text}', expected: ')'")),
                }
            }
            (Token::Close, _) => {
                self.next += 1;
                Ok(BTreeSet::new())
            }
            (_, text) => Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
    }

    fn list(&mut self) -> Result<BTreeSet<String>, String> {
        let mut set = BTreeSet::new();
        loop {
            match self.take(Place::Value) {
                (Token::Identifier, text) => {
                    set.insert(text);
                    match self.peek(Place::Value) {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(set),
                        (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if set.is_empty() {
                        set.insert(String::new());
                    }
                    match self.peek(Place::Value).0 {
                        Token::Close => {
                            set.insert(String::new());
                            return Ok(set);
                        }
                        Token::Comma => {
                            self.next += 1;
                            set.insert(String::new());
                        }
                        _ => {}
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }

    fn exact(&mut self) -> Result<BTreeSet<String>, String> {
        if matches!(self.peek(Place::Value).0, Token::End | Token::Comma) {
            return Ok(BTreeSet::from([String::new()]));
        }
        match self.take(Place::Value) {
            (Token::Identifier, text) => Ok(BTreeSet::from([text])),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }
}

fn lex(text: &str) -> Vec<(Token, String)> {
    let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(space);
        let Some(first) = rest.chars().next() else { return tokens };
        let length =
            if special(first) { 0 } else { rest.find(|c| special(c) || space(c)).unwrap_or(rest.len()) };
        if length > 0 {
            let (word, tail) = rest.split_at(length);
            tokens.push((token_of(word).unwrap_or(Token::Identifier), word.to_owned()));
            rest = tail;
            continue;
        }
        // The longest run of special characters that is an operator; special characters are one byte each, and no
        // operator has more than two.
        let run = rest.chars().take(2).take_while(|c| special(*c)).count();
        let mut best = None;
        for end in 1..=run {
            match rest.get(..end).and_then(token_of) {
                Some(token) => best = Some((token, end)),
                None if best.is_some() => break,
                None => {}
            }
        }
        match best {
            Some((token, end)) => {
                let (word, tail) = rest.split_at(end);
                tokens.push((token, word.to_owned()));
                rest = tail;
            }
            None => {
                let (word, tail) = rest.split_at(run);
                tokens.push((Token::Error, format!("error expected: keyword found '{word}'")));
                rest = tail;
            }
        }
    }
}

/// `a=b,c!=d` over the few fields that a kind knows.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FieldSelector {
    requirements: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// The text form of a `fieldSelector` parameter. An unknown field is refused in upstream's words.
    pub fn parse(kind: &Kind, text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let Some((label, equal, value)) = split_term(term) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            let value = unescape(value)?;
            known(kind, label)?;
            requirements.push((label.to_owned(), equal, value));
        }
        Ok(FieldSelector { requirements })
    }

    pub fn matches(&self, kind: &Kind, object: &Value) -> bool {
        self.requirements
            .iter()
            .all(|(label, equal, value)| (Self::value_of(kind, object, label) == *value) == *equal)
    }

    /// The same over values looked up elsewhere (an index kept beside the object's bytes).
    pub fn matches_with<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements
            .iter()
            .all(|(label, equal, value)| (field(label).unwrap_or_default() == value) == *equal)
    }

    /// The text that the selector compares with for `label`, `""` when there is none.
    pub fn value_of(kind: &Kind, object: &Value, label: &str) -> String {
        match label {
            "metadata.name" => object["metadata"]["name"].as_str().unwrap_or_default().into(),
            "metadata.namespace" => object["metadata"]["namespace"].as_str().unwrap_or_default().into(),
            _ => kind.fields.iter().find(|f| f.label == label).map(|f| (f.value)(object)).unwrap_or_default(),
        }
    }

    /// The name of a `metadata.name=` requirement: then at most one object can match.
    pub fn name(&self) -> Option<&str> {
        self.exact("metadata.name")
    }

    /// The value that `label` must equal, if the selector says so.
    pub fn exact(&self, label: &str) -> Option<&str> {
        self.requirements.iter().find(|(l, equal, _)| l == label && *equal).map(|(_, _, v)| v.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// `(label, must be equal, value)`
    pub fn requirements(&self) -> &[(String, bool, String)] {
        &self.requirements
    }
}

fn known(kind: &Kind, label: &str) -> Result<(), String> {
    let own = !kind.fields.is_empty();
    let generic = label == "metadata.name" || (label == "metadata.namespace" && (kind.namespaced || !own));
    if generic || kind.fields.iter().any(|f| f.label == label) {
        return Ok(());
    }
    Err(match (own, kind.kind) {
        (false, _) => format!(
            "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            quoted(label)
        ),
        (true, "Job") => format!("field label {} not supported for Job", quoted(label)),
        (true, _) => format!("field label not supported: {label}"),
    })
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(text.get(start..i).unwrap_or_default());
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(text.get(start..).unwrap_or_default());
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let (label, rest) = term.split_at(i);
        if let Some(value) = rest.strip_prefix("!=") {
            return Some((label, false, value));
        }
        if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            return Some((label, true, value));
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    if !value.contains(['\\', ',', '=']) {
        return Ok(value.to_owned());
    }
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(format!("invalid field selector: invalid escape sequence: \\{c}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".into()),
            },
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {value}: {c}"));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}
