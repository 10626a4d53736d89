//! What is refused, by the table: object, then the paths and reasons of what is wrong with it.

use serde_json::{Value, json};

use super::REGISTRY;
use crate::kind::Kind;

fn kind(name: &str) -> &'static Kind {
    REGISTRY.iter().copied().find(|k| k.kind == name && k.convert.is_none()).expect("a registered kind")
}

/// Defaults the object and compares what validation says.
#[track_caller]
fn check(name: &str, mut object: Value, wanted: &[(&str, &str)]) {
    let kind = kind(name);
    object["metadata"]["name"] = json!("x");
    object["metadata"]["namespace"] = json!("n");
    (kind.default)(&mut object);
    compare((kind.validate)(&object), wanted);
}

#[track_caller]
fn compare(errors: crate::field::ErrorList, wanted: &[(&str, &str)]) {
    let mut got: Vec<(String, String)> =
        errors.iter().map(|e| (e.path.clone(), e.cause.reason().replace("FieldValue", ""))).collect();
    let mut wanted: Vec<(String, String)> =
        wanted.iter().map(|(p, r)| ((*p).to_owned(), (*r).to_owned())).collect();
    got.sort();
    wanted.sort();
    assert_eq!(got, wanted, "{errors:?}");
}

/// Changes one field of a valid object and compares what the update says.
#[track_caller]
fn check_update(name: &str, mut old: Value, change: fn(&mut Value), wanted: &[(&str, &str)]) {
    let kind = kind(name);
    old["metadata"] = json!({"name": "x", "namespace": "n", "uid": "u"});
    (kind.default)(&mut old);
    (kind.prepare_create)(&mut old);
    let mut new = old.clone();
    change(&mut new);
    (kind.default)(&mut new);
    (kind.prepare_update)(&mut new, &old);
    let mut errors = (kind.validate)(&new);
    errors.extend((kind.validate_update)(&new, &old));
    compare(errors, wanted);
}

fn pod(spec: Value) -> Value {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c", "image": "i:1"}]);
    }
    json!({"spec": spec})
}

fn container(c: Value) -> Value {
    let mut c = c;
    c["name"] = json!("c");
    c["image"] = json!("i:1");
    pod(json!({"containers": [c]}))
}

fn policy(spec: Value) -> Value {
    let mut spec = spec;
    spec["podSelector"] = json!({});
    json!({"spec": spec})
}

fn workload(change: fn(&mut Value)) -> Value {
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let mut object = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    change(&mut object["spec"]);
    object
}

#[test]
fn network_policies_that_mean_nothing_or_too_much_are_refused() {
    let from = |peer: Value| policy(json!({"ingress": [{"from": [peer]}]}));
    let to = |port: Value| policy(json!({"egress": [{"ports": [port]}]}));
    let block = |b: Value| from(json!({"ipBlock": b}));
    let cidr = "spec.ingress[0].from[0].ipBlock.cidr";
    let except = "spec.ingress[0].from[0].ipBlock.except[0]";
    let port = "spec.egress[0].ports[0].port";
    let end = "spec.egress[0].ports[0].endPort";
    let cases = [
        (from(json!({"podSelector": {}})), vec![]),
        (from(json!({"podSelector": {}, "namespaceSelector": {}})), vec![]),
        (block(json!({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]})), vec![]),
        (block(json!({"cidr": "fd00::/8", "except": ["fd01::/16"]})), vec![]),
        (to(json!({"port": 80, "endPort": 90})), vec![]),
        (to(json!({"port": "http"})), vec![]),
        (from(json!({})), vec![("spec.ingress[0].from[0]", "Required")]),
        (
            from(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
            vec![("spec.ingress[0].from[0]", "Forbidden")],
        ),
        (block(json!({"cidr": ""})), vec![(cidr, "Required")]),
        (block(json!({"cidr": "10.0.0.0"})), vec![(cidr, "Invalid")]),
        (block(json!({"cidr": "10.0.0.1/8"})), vec![(cidr, "Invalid")]),
        (block(json!({"cidr": "010.0.0.0/8"})), vec![(cidr, "Invalid")]),
        (block(json!({"cidr": "10.0.0.0/+8"})), vec![(cidr, "Invalid")]),
        (block(json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]})), vec![(except, "Invalid")]),
        (block(json!({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]})), vec![(except, "Invalid")]),
        (block(json!({"cidr": "10.0.0.0/8", "except": ["fd00::/64"]})), vec![(except, "Invalid")]),
        (to(json!({"port": 0})), vec![(port, "Invalid")]),
        (to(json!({"port": 65536})), vec![(port, "Invalid")]),
        (to(json!({"port": "Not A Name"})), vec![(port, "Invalid")]),
        (to(json!({"port": 80, "endPort": 79})), vec![(end, "Invalid")]),
        (to(json!({"port": 80, "endPort": 70000})), vec![(end, "Invalid")]),
        (to(json!({"endPort": 80})), vec![(end, "Invalid")]),
        (to(json!({"port": "http", "endPort": 80})), vec![(end, "Invalid")]),
        (
            to(json!({"port": 80, "protocol": "ICMP"})),
            vec![("spec.egress[0].ports[0].protocol", "NotSupported")],
        ),
        (policy(json!({"policyTypes": ["Both"]})), vec![("spec.policyTypes[0]", "NotSupported")]),
        (
            from(json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}})),
            vec![("spec.ingress[0].from[0].namespaceSelector.matchExpressions[0].operator", "Invalid")],
        ),
    ];
    for (object, wanted) in cases {
        check("NetworkPolicy", object, &wanted);
    }
}

#[test]
fn containers_are_checked_field_by_field() {
    let at = |path: &'static str, reason: &'static str| vec![(path, reason)];
    let cases = [
        (container(json!({})), vec![]),
        (
            container(json!({"imagePullPolicy": "Maybe"})),
            at("spec.containers[0].imagePullPolicy", "NotSupported"),
        ),
        (
            container(json!({"ports": [{"containerPort": 0}]})),
            at("spec.containers[0].ports[0].containerPort", "Required"),
        ),
        (
            container(
                json!({"ports": [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]}),
            ),
            at("spec.containers[0].ports[1].hostPort", "Duplicate"),
        ),
        (container(json!({"env": [{"name": "a=b"}]})), at("spec.containers[0].env[0].name", "Invalid")),
        (
            container(
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.nope"}}}]}),
            ),
            at("spec.containers[0].env[0].valueFrom.fieldRef.fieldPath", "Invalid"),
        ),
        (
            container(
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}}]}),
            ),
            vec![],
        ),
        (
            container(json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]})),
            at("spec.containers[0].volumeMounts[0].name", "NotFound"),
        ),
        (container(json!({"livenessProbe": {}})), at("spec.containers[0].livenessProbe", "Required")),
        (
            container(json!({"readinessProbe": {"tcpSocket": {"port": 70000}}})),
            at("spec.containers[0].readinessProbe.tcpSocket.port", "Invalid"),
        ),
        (
            container(json!({"lifecycle": {"preStop": {"exec": {"command": []}}}})),
            at("spec.containers[0].lifecycle.preStop.exec.command", "Required"),
        ),
        (
            container(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})),
            at("spec.containers[0].resources.requests", "Invalid"),
        ),
        (
            container(json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}})),
            at("spec.containers[0].securityContext", "Invalid"),
        ),
    ];
    for (object, wanted) in cases {
        check("Pod", object, &wanted);
    }
}

#[test]
fn pods_are_checked_as_a_whole() {
    let cases = [
        (pod(json!({"containers": []})), vec![("spec.containers", "Required")]),
        (pod(json!({"restartPolicy": "Once"})), vec![("spec.restartPolicy", "NotSupported")]),
        (
            pod(json!({"volumes": [{"name": "v", "secret": {}}]})),
            vec![("spec.volumes[0].secret.secretName", "Required")],
        ),
        (
            pod(json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]})),
            vec![("spec.volumes[0].hostPath", "Forbidden")],
        ),
        (
            pod(json!({"tolerations": [{"operator": "Equal", "value": "x"}]})),
            vec![("spec.tolerations[0].operator", "Invalid")],
        ),
        (pod(json!({"dnsPolicy": "None"})), vec![("spec.dnsConfig", "Required")]),
        (pod(json!({"hostAliases": [{"ip": "x"}]})), vec![("spec.hostAliases[0].ip", "Invalid")]),
        (
            pod(json!({"schedulingGates": [{"name": "a.b/c"}], "nodeName": "n"})),
            vec![("spec.nodeName", "Forbidden")],
        ),
        (
            pod(
                json!({"initContainers": [{"name": "i", "image": "i", "livenessProbe": {"exec": {"command": ["x"]}}}]}),
            ),
            vec![("spec.initContainers[0].livenessProbe", "Forbidden")],
        ),
    ];
    for (object, wanted) in cases {
        check("Pod", object, &wanted);
    }
}

#[test]
fn a_pod_changes_only_in_what_can_be_changed_under_it() {
    let object =
        || pod(json!({"activeDeadlineSeconds": 10, "tolerations": [{"key": "a", "operator": "Exists"}]}));
    check_update("Pod", object(), |p| p["spec"]["containers"][0]["image"] = json!("i:2"), &[]);
    check_update("Pod", object(), |p| p["spec"]["activeDeadlineSeconds"] = json!(5), &[]);
    check_update(
        "Pod",
        object(),
        |p| p["spec"]["activeDeadlineSeconds"] = json!(50),
        &[("spec.activeDeadlineSeconds", "Invalid")],
    );
    check_update(
        "Pod",
        object(),
        |p| p["spec"]["tolerations"] = json!([]),
        &[("spec.tolerations", "Forbidden")],
    );
    check_update("Pod", object(), |p| p["spec"]["nodeName"] = json!("n"), &[("spec", "Forbidden")]);
    check_update(
        "Pod",
        object(),
        |p| p["spec"]["containers"] = json!([{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]),
        &[("spec.containers", "Forbidden")],
    );
}

#[test]
fn workloads_select_their_own_pods() {
    let labels = ("spec.template.metadata.labels", "Invalid");
    for kind in ["Deployment", "ReplicaSet", "DaemonSet", "StatefulSet"] {
        check(kind, workload(|_| ()), &[]);
        check(kind, workload(|s| s["selector"]["matchLabels"]["a"] = json!("c")), &[labels]);
        check(kind, workload(|s| s["selector"] = json!({})), &[("spec.selector", "Invalid")]);
        check(
            kind,
            workload(|s| s["template"]["spec"]["restartPolicy"] = json!("Never")),
            &[("spec.template.spec.restartPolicy", "NotSupported")],
        );
        check(
            kind,
            workload(|s| s["template"]["spec"]["activeDeadlineSeconds"] = json!(1)),
            &[("spec.template.spec.activeDeadlineSeconds", "Forbidden")],
        );
    }
    for kind in ["Deployment", "ReplicaSet", "DaemonSet"] {
        let moved = |d: &mut Value| {
            d["spec"]["selector"]["matchLabels"]["a"] = json!("c");
            d["spec"]["template"]["metadata"]["labels"]["a"] = json!("c");
        };
        check_update(kind, workload(|_| ()), moved, &[("spec.selector", "Invalid")]);
    }
}

#[test]
fn services_are_checked_by_type() {
    let service = |spec: Value| json!({"spec": spec});
    let web = json!([{"port": 80}]);
    let cases = [
        (service(json!({"ports": web})), vec![]),
        (service(json!({"clusterIP": "None"})), vec![]),
        (service(json!({})), vec![("spec.ports", "Required")]),
        (service(json!({"type": "ExternalName"})), vec![("spec.externalName", "Required")]),
        (
            service(json!({"ports": [{"port": 80, "nodePort": 30000}]})),
            vec![("spec.ports[0].nodePort", "Forbidden")],
        ),
        (
            service(json!({"ports": [{"port": 1}, {"port": 2}]})),
            vec![("spec.ports[0].name", "Required"), ("spec.ports[1].name", "Required")],
        ),
        (
            service(json!({"ports": web, "externalTrafficPolicy": "Local"})),
            vec![("spec.externalTrafficPolicy", "Invalid")],
        ),
        (
            service(json!({"ports": web, "externalIPs": ["0.0.0.0"]})),
            vec![("spec.externalIPs[0]", "Invalid")],
        ),
        (
            service(json!({"ports": web, "sessionAffinity": "Cookie"})),
            vec![("spec.sessionAffinity", "NotSupported")],
        ),
    ];
    for (object, wanted) in cases {
        check("Service", object, &wanted);
    }
}

#[test]
fn immutable_contents_stay() {
    let frozen = json!({"data": {"a": "MQ=="}, "immutable": true});
    for kind in ["ConfigMap", "Secret"] {
        check_update(kind, frozen.clone(), |o| o["metadata"]["labels"] = json!({"a": "b"}), &[]);
        check_update(kind, frozen.clone(), |o| o["data"]["a"] = json!("Mg=="), &[("data", "Forbidden")]);
        check_update(kind, frozen.clone(), |o| o["immutable"] = json!(false), &[("immutable", "Forbidden")]);
    }
}

#[test]
fn an_update_of_a_service_keeps_what_the_cluster_gave() {
    let kind = kind("Service");
    let mut old = json!({"metadata": {"name": "x"}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.9",
        "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80, "nodePort": 31000}]}});
    (kind.default)(&mut old);
    let mut new = json!({"metadata": {"name": "x"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    (kind.default)(&mut new);
    (kind.prepare_update)(&mut new, &old);
    assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.9"]));
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 31000);
    let mut plain = old.clone();
    plain["spec"]["type"] = json!("ClusterIP");
    (kind.default)(&mut plain);
    (kind.prepare_update)(&mut plain, &old);
    assert_eq!(plain["spec"]["ports"][0]["nodePort"], Value::Null);
    assert_eq!(plain["spec"]["clusterIP"], "10.96.0.9");
    assert!(plain["spec"]["externalTrafficPolicy"].is_null());
}

#[test]
fn ephemeral_containers_are_added_and_never_taken_away() {
    use crate::pod::update::{ephemeral_containers, prepare_ephemeral_containers};
    let kind = kind("Pod");
    let mut old = pod(json!({}));
    old["metadata"] = json!({"name": "x"});
    (kind.default)(&mut old);
    (kind.prepare_create)(&mut old);
    let mut added = old.clone();
    added["spec"]["nodeName"] = json!("smuggled");
    added["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "i:1"}]);
    (kind.default)(&mut added);
    prepare_ephemeral_containers(&mut added, &old);
    compare(ephemeral_containers(&added, &old), &[]);
    assert_eq!(added["metadata"]["generation"], 2);
    assert!(added["spec"]["nodeName"].is_null());
    let mut removed = added.clone();
    removed["spec"]["ephemeralContainers"] = json!(null);
    prepare_ephemeral_containers(&mut removed, &added);
    compare(ephemeral_containers(&removed, &added), &[("spec.ephemeralContainers", "Forbidden")]);
}

#[test]
fn a_node_reports_status_without_moving_the_pod_or_its_class() {
    let kind = kind("Pod");
    let mut old = pod(json!({}));
    old["metadata"] = json!({"name": "x"});
    (kind.default)(&mut old);
    (kind.prepare_create)(&mut old);
    let mut new = old.clone();
    new["status"] = json!({"phase": "Running", "podIP": "10.1.1.1"});
    (kind.default)(&mut new);
    (kind.prepare_status)(&mut new, &old);
    compare((kind.validate_status)(&new, &old), &[]);
    assert_eq!(new["status"]["qosClass"], "BestEffort");
    assert_eq!(new["status"]["podIPs"], json!([{"ip": "10.1.1.1"}]));
    new["status"]["qosClass"] = json!("Guaranteed");
    compare((kind.validate_status)(&new, &old), &[("status.qosClass", "Invalid")]);
}

#[test]
fn a_pods_operating_system_rules_out_what_the_other_one_has() {
    let spec = |os: &str| {
        let mut spec = json!({"os": {"name": os}, "hostPID": true, "hostIPC": false,
            "securityContext": {"runAsUser": 1, "windowsOptions": {"runAsUserName": "u"}}});
        spec["containers"] = json!([{"name": "c", "image": "i:1", "securityContext": {"privileged": true, "windowsOptions": {"runAsUserName": "u"}}}]);
        pod(spec)
    };
    check(
        "Pod",
        spec("windows"),
        &[
            ("spec.hostPID", "Forbidden"),
            ("spec.securityContext.runAsUser", "Forbidden"),
            ("spec.containers[0].securityContext.privileged", "Forbidden"),
        ],
    );
    check(
        "Pod",
        spec("linux"),
        &[
            ("spec.securityContext.windowsOptions", "Forbidden"),
            ("spec.containers[0].securityContext.windowsOptions", "Forbidden"),
        ],
    );
}

#[test]
fn keys_of_own_labels_need_a_selector_and_come_once() {
    let spread = |extra: Value| {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": ["a"]});
        constraint.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        pod(json!({"topologySpreadConstraints": [constraint]}))
    };
    let keys = "spec.topologySpreadConstraints[0].matchLabelKeys";
    check("Pod", spread(json!({})), &[(keys, "Forbidden")]);
    check("Pod", spread(json!({"labelSelector": {"matchLabels": {"b": "c"}}})), &[]);
    let twice = json!({"labelSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["x"]}]}});
    check("Pod", spread(twice), &[(&format!("{keys}[0]"), "Invalid")]);
    let mut narrowed = spread(json!({"labelSelector": {}}));
    narrowed["metadata"]["labels"] = json!({"a": "mine"});
    (kind("Pod").prepare_create)(&mut narrowed);
    assert_eq!(
        narrowed["spec"]["topologySpreadConstraints"][0]["labelSelector"],
        json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["mine"]}]})
    );
}

#[test]
fn a_container_claims_only_what_its_pod_does() {
    let claims = json!({"resourceClaims": [{"name": "a", "resourceClaimName": "x"}],
        "containers": [{"name": "c", "image": "i:1", "resources": {"claims": [{"name": "a"}, {"name": "a", "request": "r"}, {"name": "a"}, {"name": "b"}]}}]});
    check(
        "Pod",
        pod(claims),
        &[
            ("spec.containers[0].resources.claims[2]", "Duplicate"),
            ("spec.containers[0].resources.claims[3]", "NotFound"),
        ],
    );
}

#[test]
fn the_port_of_health_checks_stays_while_it_is_needed() {
    let service = json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
        "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]}});
    let path = "spec.healthCheckNodePort";
    check_update(
        "Service",
        service.clone(),
        |v| v["spec"]["healthCheckNodePort"] = json!(31001),
        &[(path, "Invalid")],
    );
    check_update("Service", service.clone(), |v| v["spec"]["healthCheckNodePort"] = json!(0), &[]);
    let mut negative = service;
    negative["spec"]["healthCheckNodePort"] = json!(-1);
    check("Service", negative, &[(path, "Invalid")]);
}
