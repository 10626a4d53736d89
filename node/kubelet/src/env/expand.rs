//! `$(VAR)` references in commands, arguments and values.

/// Replaces `$(NAME)` by what `lookup` gives. `$$` is a dollar sign; a name that is not known stays as written.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        let (before, from_dollar) = rest.split_at(position);
        out.push_str(before);
        let after = from_dollar.get(1..).unwrap_or_default();
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = after.strip_prefix('(')
            && let Some((name, after)) = inner.split_once(')')
        {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_as_upstream_expands_them() {
        for (text, expected) in [
            ("", ""),
            ("$(A)", "a"),
            ("x$(A)y$(B)", "xayb"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$(NOPE)", "$(NOPE)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("100$", "100$"),
            ("$(E)!", "!"),
            ("$()", "$()"),
            ("ü$(A)ü", "üaü"),
        ] {
            let lookup = |name: &str| match name {
                "A" => Some("a".to_owned()),
                "B" => Some("b".to_owned()),
                "E" => Some(String::new()),
                _ => None,
            };
            assert_eq!(expand(text, lookup), expected, "{text:?}");
        }
    }
}
