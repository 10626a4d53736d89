//! Everything changes at random, with traffic all the time: Services, their slices, pods, policies, nodes, and parts
//! that are killed. No connection to what nobody touched may break, stall or be refused, no packet of one that is held
//! may be lost, and at the end the maps must say what the API says.
//!
//! The control plane and the dataplanes are the real programs, each dataplane in a network namespace of its own; pods
//! get their networks by the CNI plugin.

mod api;
mod changes;
#[path = "../crash/client.rs"]
#[expect(dead_code, reason = "watches and revisions are the other layer's")]
mod client;
#[path = "../netns/echo.rs"]
mod echo;
mod ground;
mod objects;
mod pauses;
mod proof;
#[path = "../netns/space.rs"]
mod space;
mod traffic;

use std::{
    collections::HashMap,
    fs::File,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use changes::{Changes, Pod};
use clap::Parser;
use echo::Server;
use ground::{Ground, Node, Programs};
use objects::{CALM, CHURN, PORT};
use serde_json::{Value, json};
use space::{OUTSIDE, OUTSIDE_V6};
use traffic::{Client, Target, Traffic, Transport};

/// How far before a fault changes are told.
const BEFORE: Duration = Duration::from_secs(3);

/// The load balancer's address that nobody touches; the host outside has a route to it.
const BALANCED: &str = "198.51.100.10";

/// Changes a cluster at random under traffic, and proves that what was not touched did not notice
#[derive(Parser)]
struct Args {
    /// How long
    #[arg(long, default_value_t = 25)]
    seconds: u64,
    /// Repeats the choices of an earlier run (not its timing)
    #[arg(long)]
    seed: Option<u64>,
    /// The folder of the built programs
    #[arg(long, env = "FAIRLEAD_PROGRAMS")]
    programs: PathBuf,
    /// The eBPF object
    #[arg(long, env = "FAIRLEAD_BPF_OBJECT")]
    object: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("churn: {} s, --seed {seed}", args.seconds);
    let directory = std::env::temp_dir().join(format!("fairlead-churn-{}", std::process::id()));
    let outcome = start(&args, seed, &directory);
    if let Err(error) = outcome {
        eprintln!("error: {error:#}\nseed {seed}; logs are kept in {}", directory.display());
        return ExitCode::FAILURE;
    }
    match std::fs::remove_dir_all(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {} stays: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args, seed: u64, directory: &Path) -> anyhow::Result<()> {
    let program = |name: &str| args.programs.join(name);
    let programs = Programs {
        server: program("fairlead-server"),
        node: program("fairlead-node"),
        cni: program("fairlead-cni"),
        object: args.object.clone(),
    };
    let mut ground = Ground::new(programs, directory.to_path_buf())?;
    let calm = Calm::new(&mut ground)?;
    let mut traffic = Traffic::new();
    calm.ask(&ground, &mut traffic);
    let mut steps = Steps::new(directory)?;
    let mut changes = Changes::new(seed);
    let outcome = run(&mut ground, &mut changes, &traffic, &mut steps, Duration::from_secs(args.seconds));
    let finished = outcome.and_then(|()| changes.finish(&mut ground));
    // What the last changes did shows while traffic still goes on.
    let proved = finished.and_then(|()| proof::prove(&mut ground));
    let held = traffic.held();
    traffic.stop();
    let tally = traffic.tally();
    let faults = traffic.faults();
    if !faults.is_empty() {
        bail!("{}", steps.tell(&faults, proved.err()));
    }
    proved?;
    ensure!(held > 0 && tally.opened > 0, "there was no traffic");
    let pods = changes.pods().count();
    println!(
        "{} changes in {:.0} s ({:?}; {} refused by the API), {pods} pods at the end: {} requests over held \
         connections and {} new ones, none broken, lost or slower than {:.0} ms (the machine stood still for {:.0} ms at most); {} answers of what changed, all by its \
         own pods, {} refused; maps are as the API wants them",
        changes.done.values().sum::<usize>(),
        steps.began.elapsed().as_secs_f64(),
        changes.done,
        changes.refused,
        tally.held,
        tally.opened,
        tally.slowest.as_secs_f64() * 1000.0,
        tally.paused.as_secs_f64() * 1000.0,
        tally.rough.0,
        tally.rough.1,
    );
    Ok(())
}

fn run(
    ground: &mut Ground,
    changes: &mut Changes,
    traffic: &Traffic,
    steps: &mut Steps,
    time: Duration,
) -> anyhow::Result<()> {
    while steps.began.elapsed() < time {
        let begun = Instant::now();
        let what = changes.step(ground)?;
        if !what.is_empty() {
            steps.note(begun, what)?;
        }
        steps.drops(ground)?;
        traffic.set_frontends(changes.frontends(ground.nodes[0].addresses));
        ground.check_alive()?;
        if !traffic.faults().is_empty() {
            // What else goes wrong now follows from it; the changes after it would only hide its cause.
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(changes.pause()));
    }
    Ok(())
}

/// What was changed, when, and what was dropped meanwhile.
struct Steps {
    log: File,
    began: Instant,
    all: Vec<(Instant, Instant, String)>,
    dropped: HashMap<String, u64>,
}

impl Steps {
    fn new(directory: &Path) -> anyhow::Result<Steps> {
        let mut log = File::create(directory.join("steps.log"))?;
        let began = Instant::now();
        // The monotonic clock, by which the kernel's own traces can be laid beside.
        writeln!(log, "{began:?}")?;
        Ok(Steps { log, began, all: Vec::new(), dropped: HashMap::new() })
    }

    /// Notes how many packets were dropped since the last time, by node and reason.
    fn drops(&mut self, ground: &Ground) -> anyhow::Result<()> {
        let now = Instant::now();
        let backlog = ("the kernel's backlog".to_owned(), ground::backlog_drops());
        let all = ground.nodes.iter().flat_map(Node::drops).chain([backlog]);
        let more: Vec<String> = all
            .filter_map(|(reason, count)| {
                let before = self.dropped.insert(reason.clone(), count).unwrap_or(count);
                (count > before).then(|| format!("{reason} {}", count - before))
            })
            .collect();
        if more.is_empty() { Ok(()) } else { self.note(now, format!("dropped: {}", more.join(", "))) }
    }

    fn note(&mut self, begun: Instant, what: String) -> anyhow::Result<()> {
        let now = Instant::now();
        let at = |time: Instant| time.duration_since(self.began).as_secs_f64();
        writeln!(self.log, "{:.3}-{:.3} {what}", at(begun), at(now))?;
        self.all.push((begun, now, what));
        Ok(())
    }

    /// Faults with the changes that went before the first of them.
    fn tell(&self, faults: &[(Instant, String)], also: Option<anyhow::Error>) -> String {
        let at = |time: Instant| time.saturating_duration_since(self.began).as_secs_f64();
        let first = faults.iter().map(|(time, _)| *time).min().unwrap_or(self.began);
        let mut lines: Vec<String> =
            faults.iter().take(20).map(|(time, text)| format!("{:.3} {text}", at(*time))).collect();
        lines.extend(also.map(|error| format!("and: {error:#}")));
        lines.push("changes before it:".to_owned());
        let near = self.all.iter().filter(|(begun, ended, _)| *begun <= first && *ended + BEFORE >= first);
        lines.extend(near.map(|(begun, ended, what)| {
            let mut what = what.clone();
            what.truncate(200);
            format!("  {:.3}-{:.3} {what}", at(*begun), at(*ended))
        }));
        lines.join("\n")
    }
}

/// What nobody touches: two nodes, two servers, two clients, and Services of every kind.
struct Calm {
    pods: Vec<Pod>,
    services: Vec<Value>,
    _server: Server,
}

impl Calm {
    fn new(ground: &mut Ground) -> anyhow::Result<Calm> {
        for namespace in [CALM, CHURN] {
            let labels = json!({"kubernetes.io/metadata.name": namespace});
            ground
                .api
                .create("/api/v1/namespaces", &json!({"metadata": {"name": namespace, "labels": labels}}))?;
            let account = json!({"metadata": {"name": "default"}});
            ground.api.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &account)?;
        }
        for (index, name) in ["alpha", "beta"].into_iter().enumerate() {
            ground.add_machine(name, 1 + index as u8, 1 + index as u8)?;
            changes::register(ground, index)?;
        }
        ground.wait_for_agents()?;
        let mut pods = Vec::new();
        for (name, node) in
            [("server-a", "alpha"), ("server-b", "beta"), ("client-a", "alpha"), ("client-b", "beta")]
        {
            let labels = json!({"app": name});
            let mut pod = changes::make_pod(ground, CALM, name, node, (&labels, &json!({})))?;
            ensure!(changes::connect(ground, &mut pod)?, "{name} gets no network");
            pods.push(pod);
        }
        let _server = Server::new(&ground.outside, "outside", PORT);
        let address: IpAddr = BALANCED.parse()?;
        ground.outside.route(address.into(), ground.nodes[0].addresses[0]);
        let mut calm = Calm { pods, services: Vec::new(), _server };
        calm.make_services(ground)?;
        Ok(calm)
    }

    fn make_services(&mut self, ground: &mut Ground) -> anyhow::Result<()> {
        let direct = json!({"fairlead.io/direct-server-return": "true"});
        for (name, kind, policy, annotations) in [
            ("plain", "LoadBalancer", "Cluster", json!({})),
            ("local", "NodePort", "Local", json!({})),
            ("direct", "NodePort", "Cluster", direct),
        ] {
            let mut object = objects::service(CALM, name, kind, &json!({"externalTrafficPolicy": policy}));
            object["metadata"]["annotations"] = annotations;
            let made = ground.api.create(&format!("/api/v1/namespaces/{CALM}/services"), &object)?;
            for (family, kind) in ["IPv4", "IPv6"].into_iter().enumerate() {
                let endpoint = |pod: &Pod| objects::endpoint(pod.addresses[family], &pod.node, true);
                let endpoints: Vec<Value> = self.pods[..2].iter().map(endpoint).collect();
                let slice = objects::slice(CALM, &format!("{name}-{family}"), name, kind, &endpoints);
                let path = format!("/apis/discovery.k8s.io/v1/namespaces/{CALM}/endpointslices");
                ground.api.create(&path, &slice)?;
            }
            self.services.push(made);
        }
        let status = objects::balancer_status(Some(BALANCED.parse()?));
        ground.api.patch(&format!("/api/v1/namespaces/{CALM}/services/plain/status"), &status)?;
        self.wait(ground)
    }

    /// Waits until every target answers for the first time.
    fn wait(&self, ground: &Ground) -> anyhow::Result<()> {
        let end = Instant::now() + ground::DEADLINE;
        let places = [(&self.pods[2].space, self.inside()), (&ground.outside, self.from_outside(ground))];
        for (space, targets) in places {
            for target in targets {
                loop {
                    let seen = space.run(|| traffic::ask_once(target.to, target.transport));
                    match seen {
                        Ok(_) => break,
                        Err(error) => ensure!(Instant::now() < end, "{}: {error}", target.what),
                    }
                }
            }
        }
        Ok(())
    }

    fn targets(
        &self,
        what: &str,
        addresses: &[IpAddr],
        port: u16,
        servers: &[&str],
        client: Option<[IpAddr; 2]>,
    ) -> Vec<Target> {
        let mut all = Vec::new();
        for address in addresses {
            for transport in [Transport::Tcp, Transport::Udp] {
                let to = SocketAddr::new(*address, port);
                all.push(Target {
                    what: format!("{what} at {to} over {transport:?}"),
                    to,
                    transport,
                    servers: servers.iter().map(|name| (*name).to_owned()).collect(),
                    client: client.map(|both| both[usize::from(address.is_ipv6())]),
                });
            }
        }
        all
    }

    /// ClusterIPs and pods, as clients inside ask for them.
    fn inside(&self) -> Vec<Target> {
        let mut all = Vec::new();
        for service in &self.services {
            let name = service["metadata"]["name"].as_str().unwrap_or_default();
            let list = service["spec"]["clusterIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
            let addresses: Vec<IpAddr> = list.iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
            all.extend(self.targets(name, &addresses, 80, &["server-a", "server-b"], None));
        }
        for pod in &self.pods[..2] {
            all.extend(self.targets("pod", &pod.addresses, PORT, &[&pod.name], None));
        }
        all
    }

    /// Node ports of both nodes and the load balancer's address, as the outside asks for them.
    fn from_outside(&self, ground: &Ground) -> Vec<Target> {
        let both = ["server-a", "server-b"];
        let kept = Some([OUTSIDE, OUTSIDE_V6]);
        let mut all = Vec::new();
        for (service, client) in self.services.iter().zip([None, kept, kept]) {
            let name = service["metadata"]["name"].as_str().unwrap_or_default();
            let local = service["spec"]["externalTrafficPolicy"] == "Local";
            for (index, node) in ground.nodes.iter().take(2).enumerate() {
                let servers = if local { &both[index..=index] } else { &both[..] };
                // One number of both transports is not certain: each port has its own.
                for (port, transport) in [(0, Transport::Tcp), (1, Transport::Udp)] {
                    let number = service["spec"]["ports"][port]["nodePort"].as_u64().unwrap_or_default();
                    let targets = self.targets(name, &node.addresses, number as u16, servers, client);
                    all.extend(targets.into_iter().filter(|target| target.transport == transport));
                }
            }
        }
        let address = BALANCED.parse().expect("an address");
        all.extend(self.targets("balanced", &[address], 80, &both, None));
        all
    }

    /// Starts every client.
    fn ask(&self, ground: &Ground, traffic: &mut Traffic) {
        let masqueraded = |index: usize| {
            let node = ground.nodes[index].addresses;
            self.targets("the outside", &[OUTSIDE, OUTSIDE_V6], PORT, &["outside"], Some(node))
        };
        let mut from_a = self.inside();
        from_a.extend(masqueraded(0));
        let mut from_b = self.inside();
        from_b.extend(masqueraded(1));
        let client = |space, name, in_turn| Client { space, name, in_turn };
        let (a, b) =
            (client(&self.pods[2].space, "client-a", false), client(&self.pods[3].space, "client-b", false));
        let (alpha, outside) =
            (client(&ground.nodes[0].space, "alpha", false), client(&ground.outside, "outside", true));
        for (client, targets) in
            [(a, from_a), (b, from_b), (alpha, self.inside()), (outside, self.from_outside(ground))]
        {
            for target in &targets {
                traffic.hold(client, target.clone());
            }
            traffic.knock(client, targets);
        }
        traffic.try_out(a, 0);
        traffic.try_out(b, 0);
        traffic.try_out(outside, 1);
    }
}
