use fairlead_api::{
    registry,
    selector::{FieldSelector, LabelSelector},
};
use serde_json::json;

#[test]
fn label_selectors_match_as_upstream() {
    let objects = [
        json!({"t": "n", "x": "1"}),
        json!({"t": "n", "x": "2", "y": ""}),
        json!({"t": "n", "y": "z"}),
        json!({"t": "n"}),
    ];
    for (text, expected) in [
        ("", "abcd"),
        ("x", "ab"),
        ("!x", "cd"),
        ("!x,!y", "d"),
        (" x , ! y ", "a"),
        ("x in (1,2)", "ab"),
        ("x notin (1)", "bcd"),
        ("x in ()", ""),
        ("y in (,z)", "bc"),
        ("x notin (1,2),t=n", "cd"),
        ("x>1", "b"),
        ("x<2", "a"),
        ("x=", ""),
        ("x==2", "b"),
        ("x!=2", "acd"),
    ] {
        let selector = LabelSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let found: String =
            objects.iter().zip("abcd".chars()).filter(|(o, _)| selector.matches(o)).map(|(_, c)| c).collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn malformed_label_selectors_are_refused_in_upstreams_words() {
    for (text, words) in [
        ("=1", "found '=', expected: !, identifier, or 'end of string'"),
        ("x in 1", "unable to parse requirement: found '1' expected: '('"),
        ("x in (1", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("x=1,", "found '', expected: identifier after ','"),
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("x!", "unable to parse requirement: found '!', expected: in, notin, =, ==, !=, gt, lt"),
        ("x===1", "unable to parse requirement: found '=', expected: identifier"),
        ("bad key!=1", "unable to parse requirement: found 'key', expected: in, notin, =, ==, !=, gt, lt"),
        ("x=bad value", "found 'value', expected: ',' or 'end of string'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("()", "found '(', expected: !, identifier, or 'end of string'"),
        (
            "x>a",
            "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ] {
        assert_eq!(LabelSelector::parse(text).expect_err(text), words, "{text}");
    }
    let long = LabelSelector::parse(&format!("x={}", "v".repeat(64))).expect_err("too long");
    assert!(long.ends_with("must be no more than 63 bytes"), "{long}");
    let key = LabelSelector::parse("a/b/c=1").expect_err("no key");
    assert!(
        key.starts_with(
            "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key must"
        ),
        "{key}"
    );
}

#[test]
fn an_absent_selector_object_matches_nothing_and_an_empty_one_everything() {
    let labels = json!({"a": "1"});
    assert!(!LabelSelector::from_object(&json!(null)).expect("valid").matches(&labels));
    assert!(LabelSelector::from_object(&json!({})).expect("valid").matches(&labels));
    let in_two = json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]});
    assert!(LabelSelector::from_object(&in_two).expect("valid").matches(&labels));
    let odd = json!({"matchExpressions": [{"key": "a", "operator": "Odd"}]});
    let words = "\"Odd\" is not a valid label selector operator";
    assert_eq!(LabelSelector::from_object(&odd).expect_err("refused"), words);
}

#[test]
fn field_selectors_know_the_fields_of_their_kind() {
    let pod = registry::find("", "v1", "pods").expect("served");
    let object = json!({"metadata": {"name": "p1", "namespace": "n"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
    for (text, matches) in [
        ("metadata.name=p1", true),
        ("metadata.name==p1", true),
        ("metadata.name=p1,", true),
        ("spec.nodeName!=n1", false),
        ("status.phase=Running,metadata.namespace=n", true),
        ("status.phase!=Succeeded", true),
    ] {
        let selector = FieldSelector::parse(pod, text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(selector.matches(pod, &object), matches, "{text}");
    }
    assert_eq!(FieldSelector::parse(pod, "metadata.name=p1").expect("valid").name(), Some("p1"));
    for (text, words) in [
        ("spec.nope=1", "field label not supported: spec.nope"),
        ("=x", "field label not supported: "),
        ("bad", "invalid selector: 'bad'; can't understand 'bad'"),
        (
            "spec.nodeName in (n1)",
            "invalid selector: 'spec.nodeName in (n1)'; can't understand 'spec.nodeName in (n1)'",
        ),
    ] {
        assert_eq!(FieldSelector::parse(pod, text).expect_err(text), words);
    }
    let deployment = registry::find("apps", "v1", "deployments").expect("served");
    assert_eq!(
        FieldSelector::parse(deployment, "spec.replicas=1").expect_err("unknown"),
        "\"spec.replicas\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );
}
