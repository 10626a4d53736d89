//! What changed in a pod, as upstream's refusals show it: the unified diff of two dumps of its internal types, which have
//! the fields of v1 under Go's names, all of them, and those of the node's namespaces in the security context.

use std::{collections::HashMap, fmt::Write as _};

use serde_json::{Map, Value};

use crate::{
    patch,
    schema::{self, Emit, Schema, Shape},
};

const SPEC: &str = "io.k8s.api.core.v1.PodSpec";
/// Fields that the internal security context has of the v1 spec.
const HOST: [&str; 5] = ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"];
/// Lines of a dump beyond which nobody reads a diff, and finding it takes long.
const MAX_LINES: usize = 4000;
const CONTEXT: usize = 3;

/// The diff of two pod specs.
pub fn spec(old: &Value, new: &Value) -> String {
    difference(SPEC, &internal(old), &internal(new))
}

/// The diff of two ephemeral containers.
pub fn ephemeral(old: &Value, new: &Value) -> String {
    difference("io.k8s.api.core.v1.EphemeralContainer", old, new)
}

/// The spec in the shape of the internal type.
fn internal(spec: &Value) -> Value {
    let mut spec = spec.as_object().cloned().unwrap_or_default();
    let moved: Map<String, Value> =
        HOST.iter().filter_map(|key| Some(((*key).to_owned(), spec.remove(*key)?))).collect();
    match spec.get_mut("securityContext").and_then(Value::as_object_mut) {
        Some(context) => context.extend(moved),
        None if !moved.is_empty() => {
            spec.insert("securityContext".into(), Value::Object(moved));
        }
        None => {}
    }
    Value::Object(spec)
}

fn difference(name: &str, old: &Value, new: &Value) -> String {
    let Some(schema) = schema::of(name) else { return String::new() };
    let dump = |value: &Value| {
        let mut out = String::new();
        write(&mut out, schema, Emit::Always, value, 0);
        out.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    let (old, new) = (dump(old), dump(new));
    if old.len().max(new.len()) > MAX_LINES { String::new() } else { unified(&old, &new) }
}

fn indent(out: &mut String, level: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', level));
}

fn write(out: &mut String, schema: &Schema, emit: Emit, value: &Value, level: usize) {
    let node = schema.resolve();
    let pointer = emit == Emit::Pointer;
    match (&node.shape, value) {
        (Shape::Object(_), Value::Null) if pointer => out.push_str("null"),
        (Shape::Object(_), value) => fields(out, node, value, level),
        (Shape::Array(items), Value::Array(list)) if !list.is_empty() => {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                indent(out, level + 1);
                write(out, items, Emit::Always, item, level + 1);
            }
            indent(out, level);
            out.push(']');
        }
        (Shape::Map(values), Value::Object(map)) if !map.is_empty() => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                indent(out, level + 1);
                let _ = write!(out, "{}: ", Value::from(key.as_str()));
                write(out, values, Emit::Always, item, level + 1);
            }
            indent(out, level);
            out.push('}');
        }
        (Shape::Array(_) | Shape::Map(_) | Shape::Bytes, _) => out.push_str("null"),
        (shape, Value::Null) if !pointer => out.push_str(match shape {
            Shape::String => "\"\"",
            Shape::Quantity => "\"0\"",
            Shape::Boolean => "false",
            Shape::Int32 | Shape::Int64 | Shape::Number | Shape::IntOrString => "0",
            _ => "null",
        }),
        (_, value) => {
            let _ = write!(out, "{value}");
        }
    }
}

/// All fields of a struct, set or not.
fn fields(out: &mut String, node: &Schema, value: &Value, level: usize) {
    out.push('{');
    let order = patch::message(node).map_or(&[][..], patch::internal_order);
    let spec = schema::of(SPEC);
    let known = order.iter().filter_map(|name| {
        let property = node.field(name).or_else(|| spec?.field(name).filter(|_| HOST.contains(name)))?;
        Some((*name, property))
    });
    for (i, (name, property)) in known.enumerate() {
        out.push_str(if i > 0 { "," } else { "" });
        indent(out, level + 1);
        let _ = write!(out, "\"{}\": ", go_name(name));
        // The token's lifetime is a pointer in v1 only; the token source always has one.
        write(out, &property.schema, property.emit, &value[name], level + 1);
    }
    indent(out, level);
    out.push('}');
}

/// The name of a field in Go, of its name in JSON.
fn go_name(name: &str) -> String {
    const PREFIXES: &[(&str, &str)] = &[
        ("apiVersion", "APIVersion"),
        ("aws", "AWS"),
        ("cephfs", "CephFS"),
        ("csi", "CSI"),
        ("dns", "DNS"),
        ("fc", "FC"),
        ("fs", "FS"),
        ("gce", "GCE"),
        ("gmsa", "GMSA"),
        ("grpc", "GRPC"),
        ("http", "HTTP"),
        ("ip", "IP"),
        ("iscsi", "ISCSI"),
        ("nfs", "NFS"),
        ("os", "OS"),
        ("rbd", "RBD"),
        ("seLinux", "SELinux"),
        ("storageos", "StorageOS"),
        ("tcp", "TCP"),
        ("tty", "TTY"),
        ("uid", "UID"),
    ];
    for (prefix, go) in PREFIXES {
        match name.strip_prefix(prefix) {
            Some(rest) if rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_uppercase()) => {
                return format!("{go}{rest}");
            }
            _ => {}
        }
    }
    let mut name = name.to_owned();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    name
}

/// One run of lines: `old[0]..old[1]` became `new[0]..new[1]`.
#[derive(Clone, Copy)]
struct Run {
    same: bool,
    old: (usize, usize),
    new: (usize, usize),
}

/// Hunks as Python's difflib makes them.
fn unified(old: &[String], new: &[String]) -> String {
    let mut out = String::new();
    for hunk in hunks(runs(old, new)) {
        let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { continue };
        let _ =
            writeln!(out, "@@ -{} +{} @@", range(first.old.0, last.old.1), range(first.new.0, last.new.1));
        for run in &hunk {
            let lines = |mark: char, list: &[String], (from, to): (usize, usize)| -> String {
                list.get(from..to).unwrap_or_default().iter().map(|line| format!("{mark}{line}\n")).collect()
            };
            if run.same {
                out.push_str(&lines(' ', old, run.old));
            } else {
                out.push_str(&lines('-', old, run.old));
                out.push_str(&lines('+', new, run.new));
            }
        }
    }
    out
}

fn range(from: usize, to: usize) -> String {
    match to - from {
        1 => (from + 1).to_string(),
        0 => format!("{from},0"),
        length => format!("{},{length}", from + 1),
    }
}

/// Groups of changes with up to three lines around them.
fn hunks(mut runs: Vec<Run>) -> Vec<Vec<Run>> {
    if let Some(first) = runs.first_mut().filter(|run| run.same) {
        first.old.0 = first.old.0.max(first.old.1.saturating_sub(CONTEXT));
        first.new.0 = first.new.0.max(first.new.1.saturating_sub(CONTEXT));
    }
    if let Some(last) = runs.last_mut().filter(|run| run.same) {
        last.old.1 = last.old.1.min(last.old.0 + CONTEXT);
        last.new.1 = last.new.1.min(last.new.0 + CONTEXT);
    }
    let (mut all, mut hunk) = (Vec::new(), Vec::new());
    for mut run in runs {
        if run.same && run.old.1 - run.old.0 > 2 * CONTEXT {
            let ends = (run.old.0 + CONTEXT, run.new.0 + CONTEXT);
            hunk.push(Run { old: (run.old.0, ends.0), new: (run.new.0, ends.1), ..run });
            all.push(std::mem::take(&mut hunk));
            run.old.0 = run.old.1 - CONTEXT;
            run.new.0 = run.new.1 - CONTEXT;
        }
        hunk.push(run);
    }
    if hunk.iter().any(|run| !run.same) {
        all.push(hunk);
    }
    all
}

/// What is the same and what is not, from the first line to the last.
fn runs(old: &[String], new: &[String]) -> Vec<Run> {
    let mut out = Vec::new();
    let (mut i, mut j) = (0, 0);
    for (a, b, length) in blocks(old, new) {
        if i < a || j < b {
            out.push(Run { same: false, old: (i, a), new: (j, b) });
        }
        if length > 0 {
            out.push(Run { same: true, old: (a, a + length), new: (b, b + length) });
        }
        (i, j) = (a + length, b + length);
    }
    out
}

/// The blocks of equal lines: the longest first, then those on both sides of it. The last one is empty and at the end.
fn blocks(old: &[String], new: &[String]) -> Vec<(usize, usize, usize)> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (j, line) in new.iter().enumerate() {
        places.entry(line).or_default().push(j);
    }
    // Lines that come again and again tell nothing about where a long text goes on.
    if new.len() >= 200 {
        let most = new.len() / 100 + 1;
        places.retain(|_, list| list.len() <= most);
    }
    let mut found = Vec::new();
    let mut rest = vec![((0, old.len()), (0, new.len()))];
    while let Some((a, b)) = rest.pop() {
        let (i, j, length) = longest(old, new, &places, a, b);
        if length == 0 {
            continue;
        }
        found.push((i, j, length));
        rest.push(((a.0, i), (b.0, j)));
        rest.push(((i + length, a.1), (j + length, b.1)));
    }
    found.sort_unstable();
    let mut out: Vec<(usize, usize, usize)> = Vec::new();
    for (i, j, length) in found {
        match out.last_mut() {
            Some(last) if last.0 + last.2 == i && last.1 + last.2 == j => last.2 += length,
            _ => out.push((i, j, length)),
        }
    }
    out.push((old.len(), new.len(), 0));
    out
}

fn longest(
    old: &[String],
    new: &[String],
    places: &HashMap<&str, Vec<usize>>,
    a: (usize, usize),
    b: (usize, usize),
) -> (usize, usize, usize) {
    let mut best = (a.0, b.0, 0);
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for i in a.0..a.1 {
        let mut next = HashMap::new();
        for &j in old.get(i).and_then(|line| places.get(line.as_str())).into_iter().flatten() {
            if j < b.0 {
                continue;
            }
            if j >= b.1 {
                break;
            }
            let length = j.checked_sub(1).and_then(|before| lengths.get(&before)).copied().unwrap_or(0) + 1;
            next.insert(j, length);
            if length > best.2 {
                best = (i + 1 - length, j + 1 - length, length);
            }
        }
        lengths = next;
    }
    while best.0 > a.0 && best.1 > b.0 && old.get(best.0 - 1) == new.get(best.1 - 1) {
        best = (best.0 - 1, best.1 - 1, best.2 + 1);
    }
    while best.0 + best.2 < a.1
        && best.1 + best.2 < b.1
        && old.get(best.0 + best.2) == new.get(best.1 + best.2)
    {
        best.2 += 1;
    }
    best
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_changed_name_is_shown_among_its_neighbours() {
        let spec = |name: &str| json!({"containers": [{"name": name, "image": "i"}], "hostNetwork": true});
        let text = super::spec(&spec("a"), &spec("b"));
        let wanted = "@@ -3,7 +3,7 @@\n  \"InitContainers\": null,\n  \"Containers\": [\n   {\n-   \"Name\": \"a\",\n+   \"Name\": \"b\",\n    \"Image\": \"i\",\n    \"Command\": null,\n    \"Args\": null,\n";
        assert_eq!(text, wanted);
        assert_eq!(super::spec(&spec("a"), &spec("a")), "");
        let hosted = super::spec(&spec("a"), &json!({"containers": [{"name": "a", "image": "i"}]}));
        assert!(hosted.contains("-  \"HostNetwork\": true,\n"), "{hosted}");
    }

    #[test]
    fn a_line_put_in_counts_on_one_side_only() {
        let lines = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        assert_eq!(
            unified(&lines("abcdefgh"), &lines("abcdXefgh")),
            "@@ -2,6 +2,7 @@\n b\n c\n d\n+X\n e\n f\n g\n"
        );
        assert_eq!(unified(&lines(""), &lines("a")), "@@ -0,0 +1 @@\n+a\n");
    }
}
