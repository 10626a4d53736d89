//! Addresses of load balancers on the segment that the nodes share: one node answers ARP and neighbour discovery for
//! each, and another takes over within two seconds when it dies.
//!
//! Nothing is agreed on. Every node ranks the candidates of an address by the same hash ([`rank`]); the first has it. The
//! two behind it ask the segment for the address, as any host would, and take it when nobody answers ([`hold`]). What
//! is watched is thus the very thing that clients need, so that no heartbeat, lease or key is there to be forged or to
//! load the API: whoever can forge an answer could take the address from its clients as well.

pub mod hold;
pub mod rank;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{engine::Command, status::Status};
use hold::{Hold, Step};
use wire::Segment;

/// How often the segment is asked for an address that another node should answer for.
pub const PROBE: Duration = Duration::from_millis(300);

/// What this node must know to announce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The uplink: its number and its hardware address.
    pub uplink: (u32, [u8; 6]),
    /// Own addresses on it, IPv4 and IPv6, that questions come from.
    pub own: Vec<IpAddr>,
    /// Place of this node among the candidates of each address.
    pub ranks: BTreeMap<IpAddr, usize>,
    /// Addresses that an earlier run answered for.
    pub held: BTreeSet<IpAddr>,
}

/// Keeps addresses that are this node's until `shutdown` is cancelled. Those it has then stay: the next run takes them
/// up.
pub async fn run(status: Arc<Status>, commands: mpsc::Sender<Command>, shutdown: CancellationToken) {
    let mut claims = status.claims();
    let mut holds: BTreeMap<IpAddr, Hold> = BTreeMap::new();
    let mut segment: Option<Segment> = None;
    let mut adopted = false;
    let mut tick = tokio::time::interval(PROBE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let idle = holds.is_empty() && claims.borrow().ranks.is_empty();
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = claims.changed() => if changed.is_err() { return },
            _ = tick.tick(), if !idle => {}
        }
        let mut wanted = claims.borrow_and_update().clone();
        // What an earlier run had is taken up once; from then on it is known here.
        if adopted {
            wanted.held.clear();
        }
        adopted |= wanted.uplink.0 != 0;
        if wanted.ranks.is_empty() && holds.is_empty() && wanted.held.is_empty() {
            segment = None;
            continue;
        }
        if segment.as_ref().is_none_or(|open| !open.is_for(&wanted)) {
            segment = match Segment::open(&wanted) {
                Ok(open) => Some(open),
                Err(error) => {
                    tracing::warn!(%error, "load balancer addresses cannot be announced");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
        }
        let Some(open) = &mut segment else { continue };
        step(open, &wanted, &mut holds, &commands).await;
    }
}

async fn step(
    segment: &mut Segment,
    wanted: &Claims,
    holds: &mut BTreeMap<IpAddr, Hold>,
    commands: &mpsc::Sender<Command>,
) {
    let now = Instant::now();
    for (address, mac) in segment.heard() {
        if mac != wanted.uplink.1
            && let Some(hold) = holds.get_mut(&address)
        {
            hold.heard(now);
        }
    }
    let known: BTreeSet<IpAddr> =
        wanted.ranks.keys().chain(&wanted.held).chain(holds.keys()).copied().collect();
    for address in known {
        let rank = wanted.ranks.get(&address).copied();
        let hold = holds.entry(address).or_insert_with(|| Hold::new(wanted.held.contains(&address), now));
        match hold.step(rank, now) {
            Step::Keep => {}
            Step::Ask => segment.ask(address),
            Step::Take => {
                if answer(commands, address, true).await {
                    tracing::info!(%address, ?rank, "this node answers for a load balancer's address");
                    segment.announce(address);
                }
            }
            Step::Leave => {
                if answer(commands, address, false).await {
                    tracing::info!(%address, ?rank, "another node answers for a load balancer's address");
                }
            }
        }
        if hold.announces_again(now) {
            segment.announce(address);
        }
        if rank.is_none() && !hold.is_held() {
            holds.remove(&address);
        }
    }
}

/// Has the programs answer for an address, or no more; true once they do.
async fn answer(commands: &mpsc::Sender<Command>, address: IpAddr, on: bool) -> bool {
    let (sender, receiver) = oneshot::channel();
    let sent = commands.send(Command::Announce { address, on, done: sender }).await;
    sent.is_ok() && receiver.await.unwrap_or(false)
}
