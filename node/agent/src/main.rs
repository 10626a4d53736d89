//! The node's one binary: `fairlead-node kubelet`, `fairlead-node dataplane` and `fairlead-node dns`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Runs one part of a Fairlead node.
#[derive(Debug, Parser)]
#[command(name = "fairlead-node", version, about)]
struct Cli {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Runs the Pods bound to this node on Docker Engine.
    Kubelet(fairlead_kubelet::Args),
    /// Keeps the node's eBPF programs and maps in step with the API; with a command, looks at them.
    Dataplane(Dataplane),
    /// Answers the cluster's names, and asks upstream servers for all others.
    Dns(fairlead_dns::Args),
}

#[derive(Debug, clap::Args)]
struct Dataplane {
    #[command(flatten)]
    args: fairlead_dataplane::Args,
    #[command(subcommand)]
    inspect: Option<fairlead_dataplane::inspect::Inspect>,
}

fn main() -> ExitCode {
    limit_arenas();
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    if let Part::Dataplane(Dataplane { args, inspect: Some(what) }) = &cli.part {
        return inspect(args, what);
    }
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Looks at the maps of this node; fails when they are not as the API wants them.
fn inspect(args: &fairlead_dataplane::Args, what: &fairlead_dataplane::inspect::Inspect) -> ExitCode {
    let pins = fairlead_dataplane::settings::pins(&args.bpffs);
    match fairlead_dataplane::inspect::run(what, &pins, &args.run_dir) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Two malloc arenas are enough for two workers; glibc's default of eight per core keeps memory it never gives back.
fn limit_arenas() {
    // SAFETY: called before any other thread exists; `mallopt` only sets a number inside the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    // Another part of the process may have chosen already; either way there is a provider afterwards.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(cancel_on_signal(shutdown.clone()));
        match cli.part {
            Part::Kubelet(args) => fairlead_kubelet::run(args, shutdown).await.context("kubelet"),
            Part::Dataplane(Dataplane { args, .. }) => {
                fairlead_dataplane::run(args, shutdown).await.context("dataplane")
            }
            Part::Dns(args) => fairlead_dns::run(args, shutdown).await.context("dns"),
        }
    })
}

/// Cancels `shutdown` at the first SIGTERM or SIGINT.
async fn cancel_on_signal(shutdown: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM received"),
        _ = interrupt.recv() => tracing::info!("SIGINT received"),
    }
    shutdown.cancel();
}
