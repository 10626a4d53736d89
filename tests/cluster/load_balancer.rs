//! LoadBalancer: addresses from pools appear in the status, stay, are given back, and run out with a reason.

use serde_json::Value;

use crate::harness::eventually;
use crate::plane::Plane;

fn balancer(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: LoadBalancer, ports: [{{port: 80}}]{more}}}\n"
    )
}

fn pools(text: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: fairlead-load-balancer, namespace: kube-system}}\ndata: {{pools: \"{text}\"}}\n"
    )
}

fn addresses(service: &Value) -> Vec<String> {
    let list = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    list.iter().map(|ingress| ingress["ip"].as_str().unwrap_or_default().to_owned()).collect()
}

#[track_caller]
fn gets(plane: &Plane, name: &str, expected: &[&str]) {
    eventually(&format!("{name} to have {expected:?}"), 20, || {
        let seen = addresses(&plane.json(&["get", "service", name]));
        if seen == expected { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[track_caller]
fn says(plane: &Plane, name: &str, reason: &str, words: &str) {
    eventually(&format!("event {reason} of {name}"), 20, || {
        let seen = plane.events(name, reason);
        if seen.iter().any(|message| message.contains(words)) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[test]
fn addresses_come_from_the_pools_and_go_back_to_them() {
    let mut plane = Plane::start(&["--load-balancer-pool", "192.0.2.1-192.0.2.2"]);
    plane.apply(&balancer("a", ""));
    gets(&plane, "a", &["192.0.2.1"]);
    let a = plane.json(&["get", "service", "a"]);
    assert_eq!(a["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP", "{a}");
    assert_eq!(a["metadata"]["finalizers"][0], "service.kubernetes.io/load-balancer-cleanup", "{a}");
    says(&plane, "a", "EnsuringLoadBalancer", "Ensuring load balancer");
    says(&plane, "a", "EnsuredLoadBalancer", "Ensured load balancer");
    plane.apply(&balancer("foreign", ", loadBalancerClass: example.com/other"));
    plane.apply(&balancer("b", ", loadBalancerClass: fairlead.io/pool, loadBalancerIP: 192.0.2.2"));
    gets(&plane, "b", &["192.0.2.2"]);

    // Nothing is left: the third waits, and is told why.
    plane.apply(&balancer("c", ", allocateLoadBalancerNodePorts: false"));
    says(&plane, "c", "SyncLoadBalancerFailed", "every IPv4 address of the pools is taken");
    let c = plane.json(&["get", "service", "c"]);
    assert!(c["spec"]["ports"][0]["nodePort"].is_null(), "{c}");
    assert_eq!(addresses(&c), [""; 0]);

    // A restart gives the addresses to those who had them.
    plane.restart();
    gets(&plane, "a", &["192.0.2.1"]);
    gets(&plane, "b", &["192.0.2.2"]);

    // A change of the type gives back; so does a deletion.
    plane.kubectl(&["patch", "service", "a", "-p", r#"{"spec":{"type":"ClusterIP"}}"#]);
    gets(&plane, "c", &["192.0.2.1"]);
    gets(&plane, "a", &[]);
    eventually("the finalizer of a to go", 20, || {
        let a = plane.json(&["get", "service", "a"]);
        if a["metadata"]["finalizers"].is_null() { Ok(()) } else { Err(a["metadata"].to_string()) }
    });
    plane.kubectl(&["delete", "service", "b", "--timeout=20s"]);
    plane.apply(&balancer("d", ""));
    gets(&plane, "d", &["192.0.2.2"]);

    let foreign = plane.json(&["get", "service", "foreign"]);
    assert!(foreign["metadata"]["finalizers"].is_null() && addresses(&foreign).is_empty(), "{foreign}");
}

#[test]
fn the_configmap_names_pools_and_a_bad_text_leaves_the_earlier_ones() {
    let plane = Plane::start(&[
        "--service-cluster-ip-range",
        "10.96.0.0/24,fd00:96::/112",
        "--cluster-cidr",
        "10.244.0.0/16,fd00:244::/56",
    ]);
    plane.apply(&balancer("a", ""));
    says(&plane, "a", "SyncLoadBalancerFailed", "there is no pool of IPv4 addresses");
    plane.apply(&pools("192.0.2.0/31\\nfd00:1b::10-fd00:1b::11"));
    gets(&plane, "a", &["192.0.2.0"]);
    plane.apply(&balancer("b", ", ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6, IPv4]"));
    gets(&plane, "b", &["fd00:1b::10", "192.0.2.1"]);
    for (text, words) in [
        ("198.51.100.0/30, nonsense", "nonsense"),
        ("10.96.0.128/28", "overlaps the service range 10.96.0.0/24"),
        ("fd00:244::/64", "overlaps the cluster range fd00:244::/56"),
    ] {
        plane.apply(&pools(text));
        says(&plane, "fairlead-load-balancer", "InvalidLoadBalancerPools", words);
    }
    plane.apply(&balancer("six", ", ipFamilies: [IPv6]"));
    gets(&plane, "six", &["fd00:1b::11"]);
    // A Service that only prefers both is content with one, and gets the other when there is one.
    plane.apply(&pools("192.0.2.0/31, fd00:1b::10/124"));
    plane.apply(&balancer("both", ", ipFamilyPolicy: PreferDualStack"));
    gets(&plane, "both", &["fd00:1b::12"]);
    plane.apply(&pools("192.0.2.0/30, fd00:1b::10/124"));
    gets(&plane, "both", &["192.0.2.2", "fd00:1b::12"]);
    // A shrunk pool takes no address from a Service that runs.
    plane.apply(&pools(""));
    gets(&plane, "both", &["192.0.2.2", "fd00:1b::12"]);
}
