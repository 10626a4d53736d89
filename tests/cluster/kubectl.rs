//! What an administrator types every day.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::harness::{
    Place, client, command, eventually, feed, json, kubectl, ready, refused, rolled_out, run, text, web,
};

#[test]
fn nodes_and_pods_are_listed_wide() {
    let place = Place::new("list");
    place.apply(&client("one", "node1"));
    ready(&place.namespace, "one");
    let nodes = kubectl(&["get", "nodes", "-o", "wide"]);
    assert!(nodes.starts_with("NAME "), "{nodes}");
    for column in [
        "STATUS",
        "ROLES",
        "AGE",
        "VERSION",
        "INTERNAL-IP",
        "OS-IMAGE",
        "KERNEL-VERSION",
        "CONTAINER-RUNTIME",
    ] {
        assert!(nodes.contains(column), "no column {column}: {nodes}");
    }
    assert!(nodes.lines().filter(|l| l.contains(" Ready ") && l.contains("v1.36")).count() >= 2, "{nodes}");
    assert!(nodes.contains("docker://"), "{nodes}");
    let pods = kubectl(&["get", "pods", "-A", "-o", "wide"]);
    let line = pods.lines().find(|l| l.contains(&place.namespace)).expect("the pod is listed");
    for word in ["one", "1/1", "Running", "node1", "10.244."] {
        assert!(line.contains(word), "{line}");
    }
}

#[test]
fn deployment_rolls_out_back_and_scales() {
    let place = Place::new("rollout");
    place.apply(&web("web", 2));
    rolled_out(&place.namespace, "deployment/web");
    place.kubectl(&["wait", "--for=condition=Available", "deployment/web", "--timeout=30s"]);
    place.kubectl(&["set", "env", "deployment/web", "COLOUR=blue"]);
    rolled_out(&place.namespace, "deployment/web");
    let history = place.kubectl(&["rollout", "history", "deployment/web"]);
    assert!(history.contains("REVISION") && history.lines().any(|l| l.starts_with("2 ")), "{history}");
    place.kubectl(&["rollout", "undo", "deployment/web"]);
    rolled_out(&place.namespace, "deployment/web");
    let env = place.kubectl(&[
        "get",
        "deployment",
        "web",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].env[*].name}",
    ]);
    assert!(!env.contains("COLOUR"), "undo kept the variable: {env}");
    place.kubectl(&["scale", "deployment/web", "--replicas=4"]);
    rolled_out(&place.namespace, "deployment/web");
    let shown = place.kubectl(&["get", "deployment", "web"]);
    assert!(shown.contains("4/4"), "{shown}");
    place.kubectl(&["scale", "deployment/web", "--replicas=1"]);
    eventually("three pods to go", 60, || {
        let pods = json(&["-n", &place.namespace, "get", "pods", "-l", "app=web"]);
        let left = pods["items"].as_array().map_or(0, Vec::len);
        if left == 1 { Ok(()) } else { Err(format!("{left} pods")) }
    });
    let described = place.kubectl(&["describe", "deployment", "web"]);
    for word in
        ["StrategyType:", "RollingUpdate", "Conditions:", "Available", "ScalingReplicaSet", "Scaled down"]
    {
        assert!(described.contains(word), "describe lacks {word}: {described}");
    }
    place.kubectl(&["delete", "deployment", "web", "--timeout=60s"]);
    eventually("the pods of a deleted deployment to go", 60, || {
        let pods = json(&["-n", &place.namespace, "get", "pods,replicasets"]);
        let left = pods["items"].as_array().map_or(0, Vec::len);
        if left == 0 { Ok(()) } else { Err(format!("{left} objects")) }
    });
}

#[test]
fn logs_and_exec_reach_the_container() {
    let place = Place::new("exec");
    place.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: fairlead/toolbox:latest
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "i=0; while true; do i=$((i+1)); echo line $i; echo err $i >&2; sleep 0.2; done"]
    env: [{name: GREETING, value: "hello $(NAME)"}, {name: NAME, value: world}]
"#,
    );
    ready(&place.namespace, "talker");
    eventually("ten lines", 20, || {
        let seen = place.kubectl(&["logs", "talker"]);
        if seen.contains("line 10") { Ok(()) } else { Err(seen) }
    });
    let tail = place.kubectl(&["logs", "talker", "--tail=3", "--timestamps"]);
    assert_eq!(tail.lines().count(), 3, "{tail}");
    assert!(
        tail.lines().all(|l| l.split(' ').next().is_some_and(|t| t.contains('T') && t.ends_with('Z'))),
        "{tail}"
    );
    let mut follow = command(&["-n", &place.namespace, "logs", "-f", "talker"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
    let seen: Vec<String> = lines.map_while(Result::ok).filter(|l| l.starts_with("line")).take(25).collect();
    follow.kill().expect("kubectl can be ended");
    follow.wait().expect("kubectl ends");
    assert_eq!(seen.len(), 25);
    assert!(seen.iter().enumerate().all(|(i, l)| *l == format!("line {}", i + 1)), "{seen:?}");

    let said = place.kubectl(&["exec", "talker", "--", "sh", "-c", "echo $GREETING; hostname; id -u"]);
    assert_eq!(said, "hello $(NAME)\ntalker\n0\n");
    let failed = run(&["-n", &place.namespace, "exec", "talker", "--", "sh", "-c", "echo oops >&2; exit 7"]);
    assert_eq!(failed.status.code(), Some(7), "{}", text(&failed.stderr));
    assert!(text(&failed.stderr).contains("oops"));
    let fed = feed(&["-n", &place.namespace, "exec", "-i", "talker", "--", "sh", "-c", "wc -c"], "12345");
    assert_eq!(text(&fed.stdout).trim(), "5", "{}", text(&fed.stderr));
    let missing = refused(&["-n", &place.namespace, "logs", "nobody"], "");
    assert!(missing.contains("pods \"nobody\" not found"), "{missing}");
}

#[test]
fn previous_logs_and_back_off_show_a_crashing_container() {
    let place = Place::new("crash");
    place.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: crasher}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "fairlead/toolbox:latest", imagePullPolicy: IfNotPresent, command: [sh, -c, "echo dying; exit 3"]}
"#,
    );
    eventually("CrashLoopBackOff", 60, || {
        let shown = place.kubectl(&["get", "pod", "crasher"]);
        if shown.contains("CrashLoopBackOff") { Ok(()) } else { Err(shown) }
    });
    let pod = json(&["-n", &place.namespace, "get", "pod", "crasher"]);
    let status = &pod["status"]["containerStatuses"][0];
    assert!(status["restartCount"].as_u64().is_some_and(|n| n >= 1), "{status}");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3, "{status}");
    assert!(place.kubectl(&["logs", "crasher", "--previous"]).contains("dying"));
    eventually("the event", 30, || {
        let described = place.kubectl(&["describe", "pod", "crasher"]);
        if described.contains("Back-off restarting failed container") { Ok(()) } else { Err(described) }
    });
}

#[test]
fn watch_label_diff_explain_and_patch_work() {
    let place = Place::new("verbs");
    place.kubectl(&["create", "configmap", "c", "--from-literal=a=1"]);
    let mut watch = command(&[
        "-n",
        &place.namespace,
        "get",
        "configmap",
        "c",
        "-w",
        "-o",
        "jsonpath={.data.a}{\"\\n\"}",
    ])
    .stdout(Stdio::piped())
    .spawn()
    .expect("kubectl starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "1");
    for (kind, patch) in [("merge", r#"{"data":{"a":"2"}}"#), ("strategic", r#"{"data":{"a":"3"}}"#)] {
        place.kubectl(&["patch", "configmap", "c", "--type", kind, "-p", patch]);
    }
    place.kubectl(&[
        "patch",
        "configmap",
        "c",
        "--type",
        "json",
        "-p",
        r#"[{"op":"replace","path":"/data/a","value":"4"}]"#,
    ]);
    let seen: Vec<String> = lines.by_ref().take(3).map_while(Result::ok).collect();
    watch.kill().expect("kubectl can be ended");
    watch.wait().expect("kubectl ends");
    assert_eq!(seen, ["2", "3", "4"]);

    place.kubectl(&["label", "configmap", "c", "tier=gold"]);
    assert_eq!(place.kubectl(&["get", "configmap", "-l", "tier in (gold)", "-o", "name"]), "configmap/c\n");
    assert_eq!(place.kubectl(&["get", "configmap", "-l", "tier=silver", "-o", "name"]), "");
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: d}\ndata: {x: before}\n";
    place.apply(manifest);
    let diff = feed(&["-n", &place.namespace, "diff", "-f", "-"], &manifest.replace("before", "after"));
    assert_eq!(diff.status.code(), Some(1), "{}", text(&diff.stderr));
    assert!(
        text(&diff.stdout).contains("-  x: before") && text(&diff.stdout).contains("+  x: after"),
        "{}",
        text(&diff.stdout)
    );
    let same = feed(&["-n", &place.namespace, "diff", "-f", "-"], manifest);
    assert_eq!(same.status.code(), Some(0), "{}{}", text(&same.stdout), text(&same.stderr));

    let explained = kubectl(&["explain", "deployment.spec.strategy.rollingUpdate"]);
    assert!(explained.contains("maxSurge") && explained.contains("maxUnavailable"), "{explained}");
    let deep = kubectl(&["explain", "networkpolicy", "--recursive"]);
    assert!(deep.contains("namespaceSelector"), "{deep}");
    let resources = kubectl(&["api-resources"]);
    for word in
        ["deployments", "deploy", "networkpolicies", "netpol", "endpointslices", "daemonsets", "apps/v1"]
    {
        assert!(resources.contains(word), "api-resources lacks {word}");
    }
}

#[test]
fn server_side_dry_run_changes_nothing() {
    let place = Place::new("dryrun");
    place.kubectl(&["create", "configmap", "c", "--from-literal=a=1", "--dry-run=server"]);
    let missing = refused(&["-n", &place.namespace, "get", "configmap", "c"], "");
    assert!(missing.contains("NotFound"), "{missing}");
}

#[test]
fn pending_pod_says_why_in_upstreams_words() {
    let place = Place::new("pending");
    place.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: huge}
spec:
  containers:
  - {name: c, image: "fairlead/toolbox:latest", command: [sleep, "1"], resources: {requests: {cpu: "1000"}}}
"#,
    );
    eventually("the event", 30, || {
        let described = place.kubectl(&["describe", "pod", "huge"]);
        let fits = described.contains("FailedScheduling")
            && described.contains("0/2 nodes are available")
            && described.contains("2 Insufficient cpu");
        if fits { Ok(()) } else { Err(described) }
    });
    let pod = json(&["-n", &place.namespace, "get", "pod", "huge"]);
    let scheduled =
        pod["status"]["conditions"].as_array().and_then(|c| c.iter().find(|c| c["type"] == "PodScheduled"));
    assert_eq!(scheduled.map(|c| c["reason"].clone()), Some("Unschedulable".into()));
}

#[test]
fn volumes_and_environment_come_from_the_api() {
    let place = Place::new("volumes");
    place.kubectl(&["create", "configmap", "conf", "--from-literal=key=from-config"]);
    place.kubectl(&["create", "secret", "generic", "hush", "--from-literal=word=from-secret"]);
    place.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - {name: first, image: "fairlead/toolbox:latest", imagePullPolicy: IfNotPresent, command: [sh, -c, "echo made > /shared/file"], volumeMounts: [{name: shared, mountPath: /shared}]}
  containers:
  - name: c
    image: fairlead/toolbox:latest
    imagePullPolicy: IfNotPresent
    command: [sleep, "100000"]
    env:
    - {name: C, valueFrom: {configMapKeyRef: {name: conf, key: key}}}
    - {name: S, valueFrom: {secretKeyRef: {name: hush, key: word}}}
    - {name: P, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: conf, mountPath: /conf}
    - {name: hush, mountPath: /hush, readOnly: true}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: conf, configMap: {name: conf}}
  - {name: hush, secret: {secretName: hush, defaultMode: 0400}}
"#,
    );
    ready(&place.namespace, "reader");
    let said = place.kubectl(&[
        "exec",
        "reader",
        "--",
        "sh",
        "-c",
        "echo $C $S $P; cat /shared/file /conf/key /hush/word; echo; echo $KUBERNETES_SERVICE_HOST",
    ]);
    let address = place.kubectl(&["get", "pod", "reader", "-o", "jsonpath={.status.podIP}"]);
    assert_eq!(said, format!("from-config from-secret {address}\nmade\nfrom-configfrom-secret\n10.96.0.1\n"));
}

#[test]
fn namespace_deletion_takes_everything_with_it() {
    let place = Place::new("cascade");
    let namespace = format!("{}-inner", place.namespace);
    kubectl(&["create", "namespace", &namespace]);
    eventually("the account", 30, || {
        if run(&["-n", &namespace, "get", "serviceaccount", "default"]).status.success() {
            Ok(())
        } else {
            Err("none".into())
        }
    });
    crate::harness::apply(&namespace, &web("web", 2));
    rolled_out(&namespace, "deployment/web");
    kubectl(&["delete", "namespace", &namespace, "--timeout=90s"]);
    let gone = refused(&["get", "namespace", &namespace], "");
    assert!(gone.contains("not found"), "{gone}");
}
