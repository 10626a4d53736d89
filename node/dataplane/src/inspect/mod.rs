//! `fairlead-node dataplane status` and `... service list|get`: what the pinned maps say, read by a process of its own,
//! and every difference to what the running agent wants there.
//!
//! The agent is asked over a socket of its own (root only); what it answers comes from its tables, not from the maps.

pub mod entry;
mod report;

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use fairlead_abi::{
    ABI_VERSION, Addr, Backend, BackendKey, Config, Counter, Endpoint, NetnsEntry, Node, Rate, RateKey,
    Reason, Route, Rule, Service, ServiceKey, map,
};
use tokio::{
    io::AsyncWriteExt,
    net::UnixListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

pub use entry::Entry;
pub use report::Difference;

use crate::{
    Error,
    engine::Command,
    maps::{
        MapError, carry,
        table::{AddrPrefix, PerCpu, RangePrefix, RulePrefix, Table},
    },
};

/// Name of the socket below the run directory.
pub const SOCKET: &str = "dataplane.sock";

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to look at.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Inspect {
    /// Prints the node's configuration, maps and pods, and every difference between maps and API.
    Status,
    /// Prints Services as the maps have them.
    #[command(subcommand)]
    Service(ServiceCommand),
}

/// Which Services to look at.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum ServiceCommand {
    /// One line for each frontend.
    List,
    /// Frontends, backends and ranges of one Service.
    Get {
        /// NAMESPACE/NAME
        name: String,
    },
}

impl Inspect {
    /// Whether an entry is among what is looked at.
    fn concerns(&self, entry: &Entry) -> bool {
        match self {
            Inspect::Status => true,
            Inspect::Service(ServiceCommand::List) => report::OF_SERVICES.contains(&entry.map.as_str()),
            Inspect::Service(ServiceCommand::Get { name }) => entry.owner == *name,
        }
    }
}

/// What is in the maps.
#[derive(Debug)]
pub struct Maps {
    /// Entries of the maps that are compared.
    pub entries: Vec<Entry>,
    config: Option<Config>,
    /// Map, entries and capacity.
    fill: Vec<(&'static str, u64, u32)>,
    /// Packets dropped by reason.
    drops: Vec<(&'static str, u64)>,
}

/// Reads the maps that are pinned in `directory`.
///
/// # Errors
/// When one is not pinned, or is of another layout.
pub fn read(directory: &Path) -> Result<Maps, MapError> {
    let mut maps = Maps { entries: Vec::new(), config: None, fill: Vec::new(), drops: Vec::new() };
    let entries = &mut maps.entries;
    let mut fill = Vec::new();
    macro_rules! collect {
        ($name:expr, $key:ty, $value:ty, $show:expr) => {{
            let table: Table<$key, $value> = Table::open(directory, $name)?;
            let mut count = 0;
            table.for_each(|key, value| {
                count += 1;
                entries.push(Entry::new($name, $show(key, value), ""));
            })?;
            fill.push(($name, count, table.capacity()));
        }};
    }
    collect!(map::SERVICES, ServiceKey, Service, |key, value| entry::frontend(&key, &value));
    collect!(map::BACKENDS, BackendKey, Backend, |key, value| entry::backend(&key, &value));
    collect!(map::TABLES, u32, fairlead_abi::Table, |key, value| entry::table(key, &value));
    collect!(map::RANGES, RangePrefix, u32, |prefix: RangePrefix, _| entry::range(
        prefix.length,
        &prefix.key
    ));
    collect!(map::ENDPOINTS, Addr, Endpoint, |key, value| entry::endpoint(key, &value));
    collect!(map::ROUTES, AddrPrefix, Route, |key, value| entry::route(&key, &value));
    collect!(map::NODES, Addr, Node, |key, value| entry::node(key, &value));
    collect!(map::IDENTITIES, AddrPrefix, u32, |key, value| entry::identity(&key, value));
    collect!(map::RULES, RulePrefix, Rule, |key, value| entry::rule(&key, value));
    collect!(map::RATES, RateKey, Rate, |key, value| entry::rate(key, &value));
    collect!(map::DIRECT, AddrPrefix, u32, |key, _| entry::direct(&key));
    collect!(map::ANNOUNCED, Addr, u32, |key, _| entry::announced(key));
    collect!(map::NETNS, u64, NetnsEntry, |key, value| entry::netns(key, value));
    let conntrack: Table<fairlead_abi::CtKey, fairlead_abi::CtEntry> =
        Table::open(directory, map::CONNTRACK)?;
    let mut flows = 0;
    conntrack.for_each(|_, _| flows += 1)?;
    fill.push((map::CONNTRACK, flows, conntrack.capacity()));
    maps.fill = fill;
    maps.config = Table::<u32, Config>::open(directory, map::CONFIG)?.get(&0)?;
    let drops: PerCpu<u32, Counter> = PerCpu::open(directory, map::DROPS)?;
    for reason in Reason::ALL {
        let packets = drops.get(&(*reason as u32))?.iter().map(|counter| counter.packets).sum();
        maps.drops.push((reason.name(), packets));
    }
    Ok(maps)
}

/// Asks the running agent what should be in the maps.
///
/// # Errors
/// When it does not answer.
pub fn wanted(run_dir: &Path) -> io::Result<Vec<Entry>> {
    let stream = UnixStream::connect(run_dir.join(SOCKET))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut entries = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line.is_empty() {
            // The agent's last line: what came before is complete.
            return Ok(entries);
        }
        entries.push(serde_json::from_str(&line)?);
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the agent's answer is cut short"))
}

/// Prints what `what` asks for; true when maps and API agree.
///
/// # Errors
/// When the maps cannot be read.
pub fn run(what: &Inspect, pins: &Path, run_dir: &Path) -> Result<bool, Error> {
    let maps = read(&carry::directory(pins, ABI_VERSION))?;
    let asked = wanted(run_dir);
    if let Err(error) = &asked {
        eprintln!("the agent does not say what should be there, so nothing is compared: {error}");
    }
    let known = asked.ok();
    let owners: BTreeMap<(&str, &str), &str> = known
        .iter()
        .flatten()
        .map(|entry| ((entry.map.as_str(), entry.key.as_str()), entry.owner.as_str()))
        .collect();
    let text = match what {
        Inspect::Status => report::status(&maps, &owners),
        Inspect::Service(ServiceCommand::List) => report::services(&maps, &owners),
        Inspect::Service(ServiceCommand::Get { name }) => report::service(&maps, &owners, name),
    };
    print!("{text}");
    let Some(known) = &known else { return Ok(false) };
    let mut differences = report::differences(&maps.entries, known);
    differences.retain(|difference| what.concerns(difference.entry()));
    for difference in &differences {
        println!("{difference}");
    }
    Ok(differences.is_empty())
}

/// Answers whoever may open the socket, one connection at a time, until `shutdown` is cancelled.
///
/// # Errors
/// When the socket cannot be made.
pub async fn serve(
    path: PathBuf,
    commands: mpsc::Sender<Command>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let at = |source| Error::File { path: path.clone(), source };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(at)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(at)?;
    loop {
        let mut stream = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the socket for inspection did not accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (sender, receiver) = oneshot::channel();
        if commands.send(Command::Wanted(sender)).await.is_err() {
            return Ok(());
        }
        let Ok(entries) = receiver.await else { continue };
        let write = async {
            let mut text = Vec::new();
            for entry in entries {
                text.extend(serde_json::to_vec(&entry)?);
                text.push(b'\n');
                if text.len() > 1 << 16 {
                    stream.write_all(&text).await?;
                    text.clear();
                }
            }
            text.push(b'\n');
            stream.write_all(&text).await
        };
        match tokio::time::timeout(PATIENCE, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an inspection was not answered"),
            Err(_) => tracing::debug!("an inspection did not read its answer"),
        }
    }
}
