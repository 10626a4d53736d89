//! `cargo xtask bench`: what the control plane and the network cost, measured on this machine.

mod api;
mod client;
mod load;
mod machine;
mod objects;
mod plane;
mod report;
mod service;

use std::path::Path;
use std::process::ExitCode;

use crate::steps::Steps;

#[derive(clap::Subcommand)]
pub enum Bench {
    /// Speed and memory of the API server with its store, controllers and scheduler.
    ///
    /// Starts a control plane of its own in a folder below the build folder and removes it at the end. The client
    /// runs on the same cores: 32 connections over TLS that stay open, each waiting for its answer before it asks
    /// again; every write is durable before it is answered. Other programs that run meanwhile spoil rates and
    /// latencies, CPU seconds much less.
    Api(api::Args),
    /// Services and the overlay: rates against clean namespaces, an nftables ruleset and a kernel vxlan device.
    ///
    /// Starts a cluster of its own with two nodes, and namespaces of the same shape without Fairlead; every path is
    /// measured once a round, and medians of the rounds' ratios are printed. Removes everything at the end.
    Service(service::Args),
}

pub fn run(steps: &Steps, workspace: &Path, bench: &Bench) -> anyhow::Result<ExitCode> {
    match bench {
        Bench::Api(args) => api::run(steps, workspace, args),
        Bench::Service(args) => service::run(steps, workspace, args),
    }
}
