use super::*;
use crate::docker::state::tests::{at, exited, running, sandbox};
use serde_json::json;

fn pod(spec: serde_json::Value, status: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec, "status": status
    }))
    .unwrap()
}

struct Case<'a> {
    pod: &'a Pod,
    instances: Vec<Instance>,
    problems: &'a [(&'a str, &'static str)],
    ready: bool,
    ending: bool,
}

fn status(case: Case<'_>) -> PodStatus {
    let problems = case
        .problems
        .iter()
        .map(|(name, reason)| ((*name).to_owned(), Problem { reason, message: "m".to_owned() }))
        .collect();
    let ready = case.ready;
    compute(&View {
        pod: case.pod,
        runtime: &PodRuntime::new(case.instances),
        readiness: &move |_| Readiness { started: true, ready },
        problems: &problems,
        messages: &BTreeMap::new(),
        images: &BTreeMap::from([("sha256:1".to_owned(), "docker://sha256:1".to_owned())]),
        addresses: &["10.244.0.2".to_owned()],
        host_addresses: &["10.0.0.1".to_owned()],
        sandbox_ready: true,
        verdict: None,
        ending: case.ending,
        now: at(50),
    })
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_).unwrap()
}

#[test]
fn phases_follow_policy_and_containers() {
    let up = || sandbox(Phase::Running);
    for (policy, instances, problems, ending, expected) in [
        ("Always", vec![up()], vec![], false, "Pending"),
        ("Always", vec![up()], vec![("a", "ImagePullBackOff")], false, "Pending"),
        ("Always", vec![up(), running("a", 0)], vec![], false, "Running"),
        ("Always", vec![up(), exited("a", 0, 1, 5)], vec![("a", "CrashLoopBackOff")], false, "Running"),
        ("Always", vec![up(), exited("a", 0, 0, 5)], vec![], false, "Running"),
        ("Always", vec![exited("a", 0, 0, 5)], vec![], true, "Succeeded"),
        ("Always", vec![exited("a", 0, 137, 5)], vec![], true, "Failed"),
        ("OnFailure", vec![up(), exited("a", 0, 1, 5)], vec![], false, "Running"),
        ("OnFailure", vec![up(), exited("a", 0, 0, 5)], vec![], false, "Succeeded"),
        ("Never", vec![up(), exited("a", 0, 1, 5)], vec![], false, "Failed"),
        ("Never", vec![up(), exited("a", 0, 0, 5)], vec![], false, "Succeeded"),
    ] {
        let pod =
            pod(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}), json!({}));
        let shown = format!("{policy} {instances:?} {problems:?}");
        let seen = status(Case { pod: &pod, instances, problems: &problems, ready: true, ending });
        assert_eq!(seen.phase.as_deref(), Some(expected), "{shown}");
    }
}

#[test]
fn a_running_pod_reports_what_kubectl_shows() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "i"}]}), json!({}));
    let instances = vec![sandbox(Phase::Running), running("a", 2), exited("a", 1, 3, 5)];
    let seen = status(Case { pod: &pod, instances, problems: &[], ready: true, ending: false });
    let container = &seen.container_statuses.as_ref().unwrap()[0];
    assert_eq!((container.ready, container.started, container.restart_count), (true, Some(true), 2));
    assert_eq!(container.container_id.as_deref(), Some("docker://a-2"));
    assert_eq!(container.image_id, "docker://sha256:1");
    let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    assert_eq!((seen.pod_ip.as_deref(), seen.host_ip.as_deref()), (Some("10.244.0.2"), Some("10.0.0.1")));
    for type_ in OWN {
        assert_eq!(condition(&seen, type_).status, "True", "{type_}");
    }
    assert_eq!(seen.qos_class.as_deref(), Some("BestEffort"));
}

#[test]
fn unready_containers_are_named_and_times_kept() {
    let old = json!({"conditions": [
        {"type": "Ready", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"},
        {"type": "Initialized", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"},
        {"type": "example.com/gate", "status": "True"}], "startTime": "2020-01-01T00:00:00Z"});
    let pod = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}), old);
    let instances = vec![sandbox(Phase::Running), running("a", 0), running("b", 0)];
    let seen = status(Case { pod: &pod, instances, problems: &[], ready: false, ending: false });
    let ready = condition(&seen, "Ready");
    assert_eq!(ready.reason.as_deref(), Some("ContainersNotReady"));
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [a b]"));
    let kept: Time = serde_json::from_value(json!("2020-01-01T00:00:00Z")).unwrap();
    assert_eq!(ready.last_transition_time, Some(kept.clone()));
    assert_eq!(condition(&seen, "Initialized").last_transition_time, Some(Time(at(50))));
    assert_eq!(condition(&seen, "example.com/gate").status, "True");
    assert_eq!(seen.start_time, Some(kept));
}

#[test]
fn waiting_containers_say_why() {
    let plain = pod(json!({"containers": [{"name": "a"}]}), json!({}));
    let with_init = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}), json!({}));
    let reason = |pod: &Pod, instances, problems: &[(&str, &'static str)]| {
        let seen = status(Case { pod, instances, problems, ready: true, ending: false });
        let state = seen.container_statuses.unwrap().remove(0).state.unwrap();
        state.waiting.and_then(|waiting| waiting.reason).unwrap_or_default()
    };
    assert_eq!(reason(&plain, vec![], &[]), "ContainerCreating");
    assert_eq!(reason(&with_init, vec![], &[]), "PodInitializing");
    assert_eq!(reason(&plain, vec![], &[("a", "ErrImagePull")]), "ErrImagePull");
    assert_eq!(reason(&plain, vec![exited("a", 0, 1, 5)], &[("a", "CrashLoopBackOff")]), "CrashLoopBackOff");
}

#[test]
fn init_containers_hold_the_pod_pending() {
    let pod = pod(
        json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]}),
        json!({}),
    );
    let up = || sandbox(Phase::Running);
    let seen = status(Case {
        pod: &pod,
        instances: vec![up(), running("i", 0)],
        problems: &[],
        ready: true,
        ending: false,
    });
    assert_eq!(seen.phase.as_deref(), Some("Pending"));
    let open = condition(&seen, "Initialized");
    assert_eq!(open.message.as_deref(), Some("containers with incomplete status: [i s]"));
    let instances = vec![up(), exited("i", 0, 0, 5), running("s", 0), running("a", 0)];
    let seen = status(Case { pod: &pod, instances, problems: &[], ready: true, ending: false });
    assert_eq!(seen.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&seen, "Initialized").status, "True");
    assert_eq!(condition(&seen, "Ready").status, "True");
}

#[test]
fn an_ended_pod_stays_ended() {
    let pod =
        pod(json!({"containers": [{"name": "a"}]}), json!({"phase": "Failed", "reason": "DeadlineExceeded"}));
    let seen = status(Case {
        pod: &pod,
        instances: vec![running("a", 0)],
        problems: &[],
        ready: true,
        ending: true,
    });
    assert_eq!((seen.phase.as_deref(), seen.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
    assert_eq!(condition(&seen, "Ready").reason.as_deref(), Some("PodFailed"));
}

#[test]
fn a_container_docker_lost_is_said_to_have_ended_unknown() {
    let old = json!({"containerStatuses": [{"name": "a", "image": "i", "imageID": "x", "ready": true, "restartCount": 2,
        "containerID": "docker://abc", "state": {"running": {}}}]});
    let pod = pod(json!({"containers": [{"name": "a"}]}), old);
    let seen = status(Case { pod: &pod, instances: vec![], problems: &[], ready: true, ending: true });
    let container = &seen.container_statuses.as_ref().unwrap()[0];
    let end = container.state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    assert_eq!(container.restart_count, 2);
}
