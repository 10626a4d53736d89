//! `cargo xtask`: builds, starts, tests, measures and removes a whole Fairlead cluster on one machine.

mod bench;
mod bpf;
mod cluster;
mod demo;
mod fuzz;
mod host;
mod images;
mod process;
mod steps;
mod suite;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::steps::Steps;

/// Builds, starts, tests and removes a Fairlead cluster on this machine.
///
/// Nodes are network namespaces joined by a bridge in a namespace of its own; the machine's own interfaces,
/// routes, firewall and sysctls are not touched.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compile the eBPF programs to target/bpf/programs.o.
    BuildEbpf {
        /// Optimise as for a release (the programs are always optimised enough to pass the verifier).
        #[arg(long)]
        release: bool,
    },
    /// Build the container images fairlead/node, fairlead/pause and fairlead/toolbox and load them into Docker Engine.
    Images(host::Consent),
    /// Start a cluster, wait for its nodes, run the demo and print what was seen.
    Up(cluster::up::Args),
    /// Stop and remove everything that `up` made, and nothing else.
    Down(cluster::Name),
    /// Run a command in the network namespace of a node: `node node1 -- ip addr`.
    Node {
        #[command(flatten)]
        cluster: cluster::Name,
        /// Name of the node.
        node: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command on the host outside the cluster, which reaches the nodes' addresses only.
    Outside {
        #[command(flatten)]
        cluster: cluster::Name,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run the tests: unit, packets, netns, crash, cluster; all of them by default.
    Test(suite::Args),
    /// Measure what the control plane costs.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Fuzz what reads the bodies of requests: JSON, YAML, protobuf, patches, selectors, apply.
    Fuzz(fuzz::Args),
    /// Keep the processes of a cluster running (started by `up`).
    #[command(hide = true)]
    Supervise {
        /// The list of processes that `up` wrote.
        plan: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let workspace = workspace()?;
    let steps = Steps::new();
    match cli.command {
        Command::BuildEbpf { release } => {
            let object = steps.run("compiling the eBPF programs", || bpf::build(&workspace, release))?;
            println!("{}", object.display());
        }
        Command::Images(consent) => {
            host::require_root("images")?;
            host::prepare(&steps, &workspace, consent, host::FOR_CLUSTER)?;
            images::build(&steps, &workspace)?;
        }
        Command::Up(args) => return cluster::up::run(&steps, &workspace, &args),
        Command::Down(name) => cluster::down::run(&steps, &workspace, &name.name)?,
        Command::Node { cluster, node, command } => {
            return cluster::enter(&cluster.name, &node, &command);
        }
        Command::Outside { cluster, command } => {
            return cluster::enter(&cluster.name, cluster::OUTSIDE, &command);
        }
        Command::Test(args) => return suite::run(&steps, &workspace, &args),
        Command::Bench(bench) => return bench::run(&steps, &workspace, &bench),
        Command::Fuzz(args) => fuzz::run(&workspace, &args)?,
        Command::Supervise { plan } => cluster::supervise::run(&plan)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The repository this program was built from.
fn workspace() -> anyhow::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(Path::to_path_buf).context("xtask stands in no workspace")
}
