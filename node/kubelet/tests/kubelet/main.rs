//! The kubelet as a whole, with a real Docker Engine, against a small API server in this process.
//!
//! Needs root, `docker` and a static busybox; a machine that lacks one fails the test.

mod api;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use api::Api;
use clap::Parser as _;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const IMAGE: &str = "fairlead-kubelet-test/busybox:1";

#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: fairlead_kubelet::Args,
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{script}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// An image of busybox that sleeps when nothing is said.
fn image() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
        sh(&format!(
            "set -e; d=$(mktemp -d); mkdir -p $d/bin $d/tmp $d/dev $d/etc; cp /bin/busybox $d/bin/; \
             for a in sh sleep cat echo ls touch test env httpd true false id; do ln -s busybox $d/bin/$a; done; \
             tar -C $d -c . | docker import --change 'ENV PATH=/bin' --change 'CMD [\"sleep\",\"100000\"]' - {IMAGE} >/dev/null; \
             rm -rf $d"
        ));
    });
}

/// One node with its files, removed at the end with everything it made.
struct Node {
    name: String,
    root: PathBuf,
    api: Api,
    url: String,
    /// The kubelet has a runtime of its own, so that all of it can be made to vanish at once.
    running: Option<Runtime>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
        }
        let filter = format!("label=fairlead.io/node={}", self.name);
        // What the kubelet was removing when it vanished is refused until that has ended.
        sh(&format!(
            "for i in $(seq 100); do all=$(docker ps -aq --filter {filter}); [ -z \"$all\" ] && exit 0; \
             docker rm -f $all >/dev/null 2>&1; sleep 0.1; done; exit 1"
        ));
        let _ = fairlead_kubelet::volume::mounts::remove_tree(&self.root);
    }
}

/// A plugin that gives each pod an address on its loopback: enough to be told apart, nothing outside is touched.
const PLUGIN: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_ARGS" >> "$here/calls"
conf=$(cat)
case "$CNI_COMMAND" in
ADD)
    n=$(cat "$here/next" 2>/dev/null || echo 1); echo $((n + 1)) > "$here/next"
    nsenter --net="$CNI_NETNS" ip link set lo up
    nsenter --net="$CNI_NETNS" ip addr add "10.99.0.$n/32" dev lo
    echo "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.99.0.$n/32\"}]}" ;;
esac
"#;

impl Node {
    async fn new(name: &str, network: bool) -> Self {
        image();
        let root = std::env::temp_dir().join(format!("fairlead-kubelet-{name}-{}", std::process::id()));
        let _ = fairlead_kubelet::volume::mounts::remove_tree(&root);
        std::fs::create_dir_all(&root).unwrap();
        write_certificates(&root);
        let api = Api::default();
        let url = api.serve().await;
        let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": url}}], "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
        std::fs::write(root.join("kubeconfig"), kubeconfig.to_string()).unwrap();
        let node = Self { name: format!("{name}-{}", std::process::id()), root, api, url, running: None };
        if network {
            node.install_network();
        }
        node
    }

    fn install_network(&self) {
        use std::os::unix::fs::PermissionsExt as _;
        let (conf, bin) = (self.root.join("etc/cni/net.d"), self.root.join("opt/cni/bin"));
        std::fs::create_dir_all(&conf).unwrap();
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("plain"), PLUGIN).unwrap();
        std::fs::set_permissions(bin.join("plain"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let list = json!({"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "plain"}]});
        std::fs::write(conf.join("10-test.conflist"), list.to_string()).unwrap();
    }

    fn start(&mut self) {
        let root = self.root.display();
        let line = format!(
            "x --node-name {} --kubeconfig {root}/kubeconfig --node-ip 127.0.0.1 --cluster-name kubelet-test \
             --tls-cert-file {root}/tls.crt --tls-private-key-file {root}/tls.key --client-ca-file {root}/tls.crt \
             --port 0 --node-root {root} --pause-image {IMAGE}",
            self.name
        );
        let args = Cli::parse_from(line.split_whitespace()).args;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.spawn(async move {
            let ended = fairlead_kubelet::run(args, CancellationToken::new()).await;
            eprintln!("kubelet ended: {ended:?}");
        });
        self.running = Some(runtime);
    }

    /// Ends the kubelet as a crash would: nothing is asked, nothing is waited for.
    async fn crash(&mut self) {
        let runtime = self.running.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10))).await.unwrap();
    }

    fn create(&self, name: &str, spec: Value) -> String {
        let path = format!("/api/v1/namespaces/test/pods/{name}");
        let mut spec = spec;
        spec["nodeName"] = json!(self.name);
        let uid = format!("{name}-{}", self.name);
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "spec": spec,
            "metadata": {"name": name, "namespace": "test", "uid": uid, "labels": {"app": name}}});
        self.api.put(&path, pod);
        path
    }

    fn delete(&self, path: &str, grace: u32) {
        let mut pod = self.api.get(path).unwrap();
        pod["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.api.put(path, pod);
    }

    fn containers(&self, uid: &str) -> Vec<String> {
        let filter = format!(
            "--filter label=fairlead.io/node={} --filter label=io.kubernetes.pod.uid={uid}",
            self.name
        );
        let ids = sh(&format!("docker ps -aq --no-trunc {filter}"));
        let mut ids: Vec<String> = ids.lines().map(str::to_owned).collect();
        ids.sort();
        ids
    }

    /// Waits until `path` satisfies `wanted`; fails with what was last seen.
    #[track_caller]
    fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool + Send) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        let (api, path) = (self.api.clone(), path.to_owned());
        async move {
            let begun = Instant::now();
            loop {
                let seen = api.get(&path).unwrap_or_default();
                if wanted(&seen) {
                    return seen;
                }
                let events: Vec<_> =
                    api.all("/events/").iter().map(|event| event["message"].clone()).collect();
                assert!(
                    begun.elapsed() < Duration::from_secs(90),
                    "{caller}: {path} is {}\nevents: {events:#?}",
                    serde_json::to_string_pretty(&seen["status"]).unwrap()
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn write_certificates(root: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(root.join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(root.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn phase_is(phase: &'static str) -> impl Fn(&Value) -> bool + Send {
    move |pod| pod["status"]["phase"] == phase
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_kubelet_keeps_every_container_and_cleans_up_what_was_deleted_meanwhile() {
    let mut node = Node::new("adoption", true).await;
    node.start();
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "a", "image": IMAGE, "imagePullPolicy": "Never"}]});
    let kept = node.create("kept", spec.clone());
    let gone = node.create("gone", spec);
    let before = node.until(&kept, ready).await;
    node.until(&gone, ready).await;
    let uid = before["metadata"]["uid"].as_str().unwrap().to_owned();
    let ids = node.containers(&uid);
    assert_eq!(ids.len(), 2, "a sandbox and one container");

    node.crash().await;
    let gone_uid = node.api.get(&gone).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    node.api.remove(&gone);
    node.start();
    // What was left by the removed pod is found by labels alone, and its network is given back.
    let begun = Instant::now();
    while !node.containers(&gone_uid).is_empty()
        || node.root.join("var/lib/kubelet/pods").join(&gone_uid).exists()
    {
        assert!(begun.elapsed() < Duration::from_secs(60), "orphans stay");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(node.containers(&uid), ids, "the restarted kubelet restarted a container");
    let after = node.api.get(&kept).unwrap();
    assert_eq!(after["status"]["containerStatuses"], before["status"]["containerStatuses"]);
    assert_eq!(after["status"]["podIP"], before["status"]["podIP"]);
    let calls = std::fs::read_to_string(node.root.join("opt/cni/bin/calls")).unwrap();
    assert_eq!(calls.matches("ADD ").count(), 2, "{calls}");
    assert!(
        calls.lines().any(|call| call.starts_with("DEL ") && call.contains("K8S_POD_NAME=gone")),
        "{calls}"
    );

    node.delete(&kept, 1);
    node.until(&kept, Value::is_null).await;
    assert!(node.containers(&uid).is_empty());
    assert!(!node.root.join("var/lib/kubelet/pods").join(&uid).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_network_pods_run_before_there_is_a_network_and_others_after() {
    let mut node = Node::new("network", false).await;
    node.start();
    let container = json!([{"name": "a", "image": IMAGE, "imagePullPolicy": "Never"}]);
    let host = node.create("host", json!({"hostNetwork": true, "containers": container}));
    let own = node.create("own", json!({"containers": container}));
    let seen = node.until(&host, ready).await;
    assert_eq!(seen["status"]["podIP"], "127.0.0.1");
    let path = format!("/api/v1/nodes/{}", node.name);
    let object = node.api.get(&path).unwrap();
    let condition =
        object["status"]["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Ready").unwrap();
    assert_eq!(condition["status"], "False");
    assert!(condition["message"].as_str().unwrap().contains("cni plugin not initialized"));
    assert!(!ready(&node.api.get(&own).unwrap()));
    node.install_network();
    let seen = node.until(&own, ready).await;
    assert_eq!(seen["status"]["podIP"], "10.99.0.1");
    node.until(&path, |object| {
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_see_environment_volumes_and_init_results_and_their_ends_are_reported() {
    let mut node = Node::new("content", true).await;
    node.api.put(
        "/api/v1/namespaces/test/configmaps/cm",
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "cm"}, "data": {"k": "from-cm"}}),
    );
    node.api.put(
        "/api/v1/namespaces/test/secrets/sec",
        json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "sec"}, "data": {"pw": "czNjcmV0"}}),
    );
    node.start();
    let script = "set -e; test \"$K\" = from-cm; test \"$WHO\" = all-$NAME; test $(cat /cm/k) = from-cm; \
                  test $(cat /sec/pw) = s3cret; test $(cat /shared/init) = done; test $(cat /one) = from-cm; \
                  test $(id -u) = 1000; echo words > /dev/termination-log; exit 7";
    let pod = node.create("all", json!({"restartPolicy": "Never",
        "volumes": [{"name": "cm", "configMap": {"name": "cm"}}, {"name": "sec", "secret": {"secretName": "sec"}},
            {"name": "shared", "emptyDir": {}}],
        "initContainers": [{"name": "i", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", "echo done > /shared/init"],
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
        "containers": [{"name": "a", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c"], "args": [script],
            "securityContext": {"runAsUser": 1000},
            "env": [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "WHO", "value": "all-$(NAME)"},
                {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}],
            "volumeMounts": [{"name": "cm", "mountPath": "/cm"}, {"name": "sec", "mountPath": "/sec"},
                {"name": "shared", "mountPath": "/shared"}, {"name": "cm", "mountPath": "/one", "subPath": "k"}]}]}));
    let seen = node.until(&pod, phase_is("Failed")).await;
    let end = &seen["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((end["exitCode"].as_i64(), end["message"].as_str()), (Some(7), Some("words\n")), "{end}");
    assert_eq!(seen["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_ignores_its_signal_is_killed_after_its_hook() {
    let mut node = Node::new("hook", true).await;
    node.start();
    // The first process of a container gets no signal that it does not ask for.
    let pod = node.create(
        "deaf",
        json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "a", "image": IMAGE, "imagePullPolicy": "Never",
         "lifecycle": {"preStop": {"exec": {"command": ["true"]}}}}]}),
    );
    let uid = node.until(&pod, ready).await["metadata"]["uid"].as_str().unwrap().to_owned();
    let begun = Instant::now();
    node.delete(&pod, 1);
    node.until(&pod, Value::is_null).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
    assert!(node.containers(&uid).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashing_containers_back_off_and_missing_images_are_named() {
    let mut node = Node::new("trouble", true).await;
    node.start();
    let crash = node.create(
        "crash",
        json!({"containers": [
        {"name": "a", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", "exit 3"]}]}),
    );
    let never = node.create(
        "never",
        json!({"containers": [
        {"name": "a", "image": "fairlead-kubelet-test/absent:1", "imagePullPolicy": "Never"}]}),
    );
    let volume = node.create(
        "volume",
        json!({"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}],
        "containers": [{"name": "a", "image": IMAGE, "imagePullPolicy": "Never"}]}),
    );
    let reason = |wanted: &'static str| {
        move |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == wanted
    };
    let seen = node.until(&crash, reason("CrashLoopBackOff")).await;
    let status = &seen["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(status["restartCount"], 1);
    assert_eq!(seen["status"]["phase"], "Running");
    let message = status["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.starts_with("back-off 10s restarting failed container=a pod=crash_test("), "{message}");
    node.until(&never, reason("ErrImageNeverPull")).await;
    node.until(&volume, reason("ContainerCreating")).await;
    let mounts = || node.api.all("/events/").into_iter().find(|event| event["reason"] == "FailedMount");
    let begun = Instant::now();
    while mounts().is_none() && begun.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let message = mounts().unwrap()["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("volume kind nfs is not supported"), "{message}");
    for path in [crash, never, volume] {
        node.delete(&path, 1);
        node.until(&path, Value::is_null).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_decide_readiness_and_restarts() {
    let mut node = Node::new("probes", true).await;
    node.start();
    let exec = |command: &str| json!({"exec": {"command": ["sh", "-c", command]}, "periodSeconds": 1, "failureThreshold": 2, "timeoutSeconds": 5});
    let pod = node.create("probed", json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "a", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", "sleep 3; touch /tmp/ready; sleep 4; touch /tmp/sick; sleep 1000"],
            "readinessProbe": exec("test -e /tmp/ready"), "livenessProbe": exec("test ! -e /tmp/sick")}]}));
    let running = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["running"].is_object();
    let seen = node.until(&pod, running).await;
    assert!(!ready(&seen), "ready before its probe succeeded");
    node.until(&pod, ready).await;
    let restarted = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    node.until(&pod, restarted).await;
    let events = node.api.all("/events/");
    assert!(
        events.iter().any(|event| event["message"] == "Container a failed liveness probe, will be restarted")
    );
    assert!(!node.url.is_empty());
}
