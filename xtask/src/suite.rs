//! The tests, each layer with what it needs; the cluster layer starts a cluster of its own and removes it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::bail;

use crate::cluster::{self, Backend};
use crate::process::{command, sh, show};
use crate::steps::Steps;
use crate::{bpf, host};

/// The cluster that the tests start; `up`'s own has another name, so both can run.
const CLUSTER: &str = "fairlead-test";

/// Tests that need a cluster with both address families.
const MIXED: &str = "mixed::";

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layer {
    /// Pure functions and crates by themselves (Docker Engine and etcd are used where a crate speaks to them).
    Unit,
    /// eBPF programs by `prog_test_run`: packet in, verdict, bytes and counters out.
    Packets,
    /// Real traffic between namespaces.
    Netns,
    /// Random changes of everything under traffic, which must not notice.
    Churn,
    /// `kill -9` of the server in a loop under writers, with either store.
    Crash,
    /// A whole cluster and kubectl, with either store.
    Cluster,
}

#[derive(clap::Args)]
pub struct Args {
    /// Which layers; all when none is named.
    #[arg(value_enum)]
    layers: Vec<Layer>,
    /// Run the crash and cluster layers with this store only.
    #[arg(long, value_enum)]
    store: Option<Backend>,
    /// How often the crash layer kills, for each store.
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// How many seconds the churn layer makes changes.
    #[arg(long, default_value_t = 25)]
    seconds: u64,
    /// Repeats the choices of an earlier run of the churn layer.
    #[arg(long)]
    seed: Option<u64>,
    /// Leave the test cluster running for a look at it (`cargo xtask down --name fairlead-test` removes it).
    #[arg(long)]
    keep: bool,
    /// Run only tests whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    #[command(flatten)]
    consent: host::Consent,
}

pub fn run(steps: &Steps, workspace: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    host::require_root("test")?;
    let start = Instant::now();
    let all = [Layer::Unit, Layer::Packets, Layer::Netns, Layer::Churn, Layer::Crash, Layer::Cluster];
    let layers = if args.layers.is_empty() { &all[..] } else { &args.layers };
    host::prepare(steps, workspace, args.consent, host::FOR_TESTS)?;
    let object = steps.run("compiling the eBPF programs", || bpf::build(workspace, true))?;
    for layer in layers {
        eprintln!("--- {layer:?} tests");
        let mut cargo = command(&["cargo", "test", "--release", "--workspace"]);
        cargo.current_dir(workspace).env("FAIRLEAD_BPF_OBJECT", &object);
        match layer {
            Layer::Unit => {
                host::ensure_docker(steps)?;
                crate::images::build(steps, workspace)?;
                test(cargo, args)?;
            }
            Layer::Packets => test(target(cargo, "packets"), args)?,
            Layer::Netns => test(target(cargo, "netns"), args)?,
            Layer::Churn => churn(cargo, workspace, args)?,
            Layer::Crash => crash(cargo, workspace, args)?,
            Layer::Cluster => {
                let stores = args.store.map_or(vec![Backend::Embedded, Backend::Etcd], |one| vec![one]);
                for store in stores {
                    on_cluster(steps, workspace, args, store)?;
                }
            }
        }
    }
    host::release_docker(steps)?;
    eprintln!("all of {layers:?} passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

fn target(mut cargo: Command, name: &str) -> Command {
    cargo.args(["--test", name]);
    cargo
}

/// The churn checker, a program of its own.
fn churn(cargo: Command, workspace: &Path, args: &Args) -> anyhow::Result<()> {
    let programs = host::build_binaries(workspace)?;
    let mut cargo = target(cargo, "churn");
    cargo.env("FAIRLEAD_PROGRAMS", programs).args(["--", "--seconds", &args.seconds.to_string()]);
    if let Some(seed) = args.seed {
        cargo.args(["--seed", &seed.to_string()]);
    }
    show(&mut cargo)
}

/// The kill checker, a program of its own.
fn crash(cargo: Command, workspace: &Path, args: &Args) -> anyhow::Result<()> {
    let server = host::build_binaries(workspace)?.join("fairlead-server");
    let mut cargo = target(cargo, "crash");
    cargo.env("FAIRLEAD_SERVER", server).args(["--", "--kills", &args.kills.to_string()]);
    if let Some(store) = args.store {
        cargo.args(["--store", &format!("{store:?}").to_lowercase()]);
    }
    show(&mut cargo)
}

fn test(mut cargo: Command, args: &Args) -> anyhow::Result<()> {
    if let Some(filter) = &args.filter {
        cargo.arg(filter);
    }
    show(&mut cargo)
}

fn on_cluster(steps: &Steps, workspace: &Path, args: &Args, store: Backend) -> anyhow::Result<()> {
    // Docker Engine first, so that what is compared is what the cluster alone makes.
    host::ensure_docker(steps)?;
    cluster::down::run_keeping_docker(steps, workspace, CLUSTER)?;
    let before = traces()?;
    // One of the two clusters has both address families, so that everything is tested in such a one, too.
    let dual_stack = store == Backend::Etcd;
    let up =
        cluster::up::Args { store, dual_stack, consent: args.consent, ..cluster::up::Args::plain(CLUSTER) };
    let started = cluster::up::run(steps, workspace, &up).map(|_| ());
    let tested = started.and_then(|()| {
        let mut cargo = command(&["cargo", "test", "--release", "--workspace"]);
        cargo
            .current_dir(workspace)
            .env("FAIRLEAD_CLUSTER", CLUSTER)
            .env("FAIRLEAD_STORE", format!("{store:?}").to_lowercase());
        cargo.env("FAIRLEAD_XTASK", std::env::current_exe()?);
        let mut cargo = target(cargo, "cluster");
        if let Some(filter) = &args.filter {
            cargo.arg(filter);
        }
        if !dual_stack {
            cargo.args(["--", "--skip", MIXED]);
        }
        show(&mut cargo)
    });
    if args.keep {
        return tested;
    }
    if tested.is_err() {
        cluster::print_log_tails(CLUSTER);
    }
    cluster::down::run_keeping_docker(steps, workspace, CLUSTER)?;
    let _ = fs::remove_file(cluster::up::lock_file(CLUSTER));
    tested?;
    let left: Vec<String> = traces()?.difference(&before).cloned().collect();
    if !left.is_empty() {
        bail!("`down` left behind: {}", left.join(", "));
    }
    steps.say("`down` left nothing behind");
    Ok(())
}

/// What a cluster can leave on a machine: namespaces, links, containers, mounts, pins, control groups, loaded programs.
fn traces() -> anyhow::Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let mut add = |what: &str, text: &str| all.extend(text.lines().map(|line| format!("{what} {line}")));
    add("netns", &sh(&["ip", "netns", "list"])?);
    add("container", &sh(&["docker", "ps", "-aq", "--no-trunc"])?);
    let names =
        fs::read_dir("/sys/class/net")?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    add("link", &names.collect::<Vec<_>>().join("\n"));
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    add("mount", &mounts.lines().filter_map(|l| l.split(' ').nth(1)).collect::<Vec<_>>().join("\n"));
    let mut groups = Vec::new();
    for root in fs::read_dir("/sys/fs/cgroup")?.flatten().map(|e| e.path()).filter(|p| p.is_dir()) {
        let inner = fs::read_dir(&root)?.flatten().map(|e| e.path()).filter(|p| p.is_dir());
        groups.extend(inner.map(|p| p.display().to_string()));
    }
    add("cgroup", &groups.join("\n"));
    add("bpffs", &sh(&["find", "/sys/fs/bpf", "-mindepth", "1"])?);
    Ok(all)
}
