//! Thins out the maps of flows: the programs take an expired entry as absent, and this removes it, so that how full the
//! maps are says something. Flows of datagrams to a backend that has left are removed at once: nothing would tell their
//! senders, and every packet would keep the flow alive.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fairlead_abi::{
    Addr, Backend, Be16, CtEntry, CtKey, Metric, NatKey, NatValue, ServiceKey, SocketKey, SocketValue,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{Command, monotonic_millis},
    maps::{
        Fill, MapError, Observed,
        table::{Table, Wire},
    },
    model::Protocol,
    service::table::Gone,
    status::{ServiceFlows, Status},
};

/// How often expired flows are removed.
const INTERVAL: Duration = Duration::from_secs(30);

/// Batches of backends that wait to be forgotten at most; one pass over the maps serves all that wait.
pub const QUEUE: usize = 1024;

/// From this part on (in percent), the kernel may give up flows that have not expired.
const PRESSURE: u64 = crate::pressure::FULL;

/// Works until `shutdown` is cancelled.
pub async fn collect(
    status: Arc<Status>,
    mut gone: mpsc::Receiver<Vec<Gone>>,
    commands: mpsc::Sender<Command>,
    shutdown: CancellationToken,
) {
    let mut balance = Balance::default();
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + INTERVAL, INTERVAL);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = interval.tick() => {}
            received = gone.recv_many(&mut batch, QUEUE) => if received == 0 { return },
        }
        let state = status.clone();
        if batch.is_empty() {
            let outcome = tokio::task::spawn_blocking(move || state.observed().map(sweep)).await;
            match outcome {
                Ok(Some(Ok(swept))) => {
                    status.evicted(balance.evicted(&swept));
                    status.flows(swept.fill);
                    name_flows(&status, &commands, swept.by_service).await;
                }
                Ok(Some(Err(error))) => tracing::warn!(%error, "expired flows could not be removed"),
                Ok(None) | Err(_) => {}
            }
        } else {
            let left = Left::new(batch.drain(..).flatten());
            let outcome =
                tokio::task::spawn_blocking(move || state.observed().map(|maps| forget(maps, &left)));
            match outcome.await {
                Ok(Some(Ok(0))) | Ok(None) | Err(_) => {}
                Ok(Some(Ok(flows))) => {
                    tracing::info!(flows, "flows of datagrams to backends that left are forgotten");
                }
                Ok(Some(Err(error))) => {
                    tracing::warn!(%error, "flows to backends that left could not be removed");
                }
            }
        }
    }
}

/// Gives the flows of each Service to metrics, under its name.
async fn name_flows(status: &Status, commands: &mpsc::Sender<Command>, by_service: HashMap<u32, u64>) {
    let (sender, receiver) = oneshot::channel();
    let numbers = by_service.keys().copied().collect();
    if commands.send(Command::NameSets(numbers, sender)).await.is_err() {
        return;
    }
    let names = receiver.await.unwrap_or_default();
    let mut flows: Vec<ServiceFlows> = names
        .into_iter()
        .map(|(number, (service, port))| ServiceFlows {
            service,
            port,
            flows: by_service.get(&number).copied().unwrap_or_default(),
        })
        .collect();
    // Sets of one port (by family, or local ones) count as one.
    flows.sort_by(|one, other| (&one.service, &one.port).cmp(&(&other.service, &other.port)));
    flows.dedup_by(|next, first| {
        let same = (&next.service, &next.port) == (&first.service, &first.port);
        first.flows += if same { next.flows } else { 0 };
        same
    });
    status.service_flows(flows);
}

/// What one pass over the maps has found.
struct Swept {
    /// How full the maps are, CONNTRACK first.
    fill: Vec<Fill>,
    /// Entries of CONNTRACK that had expired.
    expired: u64,
    /// Flows that the programs have opened so far.
    opened: u64,
    /// Translated flows by number of the set.
    by_service: HashMap<u32, u64>,
}

/// What must be there if nothing was given up: the kernel does not say when it evicts.
#[derive(Default)]
struct Balance {
    last: Option<(u64, u64)>,
}

impl Balance {
    fn evicted(&mut self, swept: &Swept) -> u64 {
        let (Some(conntrack), opened) = (swept.fill.first(), swept.opened) else { return 0 };
        let (before, opened_before) =
            self.last.replace((conntrack.entries, opened)).unwrap_or((conntrack.entries, opened));
        if conntrack.entries * 100 < conntrack.capacity * PRESSURE {
            return 0;
        }
        (before + opened.saturating_sub(opened_before)).saturating_sub(swept.expired + conntrack.entries)
    }
}

/// Removes what has expired.
fn sweep(observed: &Observed) -> Result<Swept, MapError> {
    let now = (monotonic_millis() / 1000) as u32;
    let mut by_service = HashMap::new();
    let (conntrack, expired) = sweep_table(
        &observed.conntrack,
        now,
        |entry| entry.expires,
        |entry| {
            if entry.service != 0 {
                *by_service.entry(entry.service).or_default() += 1;
            }
        },
    )?;
    let (nat, _) = sweep_table(&observed.nat, now, |entry| entry.expires, |_| {})?;
    let opened = observed.metrics.get(&(Metric::FlowOpened as u32))?.iter().sum();
    Ok(Swept { fill: vec![conntrack, nat], expired, opened, by_service })
}

fn sweep_table<K: Wire, V: Wire>(
    table: &Table<K, V>,
    now: u32,
    expires: fn(&V) -> u32,
    mut lives: impl FnMut(&V),
) -> Result<(Fill, u64), MapError> {
    let (mut entries, mut expired, mut removed) = (0_u64, Vec::new(), 0);
    table.for_each(|key, value| {
        entries += 1;
        if expires(&value) < now {
            expired.push(key);
        } else {
            lives(&value);
        }
    })?;
    for key in &expired {
        // A packet may have brought the flow back meanwhile.
        if table.get(key)?.is_some_and(|value| expires(&value) < now) {
            table.remove(key)?;
            entries -= 1;
            removed += 1;
        }
    }
    let fill = Fill { map: table.name(), entries, capacity: u64::from(table.capacity()) };
    Ok((fill, removed))
}

/// Backends that have left, by where they listened.
struct Left(HashMap<(Addr, Be16), Vec<Gone>>);

impl Left {
    fn new(gone: impl Iterator<Item = Gone>) -> Self {
        let mut left: HashMap<(Addr, Be16), Vec<Gone>> = HashMap::new();
        for one in gone {
            let Backend { addr, port, .. } = one.backend;
            left.entry((addr, port)).or_default().push(one);
        }
        Left(left)
    }

    fn at(&self, addr: Addr, port: Be16) -> &[Gone] {
        self.0.get(&(addr, port)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a frontend led from `virtual_addr` to the backend.
    fn led(&self, virtual_addr: Addr, virtual_port: Be16, addr: Addr, port: Be16) -> bool {
        let is = |frontend: &ServiceKey| {
            frontend.port == virtual_port
                && (frontend.addr == virtual_addr || frontend.addr == Addr::UNSPECIFIED)
        };
        self.at(addr, port).iter().any(|gone| gone.frontends.iter().any(is))
    }

    fn has_flow(&self, key: &CtKey, entry: &CtEntry) -> bool {
        if key.proto != Protocol::Udp.number() || entry.flags & CtEntry::DNAT == 0 {
            return false;
        }
        let (addr, port) = match entry.flags & CtEntry::HIGH_OPENED {
            0 => (key.high, key.high_port),
            _ => (key.low, key.low_port),
        };
        self.at(addr, port).iter().any(|gone| gone.service == entry.service)
    }

    fn has_translation(&self, key: &NatKey, value: &NatValue) -> bool {
        key.proto == Protocol::Udp.number()
            && key.kind == NatKey::SERVICE
            && self.led(key.dst, key.dst_port, value.dst, value.dst_port)
    }

    fn has_socket(&self, key: &SocketKey, value: &SocketValue) -> bool {
        let (service, backend) = match key.kind {
            SocketKey::CHOICE => ((key.addr, key.port), (value.addr, value.port)),
            _ => ((value.addr, value.port), (key.addr, key.port)),
        };
        key.proto == Protocol::Udp.number() && self.led(service.0, service.1, backend.0, backend.1)
    }
}

/// Removes the flows of datagrams to backends that have left; gives how many entries that were. Translations go first,
/// so that none brings back a flow.
fn forget(observed: &Observed, left: &Left) -> Result<u64, MapError> {
    Ok(remove(&observed.sockets, |key, value| left.has_socket(key, value))?
        + remove(&observed.nat, |key, value| left.has_translation(key, value))?
        + remove(&observed.conntrack, |key, value| left.has_flow(key, value))?)
}

fn remove<K: Wire, V: Wire>(table: &Table<K, V>, leaves: impl Fn(&K, &V) -> bool) -> Result<u64, MapError> {
    let mut keys = Vec::new();
    table.for_each(|key, value| {
        if leaves(&key, &value) {
            keys.push(key);
        }
    })?;
    keys.iter().try_for_each(|key| table.remove(key))?;
    Ok(keys.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn addr(last: u8) -> Addr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    const PORT: Be16 = Be16::new(53);

    /// Service 7 at .1:53 lost its backend .2:53.
    fn left() -> Left {
        let backend = Backend { addr: addr(2), port: PORT, flags: 0 };
        let frontend = ServiceKey { addr: addr(1), port: PORT, proto: 17, scope: 0 };
        Left::new([Gone { service: 7, backend, frontends: vec![frontend] }].into_iter())
    }

    #[test]
    fn flows_of_the_service_to_the_backend_go_and_no_others() {
        let check = |proto: u8, service: u32, asked: u8, flags: u8, expected: bool| {
            let mut key = CtKey::default();
            let client = Be16::new(40_000);
            let high = key.set(&addr(9), client, &addr(asked), PORT, proto);
            let flags = flags | if high { CtEntry::HIGH_OPENED } else { 0 };
            let entry = CtEntry { flags, service, ..CtEntry::default() };
            assert_eq!(left().has_flow(&key, &entry), expected, "{proto} {service} {asked} {flags}");
        };
        check(17, 7, 2, CtEntry::DNAT, true);
        check(6, 7, 2, CtEntry::DNAT, false);
        check(17, 8, 2, CtEntry::DNAT, false);
        check(17, 7, 3, CtEntry::DNAT, false);
        check(17, 7, 2, 0, false);
    }

    #[test]
    fn translations_and_sockets_go_by_what_was_asked() {
        let nat = |dst: u8, to: u8, kind: u8| {
            let key = NatKey { dst: addr(dst), dst_port: PORT, proto: 17, kind, ..NatKey::default() };
            let value = NatValue { dst: addr(to), dst_port: PORT, ..NatValue::default() };
            left().has_translation(&key, &value)
        };
        assert!(nat(1, 2, NatKey::SERVICE));
        assert!(!nat(1, 3, NatKey::SERVICE) && !nat(4, 2, NatKey::SERVICE) && !nat(1, 2, NatKey::MASQUERADE));
        let socket = |key: u8, value: u8, kind: u8| {
            let key = SocketKey { addr: addr(key), port: PORT, proto: 17, kind, ..SocketKey::default() };
            left().has_socket(&key, &SocketValue { addr: addr(value), port: PORT, ..SocketValue::default() })
        };
        assert!(socket(1, 2, SocketKey::CHOICE) && socket(2, 1, SocketKey::REPLY));
        assert!(!socket(2, 1, SocketKey::CHOICE) && !socket(1, 3, SocketKey::CHOICE));
    }

    #[test]
    fn evictions_are_what_the_counts_leave_unexplained() {
        let swept = |entries, expired, opened| Swept {
            fill: vec![Fill { map: "CONNTRACK", entries, capacity: 1000 }],
            expired,
            opened,
            by_service: HashMap::new(),
        };
        let mut balance = Balance::default();
        assert_eq!(balance.evicted(&swept(900, 0, 5000)), 0, "the first look explains nothing");
        assert_eq!(balance.evicted(&swept(950, 20, 5200)), 130);
        assert_eq!(balance.evicted(&swept(100, 0, 5300)), 0, "with room, nothing is evicted");
    }
}
