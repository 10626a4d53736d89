//! The binary fairlead-server: the control plane, and certificates for nodes.

use std::{net::IpAddr, path::PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand};
use fairlead_server::{
    Limits, ServeArgs,
    secure::pki::{self, NodeRequest},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Requests are trees of small strings: with glibc's allocator a third of the server's time goes into making and freeing
/// them (`perf` over `cargo xtask bench api`, Pods).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The control plane of a Fairlead cluster: API server, store, controllers and scheduler
#[derive(Parser)]
#[command(name = "fairlead-server", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Option<ServeArgs>,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Subcommand)]
enum Command {
    /// Signs a kubeconfig and a serving certificate for a node, without a running server
    IssueNode(IssueNode),
}

#[derive(clap::Args)]
struct IssueNode {
    /// Data directory of the server: its pki/ signs
    #[arg(long)]
    data_dir: PathBuf,
    /// Name of the node
    #[arg(long)]
    node: String,
    /// Addresses of the node
    #[arg(long, required = true, num_args = 1..)]
    address: Vec<IpAddr>,
    /// The API server as the node reaches it: https://IP:PORT
    #[arg(long)]
    server: String,
    /// Directory that gets kubeconfig, ca.crt, kubelet.crt and kubelet.key
    #[arg(long)]
    out: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if let Some(Command::IssueNode(issue)) = cli.command {
        let request =
            NodeRequest { node: issue.node, addresses: issue.address, server: issue.server, out: issue.out };
        return pki::issue_node(&issue.data_dir, &request).context("issuing certificates for the node");
    }
    let args = cli.serve.context("--data-dir is required")?;
    let args = ServeArgs { limits: cli.limits, ..args };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(run(args));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    let server = fairlead_server::start(args, shutdown).await?;
    server.wait().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_needs_its_data_directory_alone_and_takes_limits() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap();
        assert!(parse("fairlead-server --data-dir d").serve.is_some());
        let bounded = parse("fairlead-server --data-dir d --max-requests-inflight 7");
        assert_eq!((bounded.serve.is_some(), bounded.limits.max_requests_inflight), (true, 7));
    }
}
