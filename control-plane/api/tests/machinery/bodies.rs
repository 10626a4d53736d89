use fairlead_api::{
    decode::{self, Expected, FieldValidation},
    encode, kinds, registry, schema, yaml,
};
use serde_json::{Value, json};

fn create(
    plural: &str,
    group: &str,
    body: &str,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), String> {
    let kind = registry::find(group, "v1", plural).expect("served");
    let expected = Expected::from(kind);
    let decoded = decode::json(body.as_bytes())
        .map_err(|e| decode::unrecognized(kind.kind, &e, body.as_bytes()).message().to_owned())?;
    decode::typed(&expected, decoded, body.as_bytes(), validation).map_err(|s| s.message().to_owned())
}

#[test]
fn malformed_json_is_refused_in_gos_words() {
    const HEAD: &str = "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: ";
    for (body, words) in [
        ("{", "unexpected end of JSON input ({)"),
        ("", "unexpected end of JSON input (<empty>)"),
        ("not json", "invalid character 'o' in literal null (expecting 'u') (6e6f74206a736f6e)"),
        (
            "{\"kind\":1}",
            "json: cannot unmarshal number into Go struct field .kind of type string ({\"kind\":1})",
        ),
        ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string ({\"a\":1,})"),
        ("{\"a\" 1}", "invalid character '1' after object key ({\"a\" 1})"),
        ("[1 2]", "invalid character '2' after array element (5b3120325d)"),
        (
            "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"tr\"}} trailing",
            "invalid character 't' after top-level value ({\"apiVersion\":\"v1\",\"kind\":\"Con ...)",
        ),
        (
            "[]",
            "json: cannot unmarshal array into Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" } (5b5d)",
        ),
    ] {
        let refused = create("configmaps", "", body, FieldValidation::Warn).expect_err(body);
        assert_eq!(refused, format!("{HEAD}{words}"), "{body}");
    }
}

#[test]
fn wrong_kinds_and_types_are_refused() {
    for (group, plural, body, words) in [
        (
            "",
            "configmaps",
            json!({"apiVersion": "v1", "kind": "Secret"}),
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion",
        ),
        (
            "",
            "configmaps",
            json!({"apiVersion": "v1", "kind": "Nope"}),
            "Nope in version \"v1\" cannot be handled as a ConfigMap: no kind \"Nope\" is registered for version \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        ),
        (
            "",
            "configmaps",
            json!({"apiVersion": "nope/v1", "kind": "ConfigMap"}),
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"nope/v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        ),
        (
            "apps",
            "deployments",
            json!({"apiVersion": "apps/v1beta1", "kind": "Deployment"}),
            "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)",
        ),
        (
            "",
            "configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMapList"}),
            "ConfigMapList in version \"v1\" cannot be handled as a ConfigMap: converting (v1.ConfigMapList) to (core.ConfigMap): unknown conversion",
        ),
        (
            "",
            "configmaps",
            json!({"data": {"a": 1}}),
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
        (
            "",
            "configmaps",
            json!({"metadata": 5}),
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.metadata of type v1.ObjectMeta",
        ),
        (
            "",
            "configmaps",
            json!({"metadata": {"name": true}}),
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.name of type string",
        ),
        (
            "apps",
            "deployments",
            json!({"spec": {"replicas": 1.5}}),
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            json!({"spec": {"versions": [{"subresources": {"status": 1}}]}}),
            "CustomResourceDefinition in version \"v1\" cannot be handled as a CustomResourceDefinition: json: cannot unmarshal number into Go struct field CustomResourceSubresources.spec.versions.subresources.status of type v1.CustomResourceSubresourceStatus",
        ),
    ] {
        let refused = create(plural, group, &body.to_string(), FieldValidation::Warn).expect_err(words);
        assert_eq!(refused, words);
    }
}

#[test]
fn unknown_and_duplicate_fields_are_reported_in_the_order_of_the_document() {
    let body = r#"{"metadata":{"name":"u","wrong":true},"data":{"a":"1","a":"2"},"nope":1,"data":{"b":"3"}}"#;
    let (value, warnings) = create("configmaps", "", body, FieldValidation::Warn).expect("accepted");
    assert_eq!(value["data"], json!({"a": "2", "b": "3"}));
    assert_eq!(
        warnings,
        [
            "unknown field \"metadata.wrong\"",
            "duplicate field \"data.a\"",
            "unknown field \"nope\"",
            "duplicate field \"data\"",
        ]
    );
    let (_, none) = create("configmaps", "", body, FieldValidation::Ignore).expect("accepted");
    assert!(none.is_empty());
    let body = r#"{"spec":{"template":{"spec":{"containers":[{"name":"c","imagePulPolicy":"x","ports":[{"hostPrt":1}]}]}},"nope":1}}"#;
    let refused = create("deployments", "apps", body, FieldValidation::Strict).expect_err("strict");
    assert_eq!(
        refused,
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.template.spec.containers[0].imagePulPolicy\", unknown field \"spec.template.spec.containers[0].ports[0].hostPrt\", unknown field \"spec.nope\""
    );
}

#[test]
fn depth_is_bounded() {
    let deep = "[".repeat(100_000);
    assert!(decode::json(deep.as_bytes()).is_err());
    assert!(decode::yaml(deep.as_bytes()).is_err());
}

#[test]
fn yaml_reads_as_upstream() {
    let text = "a: 1\nb: [x, 'y', 0x10, 010, 1.5, ~, yes]\nc: &k {d: e}\nf: *k\ng:\n  <<: *k\n  h: |\n    two\n    lines\ny: n\n";
    let value = decode::yaml(text.as_bytes()).expect("valid").value;
    assert_eq!(
        value,
        json!({"a": 1, "b": ["x", "y", 16, 8, 1.5, null, true], "c": {"d": "e"}, "f": {"d": "e"},
            "g": {"d": "e", "h": "two\nlines\n"}, "true": false})
    );
    let twice = decode::yaml(b"a: 1\na: 2\n").expect("valid");
    assert_eq!((twice.value, twice.strict.len()), (json!({"a": 2}), 1));
    assert_eq!(
        decode::yaml(b"a: [").expect_err("cut").to_string(),
        "yaml: line 1: did not find expected node content"
    );
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
        + &"bcdefghi"
            .chars()
            .scan('a', |p, c| {
                let l = format!("{c}: &{c} [*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p}]\n", p = *p);
                *p = c;
                Some(l)
            })
            .collect::<String>();
    assert!(decode::yaml(bomb.as_bytes()).is_err(), "aliases are bounded");
}

#[test]
fn yaml_written_reads_back() {
    let value = json!({"kind": "Status", "details": {"name": "y", "n": "1", "t": "true", "e": ""}, "list": [{"a": [1, {"b": "c: d"}]}, "x"],
        "text": "two\nlines\n", "empty": {}, "none": null, "quote": "'a' \"b\" #c"});
    let text = yaml::write(&value);
    assert_eq!(decode::yaml(text.as_bytes()).expect(&text).value, value, "{text}");
    assert!(text.contains("  name: \"y\"\n"), "{text}");
}

#[test]
fn yaml_lines_break_at_the_first_space_after_eighty_columns() {
    let long = "word ".repeat(20);
    for text in
        [long.trim_end().to_owned(), format!("a: {long}b"), format!("it's: {long}  b"), "x".repeat(200)]
    {
        let value = json!({"message": text, "list": [text]});
        let written = yaml::write(&value);
        assert_eq!(decode::yaml(written.as_bytes()).expect(&written).value, value, "{written}");
    }
    let text = format!("{} end", "x".repeat(90));
    assert_eq!(yaml::write(&json!({"m": text})), format!("m: {}\n  end\n", "x".repeat(90)));
    // A key is on one line, or it is none.
    for key in [text.clone(), format!("* {text}")] {
        let value = json!({"m": {key: "v"}});
        assert_eq!(yaml::write(&value).lines().count(), 2);
        assert_eq!(yaml::parse(&yaml::write(&value)).expect("what was written").value, value);
    }
}

#[test]
fn protobuf_round_trips_every_kind() {
    for kind in kinds::REGISTRY {
        assert!(schema::of(kind.schema).is_some(), "{} has no schema {}", kind.kind, kind.schema);
        let meta = json!({"name": "x", "labels": {"a": "b"}, "creationTimestamp": "2026-01-02T03:04:05Z"});
        let object = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": meta});
        let bytes = encode::protobuf(kind.message, &kind.api_version(), kind.kind, &object)
            .unwrap_or_else(|| panic!("{} has no message {}", kind.kind, kind.message));
        let back = decode::protobuf(&bytes).unwrap_or_else(|e| panic!("{}: {e}", kind.kind)).value;
        assert_eq!(back, object, "{}", kind.kind);
    }
}

#[test]
fn protobuf_carries_inline_structs_quantities_and_bytes() {
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1", "memory": "64Mi"}},
            "livenessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 5},
            "ports": [{"containerPort": 80}], "stdin": true,
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}],
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "h", "hostPath": {"path": "/x", "type": ""}}],
        "terminationGracePeriodSeconds": 30}});
    let bytes = encode::protobuf("api.core.v1.Pod", "v1", "Pod", &object).expect("a message");
    assert_eq!(decode::protobuf(&bytes).expect("valid").value, object);
    for end in 0..bytes.len() {
        let _ = decode::protobuf(&bytes[..end]);
    }
    assert!(decode::protobuf(b"{}").is_err());
}
