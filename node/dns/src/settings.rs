//! Command-line flags of `fairlead-node dns`.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::name::Name;

/// Flags of `fairlead-node dns`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Address to answer on, UDP and TCP (may be repeated).
    #[arg(long, default_values = ["0.0.0.0:10053", "[::]:10053"])]
    pub listen: Vec<SocketAddr>,
    /// Hold the sockets and run the server as a child that is started again whenever it ends: clients see a pause, no
    /// failure.
    #[arg(long)]
    pub supervise: bool,
    /// DNS domain of the cluster.
    #[arg(long, env = "FAIRLEAD_CLUSTER_DOMAIN", default_value = "cluster.local", value_parser = domain)]
    pub domain: Name,
    /// Server for names outside the cluster, ADDRESS or ADDRESS:PORT (may be repeated); without it, those of --resolv-conf.
    #[arg(long, value_parser = upstream)]
    pub upstream: Vec<SocketAddr>,
    /// Where the node's servers are named.
    #[arg(long, default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Where /metrics, /healthz and /readyz are served; port 0 chooses a free one.
    #[arg(long, default_value = "127.0.0.1:9963")]
    pub metrics_address: SocketAddr,
    /// Name of this node, for Events.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Credentials for the API server; without it, the service account of the pod is used.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
}

fn domain(text: &str) -> Result<Name, String> {
    let name = Name::parse(text).map_err(|e| e.to_string())?;
    if name.wire().len() == 1 { Err("the root cannot be the cluster's domain".to_owned()) } else { Ok(name) }
}

fn upstream(text: &str) -> Result<SocketAddr, String> {
    crate::config::server(text)
        .ok_or_else(|| format!("{text:?} is no server: write an IP address, with :PORT if it is not 53"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_have_defaults_and_are_checked() {
        let args = Cli::parse_from(["x"]).args;
        assert_eq!(args.listen.len(), 2);
        assert_eq!(args.domain.to_string(), "cluster.local.");
        let args = Cli::parse_from([
            "x",
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            "1.1.1.1",
            "--upstream",
            "[::1]:5353",
        ]);
        assert_eq!(args.args.listen, ["127.0.0.1:0".parse().expect("an address")]);
        assert_eq!(args.args.upstream.len(), 2);
        for bad in [["--upstream", "ns.example"], ["--domain", "."], ["--domain", "a..b"], ["--listen", "53"]]
        {
            assert!(Cli::try_parse_from(["x", bad[0], bad[1]]).is_err(), "{bad:?}");
        }
    }
}
