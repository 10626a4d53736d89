//! Two address families: what Services, nodes and EndpointSlices are given when the cluster has both.

use serde_json::{Value, json};

use crate::harness::eventually;
use crate::plane::Plane;

const RANGES: &[&str] = &[
    "--service-cluster-ip-range",
    "10.96.0.0/24,fd00:96::/112",
    "--cluster-cidr",
    "10.244.0.0/23,fd00:244::/56",
];

fn service(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]{more}}}\n"
    )
}

/// Policy, families, and the families of the addresses.
fn families(plane: &Plane, name: &str) -> (String, Value, Vec<&'static str>) {
    let spec = plane.json(&["get", "service", name])["spec"].clone();
    let ips = spec["clusterIPs"].as_array().cloned().unwrap_or_default();
    let of = |ip: &Value| if ip.as_str().unwrap_or_default().contains(':') { "IPv6" } else { "IPv4" };
    let policy = spec["ipFamilyPolicy"].as_str().unwrap_or_default().to_owned();
    (policy, spec["ipFamilies"].clone(), ips.iter().map(of).collect())
}

#[test]
fn services_get_addresses_of_the_families_they_ask_for() {
    let plane = Plane::start(RANGES);
    for (name, more, policy, expected) in [
        ("plain", "", "SingleStack", vec!["IPv4"]),
        ("six", ", ipFamilies: [IPv6]", "SingleStack", vec!["IPv6"]),
        ("prefer", ", ipFamilyPolicy: PreferDualStack", "PreferDualStack", vec!["IPv4", "IPv6"]),
        (
            "require",
            ", ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6, IPv4]",
            "RequireDualStack",
            vec!["IPv6", "IPv4"],
        ),
    ] {
        plane.apply(&service(name, more));
        let seen = families(&plane, name);
        assert_eq!(seen, (policy.to_owned(), json!(expected), expected.clone()), "{name}");
    }
    let kubernetes = families(&plane, "kubernetes");
    assert_eq!(kubernetes, ("SingleStack".to_owned(), json!(["IPv4"]), vec!["IPv4"]));

    // Up and down again; the first address stays.
    let first = plane.json(&["get", "service", "plain"])["spec"]["clusterIP"].clone();
    let patch =
        |name: &str, patch: &str| plane.kubectl(&["patch", "service", name, "--type=merge", "-p", patch]);
    patch("plain", r#"{"spec":{"ipFamilyPolicy":"PreferDualStack"}}"#);
    assert_eq!(families(&plane, "plain").2, ["IPv4", "IPv6"]);
    let second = plane.json(&["get", "service", "plain"])["spec"]["clusterIPs"][1].clone();
    patch("plain", r#"{"spec":{"ipFamilyPolicy":"SingleStack"}}"#);
    assert_eq!(families(&plane, "plain").2, ["IPv4"]);
    assert_eq!(plane.json(&["get", "service", "plain"])["spec"]["clusterIP"], first);
    // What was given up can be had by another.
    let address = second.as_str().expect("an address");
    plane.apply(&service("heir", &format!(", clusterIP: \"{address}\"")));
    assert_eq!(families(&plane, "heir").1, json!(["IPv6"]));

    let refused =
        |name: &str, patch: &str| plane.refused(&["patch", "service", name, "--type=merge", "-p", patch]);
    let said = refused("prefer", r#"{"spec":{"ipFamilies":["IPv4"]}}"#);
    assert!(said.contains("must be 'SingleStack' to release the secondary IP family"), "{said}");
    let said = refused("require", r#"{"spec":{"ipFamilies":["IPv4","IPv6"]}}"#);
    assert!(said.contains("spec.ipFamilies[0]") && said.contains("may not change once set"), "{said}");
    let said =
        plane.apply_refused(&service("bad", ", ipFamilyPolicy: SingleStack, ipFamilies: [IPv4, IPv6]"));
    assert!(said.contains("when multiple IP families are specified"), "{said}");

    // Through ExternalName all addresses go and come anew.
    let away = r#"{"spec":{"type":"ExternalName","externalName":"a.b","clusterIP":null,"clusterIPs":null,"ipFamilies":null,"ipFamilyPolicy":null}}"#;
    patch("prefer", away);
    assert_eq!(families(&plane, "prefer").2, [""; 0]);
    patch(
        "prefer",
        r#"{"spec":{"type":"ClusterIP","externalName":null,"ipFamilyPolicy":"RequireDualStack"}}"#,
    );
    assert_eq!(families(&plane, "prefer").2, ["IPv4", "IPv6"]);
}

#[test]
fn a_cluster_of_one_family_refuses_what_needs_two() {
    let plane = Plane::start(&["--service-cluster-ip-range", "10.96.0.0/24"]);
    let said = plane.apply_refused(&service("require", ", ipFamilyPolicy: RequireDualStack"));
    assert!(said.contains("this cluster is not configured for dual-stack services"), "{said}");
    let said = plane.apply_refused(&service("six", ", ipFamilies: [IPv6]"));
    assert!(said.contains("spec.ipFamilies[0]") && said.contains("not configured on this cluster"), "{said}");
    plane.apply(&service("prefer", ", ipFamilyPolicy: PreferDualStack"));
    assert_eq!(families(&plane, "prefer").2, ["IPv4"]);
    plane.apply(&service("headless", ", clusterIP: None"));
    assert_eq!(families(&plane, "headless").1, json!(["IPv4", "IPv6"]));
}

#[test]
fn nodes_get_a_range_of_each_family_until_there_is_none() {
    let plane = Plane::start(RANGES);
    for node in ["n1", "n2", "n3"] {
        plane.apply(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n"));
    }
    let ranges = |node: &str| plane.json(&["get", "node", node])["spec"]["podCIDRs"].clone();
    // Two /24 fit into the /23; which of the three nodes goes without is the order in which they are seen.
    let given = eventually("two nodes to have their ranges", 20, || {
        let given: Vec<Value> =
            ["n1", "n2", "n3"].iter().map(|node| ranges(node)).filter(|cidrs| !cidrs.is_null()).collect();
        if given.len() == 2 { Ok(given) } else { Err(format!("{given:?}")) }
    });
    for cidrs in &given {
        let texts: Vec<&str> = cidrs.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        let [four, six] = texts.as_slice() else { panic!("{cidrs}") };
        assert!(four.starts_with("10.244.") && four.ends_with("/24"), "{cidrs}");
        assert!(six.starts_with("fd00:244:") && six.ends_with("/64"), "{cidrs}");
    }
    assert_ne!(given[0], given[1]);
    let poor = ["n1", "n2", "n3"].into_iter().find(|node| ranges(node).is_null()).expect("one goes without");
    eventually("the event of the node without a range", 20, || {
        let seen = plane.events(poor, "CIDRNotAvailable");
        if seen.is_empty() { Err("none".into()) } else { Ok(()) }
    });
    let rich = ["n1", "n2", "n3"].into_iter().find(|node| *node != poor).expect("one has a range");
    plane.kubectl(&["delete", "node", rich]);
    eventually("the freed range to be given away", 20, || {
        let cidrs = ranges(poor);
        if cidrs.as_array().is_some_and(|list| list.len() == 2) { Ok(()) } else { Err(cidrs.to_string()) }
    });
}

/// A pod that runs nowhere and is said to have these addresses.
fn pretend(plane: &Plane, name: &str, node: &str, ips: &[&str], ready: bool) {
    plane.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\nspec: {{nodeName: {node}, hostname: {name}, subdomain: web, containers: [{{name: c, image: i}}]}}\n"
    ));
    let list: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    let status = if ready { "True" } else { "False" };
    let patch = json!({"status": {"phase": "Running", "podIP": ips[0], "podIPs": list,
        "conditions": [{"type": "Ready", "status": status}]}});
    let patch = patch.to_string();
    plane.kubectl(&["patch", "pod", name, "--subresource=status", "--type=merge", "-p", &patch]);
}

fn slices(plane: &Plane, service: &str, manager: &str) -> Vec<Value> {
    let label =
        format!("kubernetes.io/service-name={service},endpointslice.kubernetes.io/managed-by={manager}");
    let list = plane.json(&["get", "endpointslices", "-l", &label]);
    let mut items = list["items"].as_array().cloned().unwrap_or_default();
    items.sort_by_key(|slice| slice["addressType"].to_string());
    items
}

fn addresses(slice: &Value) -> Vec<&str> {
    let endpoints = slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut all: Vec<&str> = endpoints
        .iter()
        .flat_map(|endpoint| endpoint["addresses"].as_array().map(Vec::as_slice).unwrap_or_default())
        .filter_map(Value::as_str)
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn endpoint_slices_are_made_for_each_family_with_hints() {
    let plane = Plane::start(RANGES);
    for (node, zone) in [("n1", "z1"), ("n2", "z2")] {
        plane.apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
        ));
    }
    plane.apply(&service(
        "web",
        ", ipFamilyPolicy: RequireDualStack, selector: {app: web}, trafficDistribution: PreferSameNode",
    ));
    pretend(&plane, "a", "n1", &["10.244.0.5", "fd00:244::5"], true);
    pretend(&plane, "b", "n2", &["10.244.1.6", "fd00:244:0:1::6"], false);
    let made = eventually("a slice of each family with both pods", 20, || {
        let made = slices(&plane, "web", "endpointslice-controller.k8s.io");
        let full = made.iter().all(|slice| addresses(slice).len() == 2);
        if made.len() == 2 && full { Ok(made) } else { Err(json!(made).to_string()) }
    });
    for (slice, family, expected) in [
        (&made[0], "IPv4", ["10.244.0.5", "10.244.1.6"]),
        (&made[1], "IPv6", ["fd00:244:0:1::6", "fd00:244::5"]),
    ] {
        assert_eq!(slice["addressType"], family);
        assert_eq!(addresses(slice), expected);
        for endpoint in slice["endpoints"].as_array().expect("a list") {
            let ready = endpoint["conditions"]["ready"] == true;
            assert_eq!(ready, endpoint["hostname"] == "a", "{endpoint}");
            let hints = json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]});
            assert_eq!(endpoint["hints"], if ready { hints } else { Value::Null }, "{endpoint}");
        }
    }
    let older = plane.json(&["get", "endpoints", "web"]);
    assert_eq!(older["subsets"][0]["addresses"][0]["ip"], "10.244.0.5", "{older}");
    assert!(!older.to_string().contains("fd00:"), "the older form has the primary family alone: {older}");
    plane.kubectl(&["patch", "service", "web", "-p", r#"{"spec":{"ipFamilyPolicy":"SingleStack"}}"#]);
    eventually("the slice of the second family to go", 20, || {
        let left = slices(&plane, "web", "endpointslice-controller.k8s.io");
        if left.len() == 1 && left[0]["addressType"] == "IPv4" {
            Ok(())
        } else {
            Err(json!(left).to_string())
        }
    });
}

#[test]
fn endpoints_that_somebody_writes_are_mirrored_and_special_addresses_refused() {
    let plane = Plane::start(RANGES);
    plane.apply(&service("db", ""));
    let endpoints = |ips: &str| {
        format!(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: db, labels: {{team: a}}}}\nsubsets: [{{addresses: [{ips}], ports: [{{port: 5432}}]}}]\n"
        )
    };
    plane.apply(&endpoints("{ip: 198.51.100.1}, {ip: '2001:db8::1'}"));
    let manager = "endpointslicemirroring-controller.k8s.io";
    let made = eventually("a mirror of each family", 20, || {
        let made = slices(&plane, "db", manager);
        if made.len() == 2 { Ok(made) } else { Err(json!(made).to_string()) }
    });
    assert_eq!(addresses(&made[0]), ["198.51.100.1"]);
    assert_eq!(addresses(&made[1]), ["2001:db8::1"]);
    assert_eq!(made[0]["metadata"]["labels"]["team"], "a");
    plane.apply(&endpoints("{ip: 198.51.100.2}"));
    eventually("the mirror to follow", 20, || {
        let made = slices(&plane, "db", manager);
        let fits = made.len() == 1 && addresses(&made[0]) == ["198.51.100.2"];
        if fits { Ok(()) } else { Err(json!(made).to_string()) }
    });
    for (ip, words) in [
        ("127.0.0.1", "may not be in the loopback range"),
        ("169.254.169.254", "may not be in the link-local range"),
        ("224.0.0.5", "may not be in the link-local multicast range"),
        ("'::1'", "may not be in the loopback range"),
    ] {
        let said = plane.apply_refused(&endpoints(&format!("{{ip: {ip}}}")));
        assert!(said.contains(words), "{ip}: {said}");
        let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
        let slice = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: own}}\naddressType: {family}\nendpoints: [{{addresses: [{ip}]}}]\nports: []\n"
        );
        let said = plane.apply_refused(&slice);
        assert!(said.contains(words), "{ip}: {said}");
    }
    plane.kubectl(&["delete", "endpoints", "db"]);
    eventually("the mirror to go with its original", 20, || {
        let made = slices(&plane, "db", manager);
        if made.is_empty() { Ok(()) } else { Err(json!(made).to_string()) }
    });
}
