//! Services and the overlay of a cluster of our own, beside the same shape of namespaces without it, in one run: each
//! round measures every path once, and what is printed are medians of the rounds' ratios.

mod figures;
mod objects;
mod paths;
mod probe;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::bench::client::{Connection, Target};
use crate::bench::load::{connect, drive};
use crate::bench::report::{self, Column, Figure, number};
use crate::bench::{machine, service::paths::Kind};
use crate::cluster::{self, CLUSTER_DNS, Cluster, OUTSIDE, Overlay};
use crate::host;
use crate::process::{command, feed, output, wait};
use crate::steps::Steps;
use figures as f;
use paths::{DETOUR, PORT, Servers, Set, VIRTUAL, inside};

/// The cluster of the measurement; `up`'s own has another name. It routes between nodes, as the namespaces do that it is
/// compared with.
const CLUSTER: &str = "fairlead-bench";
/// The cluster whose overlay is measured, and whose pods of one node are spliced.
const WRAPPED: &str = "fairlead-bench-vxlan";
/// In the part of the range that the allocator leaves to those who name their address (KEP-3070).
const NEAR: &str = "10.96.0.201";
const FAR: &str = "10.96.0.202";
const FLIP: &str = "10.96.0.203";
const NEAR_PORT: u16 = 31998;
const FAR_PORT: u16 = 31999;
/// Rulesets beyond this many Services take nft minutes to load.
const MOST_RULES: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub struct Args {
    /// Numbers of Services to measure at.
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000,50000")]
    services: Vec<usize>,
    /// Rounds of each path; each takes --seconds.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..=99))]
    rounds: u8,
    /// Seconds that each path is measured for in a round.
    #[arg(long, default_value_t = 0.7)]
    seconds: f64,
    /// Leave the clusters and their Services running (`cargo xtask down --name fairlead-bench` and `--name
    /// fairlead-bench-vxlan` remove them).
    #[arg(long)]
    keep: bool,
}

pub fn run(steps: &Steps, workspace: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    host::require_root("bench service")?;
    println!("{}", machine::describe());
    for (name, overlay, splice) in [(CLUSTER, Overlay::Native, false), (WRAPPED, Overlay::Vxlan, true)] {
        let args = cluster::up::Args { overlay, splice, ..cluster::up::Args::plain(name) };
        cluster::up::run(steps, workspace, &args)?;
    }
    let mut columns = Vec::new();
    let measured = measure(steps, workspace, args, &mut columns);
    // What was measured is shown, whatever ended it.
    println!();
    report::print(f::ROWS, &columns, "kube-proxy");
    if !args.keep {
        for name in [WRAPPED, CLUSTER] {
            cluster::down::run(steps, workspace, name)?;
        }
    }
    measured.map(|()| ExitCode::SUCCESS)
}

fn measure(steps: &Steps, workspace: &Path, args: &Args, columns: &mut Vec<Column>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut bench = steps
        .run("making pods and the namespaces to compare with", || Bench::new(workspace, args, runtime))?;
    for count in &args.services {
        columns.push(Column::new(format!("{count}")));
        let Some(column) = columns.last_mut() else { break };
        steps.run(&format!("{count} Services: storing them"), || bench.fill(*count))?;
        for (name, stage) in STAGES {
            steps.run(&format!("{count} Services: {name}"), || stage(&mut bench, column))?;
        }
    }
    Ok(())
}

type Stage = fn(&mut Bench<'_>, &mut Column) -> anyhow::Result<()>;

/// What is measured at each number of Services.
const STAGES: &[(&str, Stage)] = &[
    ("rates of every path", |bench, column| bench.rates(column)),
    ("changing endpoints", |bench, column| bench.changes(column)),
    ("adding Services", |bench, column| bench.additions(column)),
    ("killing the dataplane under connections", |bench, column| bench.kill(column)),
    ("asking for names", |bench, column| bench.names(column)),
    ("running the programs by themselves", |bench, column| bench.cost(column)),
];

/// A path that is measured: from a namespace to an address, by a mode of `toolbox ask`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct PathName(&'static str, &'static str);

struct Bench<'a> {
    args: &'a Args,
    workspace: &'a Path,
    runtime: tokio::runtime::Runtime,
    cluster: Cluster,
    toolbox: PathBuf,
    target: Target,
    connections: Vec<Connection>,
    sets: Vec<(Kind, Set)>,
    _servers: Servers,
    pods: Pods,
    /// Those of the cluster with the overlay.
    wrapped: Pods,
    /// What the programs' own test printed about their cost.
    cost: Option<String>,
    /// Idle Services made so far, and Services added by measurements.
    made: usize,
    added: usize,
}

impl<'a> Bench<'a> {
    fn new(
        workspace: &'a Path,
        args: &'a Args,
        runtime: tokio::runtime::Runtime,
    ) -> anyhow::Result<Bench<'a>> {
        let cluster = Cluster::load(CLUSTER)?.context("the cluster is gone")?;
        let toolbox = host::binaries(workspace)?.join("toolbox");
        let port = std::fs::read_to_string(cluster.state().join("port"))?.trim().parse()?;
        let target = Target::admin(&cluster.server_data(), port)?;
        let pods = start_pods(&cluster)?;
        let wrapped = start_pods(&Cluster::load(WRAPPED)?.context("the cluster with the overlay is gone")?)?;
        let namespaces: Vec<PathBuf> = [&pods, &wrapped]
            .iter()
            .flat_map(|pods| pods.servers.clone())
            .map(|(namespace, _)| namespace)
            .collect();
        let servers = Servers::start(&toolbox, &namespaces)?;
        let mut sets = Vec::new();
        for kind in [Kind::Clean, Kind::Nftables, Kind::Vxlan] {
            sets.push((kind, Set::make(kind, &toolbox)?));
        }
        let mut bench = Bench {
            args,
            workspace,
            runtime,
            cluster,
            toolbox,
            target,
            connections: Vec::new(),
            sets,
            _servers: servers,
            pods,
            wrapped,
            cost: None,
            made: 0,
            added: 0,
        };
        let [near, far] = bench.pods.servers.clone().map(|(_, address)| address);
        let mut requests = Vec::new();
        for (name, address, pod, node_port) in [
            ("near", NEAR, &near, Some(NEAR_PORT)),
            ("far", FAR, &far, Some(FAR_PORT)),
            ("flip", FLIP, &near, None),
        ] {
            let port = if name == "flip" { 9000 } else { PORT };
            requests.push(objects::slice(name, std::slice::from_ref(pod), port));
            requests.push(objects::service(name, Some(address), node_port));
        }
        bench.connect()?;
        bench.write(requests)?;
        Ok(bench)
    }

    /// Connects anew: the server closes what was idle for longer than a stage may take.
    fn connect(&mut self) -> anyhow::Result<()> {
        self.connections = self.runtime.block_on(connect(&self.target, 16))?;
        Ok(())
    }

    fn write(&mut self, requests: Vec<Vec<u8>>) -> anyhow::Result<()> {
        self.runtime.block_on(drive(&mut self.connections, requests, 201)).map(drop)
    }

    fn set(&self, kind: Kind) -> anyhow::Result<&Set> {
        self.sets.iter().find(|(own, _)| *own == kind).map(|(_, set)| set).context("no such set")
    }

    /// Stores Services up to a number, and waits until the dataplane has them.
    fn fill(&mut self, count: usize) -> anyhow::Result<()> {
        let requests = (self.made..count).flat_map(objects::idle).collect();
        self.made = self.made.max(count);
        self.connect()?;
        self.write(requests)?;
        if count <= MOST_RULES {
            self.set(Kind::Nftables)?.load_rules(count)?;
        }
        wait("the dataplanes to have every Service", Duration::from_secs(60), || {
            for node in self.cluster.node_names() {
                let seen = self.metric(&node, "fairlead_services")?;
                if (seen as usize) < count {
                    bail!("{node} has {seen}");
                }
            }
            Ok(())
        })
    }

    fn node(&self, node: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(self.cluster.namespace(node))
    }

    /// A sample without labels of the dataplane's metrics.
    fn metric(&self, node: &str, name: &str) -> anyhow::Result<f64> {
        let address = SocketAddr::from(([127, 0, 0, 1], 9962));
        let text = probe::within(&self.node(node), || probe::page(address, "/metrics"))?;
        let sample = |line: &'_ str| {
            Some(line.strip_prefix(name)?.trim_start_matches("{}").strip_prefix(' ')?.parse())
        };
        Ok(text.lines().find_map(sample).with_context(|| format!("there is no metric {name}"))??)
    }

    /// Answers per second, or bytes per second of a stream; and how many connections failed, which what is compared with
    /// may have, too.
    fn ask(&self, from: &Path, target: &str, mode: &str) -> anyhow::Result<(f64, u64)> {
        let mut ask = inside(from);
        ask.arg(&self.toolbox).args(["ask", target, "--mode", mode]);
        let streams = if mode == "stream" { "1" } else { "4" };
        ask.args(["--connections", streams, "--seconds", &self.args.seconds.to_string()]);
        let done = ask.stderr(Stdio::piped()).output().context("starting toolbox ask")?;
        let seen: Value = serde_json::from_slice(&done.stdout)
            .with_context(|| String::from_utf8_lossy(&done.stderr).into_owned())?;
        let rate = seen["per_second"].as_f64().context("a report without a rate")?;
        Ok((rate, seen["failed"].as_u64().unwrap_or_default()))
    }

    /// Every path with where it starts and leads to.
    fn paths(&self) -> anyhow::Result<Vec<(PathName, PathBuf, String)>> {
        let (clean, nft) = (self.set(Kind::Clean)?, self.set(Kind::Nftables)?);
        let vxlan = self.set(Kind::Vxlan)?;
        let (client, outside) = (self.pods.client.clone(), self.node(OUTSIDE));
        let Pods { client: wrapped, servers: [(_, wrapped_near), (_, wrapped_far)] } = &self.wrapped;
        let (near_pod, far_pod) = (format!("10.50.1.3:{PORT}"), format!("10.50.2.3:{PORT}"));
        let node = Cluster::node_address(0);
        let mut paths = Vec::new();
        let mut add = |what: &'static str, modes: &[&'static str], from: &Path, to: String| {
            paths.extend(modes.iter().map(|mode| (PathName(what, mode), from.to_path_buf(), to.clone())));
        };
        let all = &["short", "kept", "stream"];
        add("clean near", all, &clean.path("client"), near_pod.clone());
        add("spliced", &["stream", "kept"], wrapped, format!("{wrapped_near}:{PORT}"));
        add("near", &["short", "kept"], &client, format!("{NEAR}:80"));
        add("clean far", all, &clean.path("client"), far_pod.clone());
        add("far", &["short", "kept"], &client, format!("{FAR}:80"));
        add("overlay", all, wrapped, format!("{wrapped_far}:{PORT}"));
        add("vxlan", all, &vxlan.path("client"), far_pod);
        add("clean outside near", &["short"], &clean.path("outside"), near_pod);
        add("outside near", &["short"], &outside, format!("{node}:{NEAR_PORT}"));
        add("clean outside far", &["short"], &clean.path("outside"), format!("{DETOUR}:{PORT}"));
        add("outside far", &["short"], &outside, format!("{node}:{FAR_PORT}"));
        if self.made <= MOST_RULES {
            let (pod, outside) = (nft.path("client"), nft.path("outside"));
            add("nft near", &["short"], &pod, format!("{VIRTUAL}:80"));
            add("nft far", &["short"], &pod, format!("{VIRTUAL}:81"));
            add("nft outside near", &["short"], &outside, format!("{VIRTUAL}:90"));
            add("nft outside far", &["short"], &outside, format!("{VIRTUAL}:91"));
        }
        Ok(paths)
    }

    fn rates(&mut self, column: &mut Column) -> anyhow::Result<()> {
        let paths = self.paths()?;
        let mut rates: BTreeMap<PathName, Vec<f64>> = BTreeMap::new();
        let mut failed: BTreeMap<PathName, u64> = BTreeMap::new();
        for _ in 0..self.args.rounds {
            for (name, from, to) in &paths {
                let (rate, lost) =
                    self.ask(from, to, name.1).with_context(|| format!("{}, {}", name.0, name.1))?;
                rates.entry(*name).or_default().push(rate);
                *failed.entry(*name).or_default() += lost;
            }
        }
        for (figure, mode, path, whole) in RATIOS {
            let of = |what| rates.get(&PathName(what, mode)).map(Vec::as_slice).unwrap_or_default();
            let mut ratios: Vec<f64> = of(path).iter().zip(of(whole)).map(|(a, b)| a / b).collect();
            if ratios.is_empty() {
                continue;
            }
            let (own, base) = (median(&mut of(path).to_vec()), median(&mut of(whole).to_vec()));
            let ratio = median(&mut ratios);
            let unit = if *mode == "stream" { 1e9 / 8.0 } else { 1.0 };
            let name = if *mode == "stream" { "Gbit/s" } else { "/s" };
            let lost = match failed.get(&PathName(path, mode)) {
                Some(lost @ 1..) => format!("; {lost} connections failed"),
                _ => String::new(),
            };
            column.add(
                *figure,
                ratio,
                format!(
                    "{} {name} against {} {name}; rounds {} to {}{lost}",
                    number(own / unit),
                    number(base / unit),
                    number(ratios[0]),
                    number(ratios[ratios.len() - 1])
                ),
            );
        }
        Ok(())
    }

    /// A Service's one endpoint moves between two servers; how soon is a new connection answered by the other?
    fn changes(&mut self, column: &mut Column) -> anyhow::Result<()> {
        const TIMES: usize = 60;
        let address: SocketAddr = format!("{FLIP}:80").parse()?;
        let share = |bench: &Self| -> anyhow::Result<(f64, f64)> {
            let of = |line: &str| bench.metric("node1", line);
            Ok((of("fairlead_sync_seconds_sum")?, of("fairlead_sync_seconds_count")?))
        };
        self.connect()?;
        let before = share(self)?;
        let mut times = Vec::new();
        for turn in 0..TIMES {
            let (name, port) = if turn % 2 == 0 { ("two", 9100) } else { ("one", 9000) };
            let change = objects::move_port("flip", port);
            let since = Instant::now();
            let writes = &mut self.connections;
            self.runtime.block_on(drive(writes, vec![change], 200))?;
            let client = &self.pods.client;
            times.push(probe::within(client, || probe::until(address, name, since, PATIENCE))?);
        }
        let after = share(self)?;
        times.sort();
        let millis = |at: usize| times[at].as_secs_f64() * 1000.0;
        column.add(
            f::CHANGE_P50,
            millis(TIMES / 2),
            format!("{TIMES} changes, fastest {} ms", number(millis(0))),
        );
        column.add(f::CHANGE_P99, millis(TIMES * 99 / 100), String::new());
        let own = (after.0 - before.0) / (after.1 - before.1).max(1.0) * 1000.0;
        column.add(f::OWN, own, "of node1's, over all batches of changes meanwhile".into());
        Ok(())
    }

    fn additions(&mut self, column: &mut Column) -> anyhow::Result<()> {
        const TIMES: usize = 20;
        let mut times = Vec::new();
        for _ in 0..TIMES {
            self.added += 1;
            let (name, address) = (format!("new-{}", self.added), format!("10.96.0.{}", 20 + self.added));
            let target: SocketAddr = format!("{address}:80").parse()?;
            let since = Instant::now();
            let pod = vec![self.pods.servers[0].1.clone()];
            self.write(vec![objects::slice(&name, &pod, 9000)])?;
            self.write(vec![objects::service(&name, Some(&address), None)])?;
            let client = &self.pods.client;
            times.push(probe::within(client, || probe::until(target, "one", since, PATIENCE))?);
        }
        times.sort();
        let millis = |at: usize| times[at].as_secs_f64() * 1000.0;
        let spread =
            format!("{} to {} ms, both writes included", number(millis(0)), number(millis(TIMES - 1)));
        column.add(f::APPEAR, millis(TIMES / 2), spread);
        Ok(())
    }

    /// Kills node1's dataplane under held connections; its next run must take everything up again.
    fn kill(&mut self, column: &mut Column) -> anyhow::Result<()> {
        const HELD: usize = 40;
        let pid = self.dataplane("node1")?;
        column.add(f::MEMORY, machine::resident(pid)?, String::new());
        let mut held = Vec::new();
        for _ in 0..HELD {
            let mut stream = inside(&self.pods.client);
            stream.arg(&self.toolbox).args(["stream", &format!("{FLIP}:80"), "--seconds", "8"]);
            held.push(stream.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
        }
        std::thread::sleep(Duration::from_secs(1));
        // SAFETY: signalling a process by number touches no memory of ours.
        unsafe { libc::kill(i32::try_from(pid)?, libc::SIGKILL) };
        let started = wait("the dataplane to run again", PATIENCE, || {
            let new = self.dataplane("node1")?;
            if new == pid { bail!("the old one is still there") } else { machine::age(new) }
        })?;
        let seen = Instant::now();
        let address = SocketAddr::from(([127, 0, 0, 1], 9962));
        let node = self.node("node1");
        wait("the dataplane to be ready", PATIENCE, || {
            probe::within(&node, || probe::page(address, "/readyz"))
        })?;
        let took = started + seen.elapsed();
        column.add(f::START, took.as_secs_f64(), "exec to /readyz, to within 0.1 s".into());
        let mut bad = 0;
        for child in held {
            let done = child.wait_with_output()?;
            let report: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
            let late = report["longest_ms"].as_u64().unwrap_or(u64::MAX);
            bad += usize::from(!done.status.success() || late > 50);
        }
        column.add(f::BROKEN, bad as f64, String::new());
        Ok(())
    }

    /// Asks node1's DNS for a name that it has.
    fn names(&mut self, column: &mut Column) -> anyhow::Result<()> {
        const SECONDS: f64 = 1.0;
        let name = format!("far.{}.svc.cluster.local", objects::NAMESPACE);
        let load = |window: &str| -> anyhow::Result<Value> {
            let mut load = inside(&self.pods.client);
            load.arg(&self.toolbox).args(["dnsload", CLUSTER_DNS, &name, "--window", window]);
            Ok(serde_json::from_str(&output(load.args(["--seconds", &SECONDS.to_string()]))?)?)
        };
        let server = process(&container(&self.cluster, "node1", "dns")?)?;
        // A parent holds the sockets; its child answers.
        let pids = machine::family(server)?;
        let used = || -> anyhow::Result<f64> { pids.iter().map(|pid| Ok(machine::cpu(*pid)?.total())).sum() };
        let before = used()?;
        let many = load("32")?;
        let (cpu, answers) =
            (used()? - before, many["answers"].as_f64().context("a report without answers")?);
        let rate = number(many["per_second"].as_f64().unwrap_or_default());
        column.add(f::NAMES, answers / cpu, format!("{rate} /s for one client, {} CPU s", number(cpu)));
        let few = load("4")?;
        let p99 = few["p99_us"].as_f64().context("a report without p99")? / 1000.0;
        column.add(
            f::NAMES_P99,
            p99,
            format!("{} /s", number(few["per_second"].as_f64().unwrap_or_default())),
        );
        Ok(())
    }

    /// What the programs' own test (`tests/packets/cost.rs`) says about a Service among so many.
    fn cost(&mut self, column: &mut Column) -> anyhow::Result<()> {
        if self.cost.is_none() {
            let name = "cost::a_service_costs_the_same_among_many";
            let mut test = command(&["cargo", "test", "--release", "--workspace", "--test", "packets"]);
            test.args(["--", name, "--exact", "--nocapture"]).current_dir(self.workspace);
            self.cost = Some(output(&mut test)?);
        }
        let text = self.cost.as_deref().unwrap_or_default();
        let start = format!("Service among {}: ", column.head);
        let Some(line) = text.lines().find_map(|line| line.strip_prefix(&start)) else { return Ok(()) };
        let numbers: Vec<f64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [again, idle, one, empty] = numbers[..] else { bail!("`{line}` tells no times") };
        column.add(f::COST, again - idle, line.into());
        column.add(f::COST_COLD, one - empty, String::new());
        Ok(())
    }

    fn dataplane(&self, node: &str) -> anyhow::Result<u32> {
        let id = container(&self.cluster, node, "dataplane")?;
        process(&id)
    }
}

/// Ratios: what, by which mode, of which path, to which.
const RATIOS: &[(Figure, &str, &str, &str)] = &[
    (f::NEAR_SHORT, "short", "near", "clean near"),
    (f::FAR_SHORT, "short", "far", "clean far"),
    (f::NEAR_KEPT, "kept", "near", "clean near"),
    (f::FAR_KEPT, "kept", "far", "clean far"),
    (f::NFT_NEAR, "short", "nft near", "clean near"),
    (f::NFT_FAR, "short", "nft far", "clean far"),
    (f::PORT_NEAR, "short", "outside near", "clean outside near"),
    (f::PORT_FAR, "short", "outside far", "clean outside far"),
    (f::NFT_PORT_NEAR, "short", "nft outside near", "clean outside near"),
    (f::NFT_PORT_FAR, "short", "nft outside far", "clean outside far"),
    (f::OVERLAY_SHORT, "short", "overlay", "vxlan"),
    (f::OVERLAY_KEPT, "kept", "overlay", "vxlan"),
    (f::OVERLAY_STREAM, "stream", "overlay", "vxlan"),
    (f::SPLICED, "stream", "spliced", "clean near"),
    (f::SPLICED_KEPT, "kept", "spliced", "clean near"),
    (f::ROUTED_SHORT, "short", "overlay", "clean far"),
    (f::ROUTED_KEPT, "kept", "overlay", "clean far"),
    (f::ROUTED_STREAM, "stream", "overlay", "clean far"),
];

/// Sorts, too.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The pods of a cluster that take part.
struct Pods {
    /// Network namespace of one on node1 that asks.
    client: PathBuf,
    /// Those of node1 and node2 that answer: network namespace and address.
    servers: [(PathBuf, String); 2],
}

/// Starts a cluster's pods, two on each node.
fn start_pods(cluster: &Cluster) -> anyhow::Result<Pods> {
    feed(&mut cluster.kubectl(&["apply", "-f", "-"]), objects::servers().as_bytes())?;
    for set in ["daemonset/pod", "daemonset/client"] {
        let rollout = ["rollout", "status", set, "-n", objects::NAMESPACE, "--timeout=90s"];
        output(&mut cluster.kubectl(&rollout))?;
    }
    let (client, _) = pod(cluster, "node1", "client", "client")?;
    Ok(Pods { client, servers: [pod(cluster, "node1", "pod", "one")?, pod(cluster, "node2", "pod", "one")?] })
}

/// Network namespace and address of a set's pod on a node.
fn pod(cluster: &Cluster, node: &str, set: &str, name: &str) -> anyhow::Result<(PathBuf, String)> {
    let (fields, label) = (format!("spec.nodeName={node}"), format!("app={set}"));
    let mut get = cluster.kubectl(&["get", "pods", "-n", objects::NAMESPACE, "--field-selector", &fields]);
    get.args(["-l", &label, "-o", "jsonpath={.items[0].status.podIP}"]);
    let address = output(&mut get)?.trim().to_owned();
    let pid = process(&container(cluster, node, name)?)?;
    Ok((PathBuf::from(format!("/proc/{pid}/ns/net")), address))
}

/// The running container of that name on a node.
fn container(cluster: &Cluster, node: &str, name: &str) -> anyhow::Result<String> {
    let mut list = command(&["docker", "ps", "-q", "--no-trunc"]);
    let labels =
        [cluster.label(), format!("fairlead.io/node={node}"), format!("io.kubernetes.container.name={name}")];
    for label in labels {
        list.args(["--filter", &format!("label={label}")]);
    }
    let found = output(&mut list)?;
    found.lines().next().map(str::to_owned).with_context(|| format!("no container {name} runs on {node}"))
}

fn process(container: &str) -> anyhow::Result<u32> {
    let mut inspect = command(&["docker", "inspect", "--format", "{{.State.Pid}}", container]);
    match output(&mut inspect)?.trim().parse()? {
        0 => bail!("container {container} has no process"),
        pid => Ok(pid),
    }
}
