//! Sets of field paths, as `managedFields[].fieldsV1` holds them (sigs.k8s.io/structured-merge-diff `fieldpath`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// One step of a path in the stored notation: `f:name`, `k:{"name":"c"}`, `v:"x"`, `i:0`.
pub type Element = String;

/// Levels that a stored set may have.
const MAX_DEPTH: usize = 100;

/// A set of paths: at each step whether the path ends here, and what goes on below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(BTreeMap<Element, Node>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: Set,
}

pub fn field(name: &str) -> Element {
    format!("f:{name}")
}

impl Set {
    pub fn insert(&mut self, path: &[Element]) {
        let Some((last, parents)) = path.split_last() else { return };
        let mut set = self;
        for step in parents {
            set = &mut set.0.entry(step.clone()).or_default().below;
        }
        set.0.entry(last.clone()).or_default().member = true;
    }

    /// Whether the path of this one step is in the set.
    pub fn has(&self, element: &str) -> bool {
        self.0.get(element).is_some_and(|node| node.member)
    }

    /// What the set holds below a step, if anything.
    pub fn below(&self, element: &str) -> Option<&Set> {
        self.0.get(element).map(|node| &node.below).filter(|set| !set.is_empty())
    }

    /// The steps that something goes on below.
    pub fn parents(&self) -> impl Iterator<Item = (&Element, &Set)> {
        self.0.iter().filter(|(_, node)| !node.below.is_empty()).map(|(e, node)| (e, &node.below))
    }

    pub fn is_empty(&self) -> bool {
        self.0.values().all(|node| !node.member && node.below.is_empty())
    }

    pub fn union(&self, other: &Set) -> Set {
        let mut out = self.clone();
        out.extend(other);
        out
    }

    /// Adds the paths of `other`.
    pub fn extend(&mut self, other: &Set) {
        for (element, node) in &other.0 {
            match self.0.get_mut(element) {
                Some(mine) => {
                    mine.member |= node.member;
                    mine.below.extend(&node.below);
                }
                None => {
                    self.0.insert(element.clone(), node.clone());
                }
            }
        }
    }

    fn combine(&self, other: &Set, keep: fn(bool, bool) -> bool) -> Set {
        let mut out = Set::default();
        let nothing = Node::default();
        for (element, node) in &self.0 {
            let theirs = other.0.get(element).unwrap_or(&nothing);
            let node = Node {
                member: keep(node.member, theirs.member),
                below: node.below.combine(&theirs.below, keep),
            };
            if node.member || !node.below.is_empty() {
                out.0.insert(element.clone(), node);
            }
        }
        out
    }

    pub fn difference(&self, other: &Set) -> Set {
        self.combine(other, |mine, theirs| mine && !theirs)
    }

    pub fn intersection(&self, other: &Set) -> Set {
        self.combine(other, |mine, theirs| mine && theirs)
    }

    /// Without the paths of `other` and everything below them.
    pub fn without_trees(&self, other: &Set) -> Set {
        let mut out = Set::default();
        for (element, node) in &self.0 {
            match other.0.get(element) {
                Some(theirs) if theirs.member => {}
                Some(theirs) => {
                    let below = node.below.without_trees(&theirs.below);
                    if node.member || !below.is_empty() {
                        out.0.insert(element.clone(), Node { member: node.member, below });
                    }
                }
                None => {
                    out.0.insert(element.clone(), node.clone());
                }
            }
        }
        out
    }

    /// With the steps for which `named` says so as members, where something goes on below them. `named` is given the
    /// place that `at` is, and returns the place below a step together with its answer.
    pub fn with_members<P: Copy>(&self, at: P, named: &impl Fn(P, &str) -> (bool, P)) -> Set {
        let mut out = Set::default();
        for (element, node) in &self.0 {
            let (is_named, below) = named(at, element);
            let node = Node {
                member: node.member || (is_named && !node.below.is_empty()),
                below: node.below.with_members(below, named),
            };
            out.0.insert(element.clone(), node);
        }
        out
    }

    /// With what lies below a step as that step alone where `whole` says so. `whole` is given the place that `at` is,
    /// and returns the place below a step together with its answer.
    pub fn cut<P: Copy>(&self, at: P, whole: &impl Fn(P, &str) -> (bool, P)) -> Set {
        let mut out = Set::default();
        for (element, node) in &self.0 {
            let (is_whole, below) = whole(at, element);
            let node = match is_whole && !node.below.is_empty() {
                true => Node { member: true, below: Set::default() },
                false => Node { member: node.member, below: node.below.cut(below, whole) },
            };
            out.0.insert(element.clone(), node);
        }
        out
    }

    /// The paths that follow one of the patterns to their end and beyond, and the members on the way there. A pattern
    /// is a list of field names, `*` for any step.
    pub fn along(&self, patterns: &[&[&str]]) -> Set {
        if patterns.iter().any(|pattern| pattern.is_empty()) {
            return self.clone();
        }
        let mut out = Set::default();
        for (element, node) in &self.0 {
            let rest: Vec<&[&str]> = patterns
                .iter()
                .filter_map(|pattern| pattern.split_first())
                .filter(|(first, _)| **first == "*" || element.strip_prefix("f:") == Some(first))
                .map(|(_, rest)| rest)
                .collect();
            if !rest.is_empty() {
                let node = Node { member: node.member, below: node.below.along(&rest) };
                if node.member || !node.below.is_empty() {
                    out.0.insert(element.clone(), node);
                }
            }
        }
        out
    }

    /// Whether this very path is in the set.
    pub fn contains(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.has(last),
            [first, rest @ ..] => self.below(first).is_some_and(|set| set.contains(rest)),
        }
    }

    /// Every path, parents before what is below them, as upstream prints it: `.spec.containers[name="c"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect("", &mut out);
        out
    }

    fn collect(&self, prefix: &str, out: &mut Vec<String>) {
        let mut sorted: Vec<(&Element, &Node)> = self.0.iter().collect();
        sorted.sort_by_cached_key(|(element, _)| rank(element));
        // Upstream lists the paths that end at a level before those that go on.
        for (element, node) in &sorted {
            if node.member {
                out.push(format!("{prefix}{}", shown(element)));
            }
        }
        for (element, node) in &sorted {
            node.below.collect(&format!("{prefix}{}", shown(element)), out);
        }
    }

    /// `fieldsV1`
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (element, node) in &self.0 {
            let mut value = node.below.to_json();
            if node.member
                && let Some(fields) = value.as_object_mut()
                && !fields.is_empty()
            {
                fields.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(element.clone(), value);
        }
        Value::Object(map)
    }

    /// Reads `fieldsV1`. `None` when it is malformed.
    pub fn from_json(value: &Value) -> Option<Set> {
        Self::read(value, 0)
    }

    fn read(value: &Value, depth: usize) -> Option<Set> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut out = Set::default();
        for (element, below) in value.as_object()? {
            if element == "." {
                continue;
            }
            let element = canonical(element)?;
            let fields = below.as_object()?;
            let member = fields.is_empty() || fields.contains_key(".");
            out.0.insert(element, Node { member, below: Self::read(below, depth + 1)? });
        }
        Some(out)
    }
}

/// The same step in the one way that this code writes it.
fn canonical(element: &str) -> Option<Element> {
    let (kind, rest) = element.split_once(':')?;
    match kind {
        "f" => Some(element.to_owned()),
        "k" => {
            serde_json::from_str::<Map<String, Value>>(rest).ok().map(|m| format!("k:{}", Value::Object(m)))
        }
        "v" => serde_json::from_str::<Value>(rest).ok().map(|v| format!("v:{v}")),
        "i" => rest.parse::<usize>().ok().map(|i| format!("i:{i}")),
        _ => None,
    }
}

/// A scalar in the order that upstream sorts by: numbers by value, then texts, then booleans.
type Rank = (u8, i64, String);

/// Where a step stands among its siblings: fields, keys, values, indices.
fn rank(element: &str) -> (u8, Vec<(String, Rank)>) {
    let scalar = |value: &Value| -> Rank {
        match value {
            Value::Number(n) => (0, n.as_i64().unwrap_or_default(), n.to_string()),
            Value::String(text) => (1, 0, text.clone()),
            other => (2, 0, other.to_string()),
        }
    };
    let (kind, rest) = element.split_once(':').unwrap_or(("", element));
    let parsed = || serde_json::from_str::<Value>(rest).unwrap_or_default();
    match kind {
        "f" => (0, vec![(rest.to_owned(), (0, 0, String::new()))]),
        "k" => match parsed() {
            Value::Object(map) => (1, map.iter().map(|(key, value)| (key.clone(), scalar(value))).collect()),
            _ => (1, Vec::new()),
        },
        "v" => (2, vec![(String::new(), scalar(&parsed()))]),
        _ => (3, vec![(String::new(), scalar(&parsed()))]),
    }
}

/// A step as conflict messages show it.
pub fn shown(element: &str) -> String {
    let (kind, rest) = element.split_once(':').unwrap_or(("", element));
    match kind {
        "f" => format!(".{rest}"),
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", keys.join(","))
        }
        "v" => format!("[={rest}]"),
        _ => format!("[{rest}]"),
    }
}
