//! Starting a cluster, or mending one: every step looks at what is there and makes what is missing.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::supervise::{MARK, Plan, Process};
use super::{
    Backend, CLUSTER_DNS, CLUSTER_DOMAIN, Cluster, Overlay, SERVER_ADDRESS, SERVER_ADDRESS6, down, network,
    processes,
};
use crate::process::{command, feed, output, sh, wait};
use crate::steps::Steps;
use crate::{demo, host, images};

/// Port of the API server, in the nodes' network and, if it is free, on the machine's loopback.
const PORT: u16 = 6443;

#[derive(clap::Args, Clone)]
pub struct Args {
    #[command(flatten)]
    pub cluster: super::Name,
    /// How many nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub nodes: u8,
    /// Where the API server keeps its objects.
    #[arg(long, value_enum, default_value = "embedded")]
    pub store: Backend,
    /// Give nodes, pods and Services IPv6 addresses beside the IPv4 ones.
    #[arg(long)]
    pub dual_stack: bool,
    /// How pods reach those of other nodes.
    #[arg(long, value_enum, default_value = "vxlan")]
    pub overlay: Overlay,
    /// Let connections between pods of a node go from socket to socket.
    #[arg(long)]
    pub splice: bool,
    /// Stop when the nodes are Ready, without running the demo.
    #[arg(long)]
    pub no_demo: bool,
    #[command(flatten)]
    pub consent: host::Consent,
}

impl Args {
    /// A cluster of two nodes without the demo.
    pub fn plain(name: &str) -> Args {
        Args {
            cluster: super::Name { name: name.into() },
            nodes: 2,
            store: Backend::Embedded,
            dual_stack: false,
            overlay: Overlay::Vxlan,
            splice: false,
            no_demo: true,
            consent: host::Consent { no_install: false },
        }
    }
}

pub fn run(steps: &Steps, workspace: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    host::require_root("up")?;
    let start = Instant::now();
    let cluster = Cluster {
        name: args.cluster.name.clone(),
        workspace: workspace.to_path_buf(),
        nodes: usize::from(args.nodes),
        store: args.store,
        dual_stack: args.dual_stack,
        overlay: args.overlay,
        splice: args.splice,
    };
    let _lock = lock(&cluster.name)?;
    if let Some(existing) = Cluster::load(&cluster.name)?
        && is_settled(steps, &existing, &cluster)?
    {
        return Ok(ExitCode::SUCCESS);
    }
    let needs = if args.store == Backend::Etcd { host::FOR_ETCD_CLUSTER } else { host::FOR_CLUSTER };
    host::prepare(steps, workspace, args.consent, needs)?;
    images::build(steps, workspace)?;
    let built = Instant::now();
    start_cluster(steps, &cluster)?;
    steps.say(&format!(
        "{} nodes Ready {:.1} s after the build, {:.1} s in all; KUBECONFIG={}",
        cluster.nodes,
        built.elapsed().as_secs_f64(),
        start.elapsed().as_secs_f64(),
        cluster.kubeconfig().display()
    ));
    print_memory(&cluster)?;
    if args.no_demo {
        return Ok(ExitCode::SUCCESS);
    }
    demo::run(steps, &cluster)
}

/// Whether the cluster that is there is the one asked for and in order; a broken one is to be mended.
fn is_settled(steps: &Steps, existing: &Cluster, wanted: &Cluster) -> anyhow::Result<bool> {
    let alive = supervisor(existing).is_some();
    if existing.workspace != wanted.workspace {
        if alive {
            bail!(
                "cluster `{}` of {} runs on this machine: use --name for another one, or `cargo xtask down` there",
                existing.name,
                existing.workspace.display()
            );
        }
        steps.say(&format!("removing what a dead cluster of {} left", existing.workspace.display()));
        down::run(steps, &existing.workspace, &existing.name)?;
        return Ok(false);
    }
    let shape = |cluster: &Cluster| {
        (cluster.nodes, cluster.store, cluster.dual_stack, cluster.overlay, cluster.splice)
    };
    if alive && shape(existing) != shape(wanted) {
        bail!(
            "cluster `{}` runs with {} nodes, the {:?} store, {}, overlay {:?} and splicing {}: `cargo xtask down` first to change that",
            existing.name,
            existing.nodes,
            existing.store,
            if existing.dual_stack { "IPv4 and IPv6" } else { "IPv4 alone" },
            existing.overlay,
            if existing.splice { "on" } else { "off" }
        );
    }
    if alive && host::docker_answers().is_ok() && nodes_ready(existing).is_ok() {
        steps.say(&format!(
            "cluster `{}` already runs with {} nodes: nothing to do; KUBECONFIG={}",
            existing.name,
            existing.nodes,
            existing.kubeconfig().display()
        ));
        return Ok(true);
    }
    steps.say(&format!("cluster `{}` is not in order: mending it", existing.name));
    Ok(false)
}

fn start_cluster(steps: &Steps, cluster: &Cluster) -> anyhow::Result<()> {
    cluster.record()?;
    // What a crash left running would hold ports, locks and the old binaries.
    if !processes(&cluster.state()).is_empty() {
        steps.run("stopping what was left running", || down::stop_processes(cluster))?;
    }
    steps.run("making namespaces and links", || network::make(cluster))?;
    steps.run("starting the control plane and the kubelets", || {
        prepare_nodes(cluster)?;
        start_supervisor(cluster)?;
        wait("the API server to be ready", Duration::from_secs(60), || {
            write_kubeconfig(cluster)?;
            output(&mut cluster.kubectl(&["get", "--raw", "/readyz", "--request-timeout=2s"])).map(|_| ())
        })
        .with_context(|| logs(cluster, "fairlead-server"))
    })?;
    steps.run("applying manifests/", || apply(cluster))?;
    steps.run(&format!("waiting for {} Ready nodes", cluster.nodes), || {
        wait("Ready nodes", Duration::from_secs(120), || nodes_ready(cluster))
            .with_context(|| logs(cluster, "kubelet-node1"))
    })
}

fn logs(cluster: &Cluster, process: &str) -> String {
    format!("see {}", cluster.logs().join(format!("{process}.log")).display())
}

/// Keeps two `up` or `down` of one cluster apart; released when the process ends.
pub fn lock(name: &str) -> anyhow::Result<fs::File> {
    fs::create_dir_all("/run/fairlead")?;
    let file = fs::File::create(lock_file(name))?;
    if file.try_lock().is_err() {
        bail!("another `cargo xtask up` or `down` of cluster `{name}` is at work");
    }
    Ok(file)
}

/// The file of that lock.
pub fn lock_file(name: &str) -> PathBuf {
    Path::new("/run/fairlead").join(format!("{name}.lock"))
}

/// Folders, the BPF file system and the keys of each node.
fn prepare_nodes(cluster: &Cluster) -> anyhow::Result<()> {
    let server = host::binaries(&cluster.workspace)?.join("fairlead-server");
    fs::create_dir_all(cluster.server_data())?;
    // Keys and objects: for root alone.
    fs::set_permissions(cluster.state(), fs::Permissions::from_mode(0o700))?;
    for (i, node) in cluster.node_names().iter().enumerate() {
        let root = cluster.node_root(node);
        for dir in ["sys/fs/bpf", "run/fairlead", "etc/cni/net.d", "opt/cni/bin", "var/lib/kubelet"] {
            fs::create_dir_all(root.join(dir))?;
        }
        let bpf = root.join("sys/fs/bpf");
        if !mounted(&bpf)? {
            sh(&["mount", "-t", "bpf", "-o", "mode=0700", "bpf", &bpf.display().to_string()])?;
        }
        let keys = cluster.node_state(node).join("pki");
        if !keys.join("kubeconfig").exists() {
            let mut issue = command(&["env", &server.display().to_string(), "issue-node", "--node", node]);
            issue.arg("--address").args(cluster.node_addresses(i));
            issue.args(["--server", &format!("https://{SERVER_ADDRESS}:{PORT}")]);
            output(issue.arg("--data-dir").arg(cluster.server_data()).arg("--out").arg(&keys))?;
        }
    }
    Ok(())
}

fn mounted(path: &Path) -> anyhow::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(&at.replace("\\040", " ")) == path)))
}

/// Process id of the cluster's supervisor, if it runs.
pub fn supervisor(cluster: &Cluster) -> Option<i32> {
    processes(&cluster.state()).into_iter().find(|pid| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|b| *b == 0).nth(1).is_some_and(|word| word == b"supervise"))
    })
}

fn start_supervisor(cluster: &Cluster) -> anyhow::Result<()> {
    let plan = Plan { state: cluster.state(), logs: cluster.logs(), processes: plan(cluster)? };
    let file = cluster.run().join("plan.json");
    fs::write(&file, serde_json::to_vec_pretty(&plan)?)?;
    fs::create_dir_all(cluster.logs())?;
    let log = fs::File::create(cluster.logs().join("supervisor.log"))?;
    let mut supervise = command(&["/proc/self/exe", "supervise"]);
    supervise.arg(&file).env(MARK, cluster.state()).current_dir("/");
    supervise.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).spawn()?;
    Ok(())
}

fn plan(cluster: &Cluster) -> anyhow::Result<Vec<Process>> {
    let bin = host::binaries(&cluster.workspace)?;
    let program = |name: &str| bin.join(name).display().to_string();
    let netns = |what: &str| PathBuf::from("/run/netns").join(cluster.namespace(what));
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let mut plan = Vec::new();
    let data = cluster.server_data().display().to_string();
    let mut server = vec![program("fairlead-server")];
    server.extend(words(&[
        "--data-dir",
        &data,
        "--bind-address",
        SERVER_ADDRESS,
        "--secure-port",
        &PORT.to_string(),
    ]));
    let names = if cluster.dual_stack { format!("127.0.0.1,{SERVER_ADDRESS6}") } else { "127.0.0.1".into() };
    server.extend(words(&["--advertise-address", SERVER_ADDRESS, "--tls-san", &names]));
    server.extend(words(&["--cluster-cidr", &cluster.cluster_cidr()]));
    server.extend(words(&["--service-cluster-ip-range", &cluster.service_cidr()]));
    if cluster.store == Backend::Etcd {
        let dir = cluster.state().join("etcd").display().to_string();
        let client = "http://127.0.0.1:2379";
        plan.push(Process {
            name: "etcd".into(),
            command: words(&[
                "etcd",
                "--name",
                "fairlead",
                "--data-dir",
                &dir,
                "--listen-client-urls",
                client,
                "--advertise-client-urls",
                client,
                "--listen-peer-urls",
                "http://127.0.0.1:2380",
                "--initial-advertise-peer-urls",
                "http://127.0.0.1:2380",
                "--initial-cluster",
                "fairlead=http://127.0.0.1:2380",
                "--logger",
                "zap",
            ]),
            namespace: netns("net"),
            listen: None,
        });
        server.extend(words(&["--etcd-servers", client]));
    }
    let port = loopback_port(cluster)?;
    plan.push(Process {
        name: "fairlead-server".into(),
        command: server,
        namespace: netns("net"),
        listen: Some(port),
    });
    for (i, node) in cluster.node_names().iter().enumerate() {
        let keys = cluster.node_state(node).join("pki");
        let key = |name: &str| keys.join(name).display().to_string();
        let root = cluster.node_root(node).display().to_string();
        let mut kubelet = vec![program("fairlead-node")];
        kubelet.extend(words(&["kubelet", "--node-name", node, "--kubeconfig", &key("kubeconfig")]));
        let addresses = cluster.node_addresses(i).join(",");
        kubelet.extend(words(&["--node-ip", &addresses, "--cluster-name", &cluster.name]));
        kubelet.extend(words(&[
            "--tls-cert-file",
            &key("kubelet.crt"),
            "--tls-private-key-file",
            &key("kubelet.key"),
        ]));
        kubelet.extend(words(&["--client-ca-file", &key("ca.crt"), "--node-root", &root]));
        kubelet.extend(words(&["--host-network-container", &cluster.holder(node)]));
        kubelet.extend(words(&["--cluster-dns", CLUSTER_DNS, "--cluster-domain", CLUSTER_DOMAIN]));
        if let Ok(docker) = std::env::var("DOCKER_HOST") {
            kubelet.extend(words(&["--docker-host", &docker]));
        }
        plan.push(Process {
            name: format!("kubelet-{node}"),
            command: kubelet,
            namespace: netns(node),
            listen: None,
        });
    }
    Ok(plan)
}

/// The loopback port users reach the API at: the one of before, else the usual one, else any.
fn loopback_port(cluster: &Cluster) -> anyhow::Result<u16> {
    let free =
        |port: u16| TcpListener::bind(("127.0.0.1", port)).and_then(|l| l.local_addr()).map(|a| a.port());
    let file = cluster.state().join("port");
    let before = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
    let usual = (cluster.name == "fairlead").then_some(PORT);
    let port =
        [before, usual].into_iter().flatten().find_map(|p| free(p).ok()).map_or_else(|| free(0), Ok)?;
    fs::write(file, port.to_string())?;
    Ok(port)
}

/// The administrator's kubeconfig, pointed at the loopback port; for root alone, as it is the key to everything.
fn write_kubeconfig(cluster: &Cluster) -> anyhow::Result<()> {
    let made = cluster.server_data().join("admin.kubeconfig");
    let text = fs::read(&made).with_context(|| format!("reading {}", made.display()))?;
    let mut config: Value =
        serde_json::from_slice(&text).with_context(|| format!("reading {}", made.display()))?;
    let port = fs::read_to_string(cluster.state().join("port"))?;
    config["clusters"][0]["cluster"]["server"] = Value::from(format!("https://127.0.0.1:{}", port.trim()));
    let file = cluster.kubeconfig();
    fs::write(&file, serde_json::to_vec_pretty(&config)?)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn apply(cluster: &Cluster) -> anyhow::Result<()> {
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "fairlead-config", "namespace": "kube-system"},
        "data": {
            "apiserver-host": SERVER_ADDRESS,
            "apiserver-port": PORT.to_string(),
            "cluster-cidr": cluster.cluster_cidr(),
            "service-cidr": cluster.service_cidr(),
            "overlay": cluster.overlay,
            "splice": cluster.splice.to_string(),
            "cluster-dns": CLUSTER_DNS,
            "cluster-domain": CLUSTER_DOMAIN,
        },
    });
    // The namespace is made by the server right after its start.
    wait("the API to take objects", Duration::from_secs(20), || {
        feed(&mut cluster.kubectl(&["apply", "-f", "-"]), &serde_json::to_vec(&config)?)
    })?;
    let manifests = cluster.workspace.join("manifests");
    output(cluster.kubectl(&["apply", "-f"]).arg(&manifests))?;
    let file = manifests.join("dns/kube-dns.yaml");
    let service = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let service = service.replace("CLUSTER_DNS", CLUSTER_DNS);
    feed(&mut cluster.kubectl(&["apply", "-f", "-"]), service.as_bytes()).map(|_| ())
}

/// Succeeds when every node is Ready and runs its dataplane.
pub fn nodes_ready(cluster: &Cluster) -> anyhow::Result<()> {
    let get = |words: &[&str]| -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&output(&mut cluster.kubectl(words))?)?)
    };
    let nodes = get(&["get", "nodes", "-o", "json", "--request-timeout=5s"])?;
    let none = Vec::new();
    let is_ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array().unwrap_or(&none);
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let ready = nodes["items"].as_array().unwrap_or(&none).iter().filter(is_ready).count();
    if ready < cluster.nodes {
        bail!("{ready} of {} nodes are Ready", cluster.nodes);
    }
    let set = get(&[
        "get",
        "daemonset",
        "fairlead-node",
        "-n",
        "kube-system",
        "-o",
        "json",
        "--request-timeout=5s",
    ])?;
    let running = set["status"]["numberReady"].as_u64().unwrap_or(0);
    if usize::try_from(running)? < cluster.nodes {
        bail!("the dataplane is ready on {running} of {} nodes", cluster.nodes);
    }
    Ok(())
}

/// What each part takes of the machine's memory now; kept beside the logs, too.
fn print_memory(cluster: &Cluster) -> anyhow::Result<()> {
    println!("{:<28} {:>8}", "resident memory (idle)", "MiB");
    let mut total: Vec<(String, f64)> = Vec::new();
    for pid in processes(&cluster.state()) {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<String> =
            words.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        let program = Path::new(words.first().map_or("", String::as_str))
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let name = match (program.as_ref(), words.iter().position(|w| w == "--node-name")) {
            ("fairlead-node", Some(at)) => {
                format!("kubelet {}", words.get(at + 1).map_or("", String::as_str))
            }
            ("fairlead-server" | "etcd", _) => program.into_owned(),
            _ => continue,
        };
        total.push((name, resident(&pid.to_string())));
    }
    for node in cluster.node_names() {
        for part in ["dataplane", "dns"] {
            let container = format!("label=io.kubernetes.container.name={part}");
            let of_node = format!("label=fairlead.io/node={node}");
            let mut list = command(&["docker", "ps", "-q"]);
            for filter in [&container, &format!("label={}", cluster.label()), &of_node] {
                list.args(["--filter", filter]);
            }
            let id = output(&mut list)?;
            let id = id.lines().next().unwrap_or("");
            let pid = sh(&["docker", "inspect", "--format", "{{.State.Pid}}", id])?;
            // The server is its supervisor's child.
            let children = format!("/proc/{0}/task/{0}/children", pid.trim());
            let children = fs::read_to_string(children).unwrap_or_default();
            let all = children.split_whitespace().chain([pid.trim()]);
            total.push((format!("{part} {node}"), all.map(resident).sum()));
        }
    }
    total.sort_by(|a, b| a.0.cmp(&b.0));
    let measured: serde_json::Map<String, Value> =
        total.iter().map(|(name, mib)| (name.clone(), Value::from(*mib))).collect();
    fs::write(cluster.state().join("memory.json"), serde_json::to_vec_pretty(&measured)?)?;
    for (name, mib) in total {
        println!("{name:<28} {mib:>8.1}");
    }
    Ok(())
}

fn resident(pid: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib: f64 = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0.0);
    kib / 1024.0
}
