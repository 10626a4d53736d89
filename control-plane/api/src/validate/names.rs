//! Formats of names (`k8s.io/apimachinery/pkg/util/validation`): each check returns what is wrong, in upstream's words.

const LABEL_FMT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_FMT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035_FMT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const WILDCARD_FMT: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_FMT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_FMT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_FMT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_FMT: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const PERCENT_FMT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
const C_IDENTIFIER_FMT: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
const PATH_FMT: &str = "must be a domain-prefixed path (such as \"acme.io/foo\")";

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// First and last byte satisfy `edge`, all others `inner`; not empty.
fn framed(s: &str, edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    let b = s.as_bytes();
    match (b.first(), b.last()) {
        (Some(&first), Some(&last)) => edge(first) && edge(last) && b.iter().all(|&c| inner(c)),
        _ => false,
    }
}

fn is_label(s: &str) -> bool {
    framed(s, lower_alnum, |c| lower_alnum(c) || c == b'-')
}

fn is_subdomain(s: &str) -> bool {
    s.split('.').all(is_label)
}

fn is_qualified(s: &str) -> bool {
    framed(s, |c| c.is_ascii_alphanumeric(), |c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

fn longest(s: &str, max: usize, errors: &mut Vec<String>) {
    if s.len() > max {
        errors.push(format!("must be no more than {max} characters"));
    }
}

/// RFC 1123 label, at most 63.
pub fn dns_label(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    longest(s, 63, &mut errors);
    if !is_label(s) {
        let words = if is_subdomain(s) { "must not contain dots" } else { LABEL_FMT };
        errors.push(words.into());
    }
    errors
}

/// RFC 1123 subdomain, at most 253.
pub fn dns_subdomain(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    longest(s, 253, &mut errors);
    if !is_subdomain(s) {
        errors.push(SUBDOMAIN_FMT.into());
    }
    errors
}

/// RFC 1035 label, at most 63.
pub fn dns1035_label(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    longest(s, 63, &mut errors);
    if !(is_label(s) && s.as_bytes()[0].is_ascii_lowercase()) {
        errors.push(LABEL_1035_FMT.into());
    }
    errors
}

/// `*.example.com`.
pub fn wildcard_subdomain(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    longest(s, 253, &mut errors);
    if !s.strip_prefix("*.").is_some_and(is_subdomain) {
        errors.push(WILDCARD_FMT.into());
    }
    errors
}

/// A domain name of at least two labels, a final dot allowed.
pub fn fully_qualified_domain(s: &str) -> Vec<String> {
    if s.is_empty() {
        return vec![String::new()];
    }
    let trimmed = s.strip_suffix('.').unwrap_or(s);
    let mut errors = dns_subdomain(trimmed);
    if errors.is_empty() && trimmed.split('.').count() < 2 {
        errors.push("should be a domain with at least two segments separated by dots".into());
    }
    errors
}

/// A path segment that RBAC names are: anything but `.`, `..`, `/`, `%`.
pub fn path_segment(s: &str) -> Vec<String> {
    match s {
        "." | ".." => vec![format!("may not be '{s}'")],
        _ => {
            ["/", "%"].iter().filter(|c| s.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
        }
    }
}

/// `name` or `prefix/name`: label keys, resource names, taint keys.
pub fn qualified(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match s.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".into());
            } else {
                errors.extend(dns_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a qualified name {QUALIFIED_FMT} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        errors.push("name part must be no more than 63 bytes".into());
    }
    if !is_qualified(name) {
        errors.push(format!("name part {QUALIFIED_FMT}"));
    }
    errors
}

pub fn label_value(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 63 {
        errors.push("must be no more than 63 bytes".into());
    }
    if !s.is_empty() && !is_qualified(s) {
        errors.push(LABEL_VALUE_FMT.into());
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub fn config_key(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    longest(s, 253, &mut errors);
    let good = !s.is_empty() && s.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c));
    if !good {
        errors.push(CONFIG_KEY_FMT.into());
    }
    errors.extend(not_dots(s));
    errors
}

/// `.`, `..` and names that begin with `..` would leave the folder that the key is mounted in.
fn not_dots(s: &str) -> Option<String> {
    match s {
        "." => Some("must not be '.'".into()),
        ".." => Some("must not be '..'".into()),
        _ if s.starts_with("..") => Some("must not start with '..'".into()),
        _ => None,
    }
}

/// A name as C has it.
pub fn c_identifier(s: &str) -> Vec<String> {
    let good = s.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if good { Vec::new() } else { vec![C_IDENTIFIER_FMT.into()] }
}

/// Printable ASCII but `=`.
pub fn env_name(s: &str) -> Vec<String> {
    let good = !s.is_empty() && s.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'=');
    if good { Vec::new() } else { vec![ENV_FMT.into()] }
}

/// IANA service name.
pub fn port_name(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    longest(s, 15, &mut errors);
    if !s.bytes().all(|c| lower_alnum(c) || c == b'-') || s.is_empty() {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !s.bytes().any(|c| c.is_ascii_alphabetic()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if s.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if s.starts_with('-') || s.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// `12%`.
pub fn percent(s: &str) -> Vec<String> {
    let digits = s.strip_suffix('%').unwrap_or_default();
    let good = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    if good { Vec::new() } else { vec![PERCENT_FMT.into()] }
}

/// `acme.io/foo`.
pub fn domain_prefixed_path(s: &str) -> Vec<String> {
    match s.split_once('/') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => {
            let mut errors = dns_subdomain(host);
            let allowed = |c: u8| c.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:%".contains(&c);
            if !path.bytes().all(allowed) {
                errors.push("Invalid path".into());
            }
            errors
        }
        _ => vec![PATH_FMT.into()],
    }
}

/// HTTP header field names.
pub fn http_header(s: &str) -> Vec<String> {
    let good = !s.is_empty() && s.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    if good {
        return Vec::new();
    }
    vec!["a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')".into()]
}
