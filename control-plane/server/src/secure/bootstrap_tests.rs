use super::*;

#[test]
fn every_line_of_the_table_is_understood() {
    let objects = objects();
    let count = |resource: &str| objects.iter().filter(|object| object.resource == resource).count();
    assert_eq!((count("clusterroles"), count("clusterrolebindings")), (71, 52));
    let rules = TABLE.lines().filter(|line| line.starts_with("  "));
    assert!(rules.clone().all(|line| read_rule(line).is_some()));
    let in_objects: usize = objects.iter().filter_map(|o| o.object["rules"].as_array()).map(Vec::len).sum();
    assert_eq!(in_objects, rules.count());
    for binding in objects.iter().filter(|object| object.resource == "clusterrolebindings") {
        let role = binding.object["roleRef"]["name"].as_str().expect("role");
        assert!(
            objects.iter().any(|object| object.resource == "clusterroles" && object.name == role),
            "{role}"
        );
    }
}

#[test]
fn cluster_admin_is_made_as_upstream_makes_it() {
    let objects = objects();
    let role = objects.iter().find(|object| object.name == "cluster-admin").expect("there");
    assert_eq!(
        role.object,
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {
                "name": "cluster-admin",
                "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
            },
            "rules": [
                {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
                {"verbs": ["*"], "nonResourceURLs": ["*"]},
            ],
        })
    );
}

fn find(resource: &str, name: &str) -> Default {
    objects().into_iter().find(|object| object.resource == resource && object.name == name).expect("there")
}

#[test]
fn rights_that_were_taken_away_come_back_and_additions_stay() {
    let wanted = find("clusterroles", "system:basic-user");
    assert_eq!(reconcile(&wanted, &wanted.object), None);
    let mut changed = wanted.object.clone();
    let extra = json!({"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]});
    changed["rules"] = json!([extra]);
    let mended = reconcile(&wanted, &changed).expect("mended");
    let rules: Vec<Rule> = serde_json::from_value(mended["rules"].clone()).expect("rules");
    assert!(mended["rules"].as_array().expect("list").contains(&extra));
    assert_eq!(missing(&rules, &rules_of("system:basic-user")), []);
    assert_eq!(reconcile(&wanted, &mended), None, "once is enough");
    changed["metadata"]["annotations"][AUTOUPDATE] = "false".into();
    assert_eq!(reconcile(&wanted, &changed), None);
}

#[test]
fn a_lost_subject_comes_back() {
    let wanted = find("clusterrolebindings", "cluster-admin");
    let mut changed = wanted.object.clone();
    changed["subjects"] = json!([{"kind": "User", "apiGroup": GROUP, "name": "me"}]);
    let mended = reconcile(&wanted, &changed).expect("mended");
    assert_eq!(mended["subjects"].as_array().map(Vec::len), Some(2));
    assert!(!refers_elsewhere(&wanted, &changed));
    changed["roleRef"]["name"] = "view".into();
    assert!(refers_elsewhere(&wanted, &changed));
}
