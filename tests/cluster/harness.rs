//! kubectl, namespaces, pods and deadlines for the tests of this folder.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{LazyLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Tests that kill parts of the cluster hold this for writing, all others for reading.
static PEACE: RwLock<()> = RwLock::new(());

/// The cluster under test.
pub static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::from_environment);

pub struct Cluster {
    pub name: String,
    pub workspace: PathBuf,
}

impl Cluster {
    fn from_environment() -> Cluster {
        let name = std::env::var("FAIRLEAD_CLUSTER")
            .expect("FAIRLEAD_CLUSTER names no cluster: run these tests with `cargo xtask test cluster`");
        let workspace =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_path_buf();
        Cluster { name, workspace }
    }
    pub fn state(&self) -> PathBuf {
        self.workspace.join(".fairlead").join(&self.name)
    }
    pub fn kubeconfig(&self) -> PathBuf {
        let file =
            if self.name == "fairlead" { "kubeconfig".into() } else { format!("{}.kubeconfig", self.name) };
        self.workspace.join(".fairlead").join(file)
    }
    /// Path of a network namespace: `node1`, `outside`.
    pub fn netns(&self, what: &str) -> String {
        format!("/run/netns/fl-{}-{what}", self.name)
    }
}

/// How a test stands to the others while it runs; held until its end.
#[expect(dead_code, reason = "the guards are held, not read")]
enum Peace {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A namespace of one test, deleted at its end.
pub struct Place {
    pub namespace: String,
    _peace: Peace,
}

impl Place {
    /// For a test that others may run beside.
    pub fn new(name: &str) -> Place {
        let peace = Peace::Shared(PEACE.read().unwrap_or_else(PoisonError::into_inner));
        Place { namespace: make_namespace(name), _peace: peace }
    }
    /// For a test that nothing else may run beside.
    pub fn alone(name: &str) -> Place {
        let peace = Peace::Alone(PEACE.write().unwrap_or_else(PoisonError::into_inner));
        Place { namespace: make_namespace(name), _peace: peace }
    }
    pub fn kubectl(&self, words: &[&str]) -> String {
        let mut all = vec!["-n", &self.namespace];
        all.extend_from_slice(words);
        kubectl(&all)
    }
    pub fn apply(&self, yaml: &str) {
        apply(&self.namespace, yaml);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        run(&["delete", "namespace", &self.namespace, "--wait=false"]);
    }
}

fn make_namespace(name: &str) -> String {
    let namespace = format!("t-{name}-{}", std::process::id());
    kubectl(&["create", "namespace", &namespace]);
    // Pods are refused until the controller has made the account they run under.
    eventually("the default service account", 30, || {
        let out = run(&["-n", &namespace, "get", "serviceaccount", "default"]);
        if out.status.success() { Ok(()) } else { Err(text(&out.stderr)) }
    });
    namespace
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A kubectl command for the cluster.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(CLUSTER.kubeconfig()).args(words);
    command
}

/// Runs kubectl, whatever comes of it.
pub fn run(words: &[&str]) -> Output {
    command(words).stdin(Stdio::null()).output().expect("kubectl starts")
}

/// Runs kubectl and returns what it printed; fails the test if it fails.
#[track_caller]
pub fn kubectl(words: &[&str]) -> String {
    let out = run(words);
    assert!(
        out.status.success(),
        "kubectl {} failed: {}{}",
        words.join(" "),
        text(&out.stderr),
        text(&out.stdout)
    );
    text(&out.stdout)
}

/// Runs kubectl that must fail, and returns what it said.
#[track_caller]
pub fn refused(words: &[&str], input: &str) -> String {
    let out = feed(words, input);
    assert!(!out.status.success(), "kubectl {} succeeded: {}", words.join(" "), text(&out.stdout));
    text(&out.stderr)
}

/// Runs kubectl with standard input.
pub fn feed(words: &[&str], input: &str) -> Output {
    feed_to(command(words), input)
}

/// Runs a command with standard input.
pub fn feed_to(mut command: Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || pipe.write_all(input.as_bytes()));
    let out = child.wait_with_output().expect("kubectl ends");
    // A kubectl that ends before it has read everything has said why.
    let _ = writer.join();
    out
}

#[track_caller]
pub fn apply(namespace: &str, yaml: &str) {
    let out = feed(&["-n", namespace, "apply", "-f", "-"], yaml);
    assert!(out.status.success(), "apply failed: {}\n{yaml}", text(&out.stderr));
}

#[track_caller]
pub fn json(words: &[&str]) -> Value {
    let mut all = words.to_vec();
    all.extend_from_slice(&["-o", "json"]);
    serde_json::from_str(&kubectl(&all)).expect("kubectl prints JSON")
}

/// Asks until the answer is `Ok`; fails the test with the last reason when the time is up.
#[track_caller]
pub fn eventually<T>(what: &str, seconds: u64, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        match probe() {
            Ok(value) => return value,
            Err(reason) => assert!(Instant::now() < end, "waited {seconds} s for {what}: {reason}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A Deployment of echo servers and a Service of the same name over it.
pub fn web(name: &str, replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: fairlead/toolbox:latest
        imagePullPolicy: IfNotPresent
        args: [toolbox, serve]
        env:
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        - {{name: NODE_NAME, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
        ports:
        - {{name: http, containerPort: 8080}}
        - {{name: echo, containerPort: 9000}}
        - {{name: echo-udp, containerPort: 9001, protocol: UDP}}
        readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports:
  - {{name: http, port: 80, targetPort: http}}
  - {{name: echo, port: 7, targetPort: echo}}
  - {{name: echo-udp, port: 7, targetPort: echo-udp, protocol: UDP}}
"#
    )
}

/// A pod that sleeps, to send requests from.
pub fn client(name: &str, node: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{role: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: c, image: "fairlead/toolbox:latest", imagePullPolicy: IfNotPresent, command: [sleep, "100000"]}}
"#
    )
}

#[track_caller]
pub fn rolled_out(namespace: &str, what: &str) {
    kubectl(&["-n", namespace, "rollout", "status", what, "--timeout=90s"]);
}

#[track_caller]
pub fn ready(namespace: &str, pod: &str) {
    kubectl(&["-n", namespace, "wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]);
}

/// The load client's report, run in a pod.
#[track_caller]
pub fn load(namespace: &str, pod: &str, words: &[&str]) -> Value {
    let mut all = vec!["-n", namespace, "exec", pod, "--", "toolbox", "load"];
    all.extend_from_slice(words);
    serde_json::from_str(kubectl(&all).trim()).expect("the load client prints JSON")
}

/// The load client's report, run in a network namespace of the cluster (`node1`, `outside`).
#[track_caller]
pub fn load_at(place: &str, words: &[&str]) -> Value {
    let toolbox = binaries().join("toolbox").display().to_string();
    let mut all = vec![toolbox.as_str(), "load"];
    all.extend_from_slice(words);
    serde_json::from_str(in_netns(place, &all).trim()).expect("the load client prints JSON")
}

/// Where the built binaries are: beside this test's own.
pub fn binaries() -> PathBuf {
    let exe = std::env::current_exe().expect("a test has a file");
    exe.ancestors().nth(2).expect("a test stands below its profile's folder").to_path_buf()
}

/// Runs a command in a network namespace of the cluster and returns what it printed.
#[track_caller]
pub fn in_netns(place: &str, words: &[&str]) -> String {
    let net = format!("--net={}", CLUSTER.netns(place));
    let out = Command::new("nsenter").arg(net).arg("--").args(words).output().expect("nsenter starts");
    assert!(out.status.success(), "{} in {place}: {}", words.join(" "), text(&out.stderr));
    text(&out.stdout)
}

pub fn ok(report: &Value) -> u64 {
    report["ok"].as_u64().unwrap_or(0)
}

#[track_caller]
pub fn service_address(namespace: &str, name: &str) -> String {
    kubectl(&["-n", namespace, "get", "service", name, "-o", "jsonpath={.spec.clusterIP}"])
}

/// `(name, node, address)` of the ready pods of a selector.
#[track_caller]
pub fn pods(namespace: &str, selector: &str) -> Vec<(String, String, String)> {
    let list = json(&["-n", namespace, "get", "pods", "-l", selector]);
    let pod = |p: &Value| {
        let field = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        (field(&p["metadata"]["name"]), field(&p["spec"]["nodeName"]), field(&p["status"]["podIP"]))
    };
    list["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|p| p["metadata"]["deletionTimestamp"].is_null())
        .map(pod)
        .collect()
}

/// Ids of the running containers of these namespaces' pods.
pub fn containers(namespaces: &[&str]) -> Vec<String> {
    let mut ids = Vec::new();
    for namespace in namespaces {
        let labels = [
            format!("fairlead.io/cluster={}", CLUSTER.name),
            format!("io.kubernetes.pod.namespace={namespace}"),
        ];
        let mut docker = Command::new("docker");
        docker.args(["ps", "-q", "--no-trunc"]);
        for label in labels {
            docker.args(["--filter", &format!("label={label}")]);
        }
        let out = docker.output().expect("docker starts");
        assert!(out.status.success(), "docker ps: {}", text(&out.stderr));
        ids.extend(text(&out.stdout).lines().map(str::to_owned));
    }
    ids.sort();
    ids
}

/// Process ids of the cluster's processes whose command line contains all the words.
pub fn processes(words: &[&str]) -> Vec<i32> {
    let mark = format!("FAIRLEAD_SUPERVISED={}", CLUSTER.state().display());
    let entries = fs::read_dir("/proc").expect("/proc is readable");
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|e| text(&e).split('\0').any(|v| v == mark))
        })
        .filter(|pid| {
            let line = text(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ");
            words.iter().all(|word| line.contains(word))
        })
        .collect()
}

/// Process id of a node's dataplane, which runs in a container.
#[track_caller]
pub fn dataplane(node: &str) -> i32 {
    let mut docker = Command::new("docker");
    docker.args(["ps", "-q", "--filter", "label=io.kubernetes.container.name=dataplane"]);
    docker.args(["--filter", &format!("label=fairlead.io/cluster={}", CLUSTER.name)]);
    let out =
        docker.args(["--filter", &format!("label=fairlead.io/node={node}")]).output().expect("docker starts");
    let id = text(&out.stdout).lines().next().expect("the dataplane runs").to_owned();
    let out = Command::new("docker")
        .args(["inspect", "--format", "{{.State.Pid}}", &id])
        .output()
        .expect("docker starts");
    text(&out.stdout).trim().parse().expect("a process id")
}

pub fn kill(pid: i32) {
    // SAFETY: signalling a process by number touches no memory of ours.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}
