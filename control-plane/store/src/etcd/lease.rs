//! Leases for keys that end by themselves. Keys with the same time to live share a lease for a short while, since a
//! lease for each Event would cost etcd more than the Event.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::link::{Link, QUICK};
use crate::Result;

/// The most keys on one lease: etcd removes them in one transaction.
const KEYS: usize = 1000;

/// The longest that a key may outlive its time by sharing.
const SLACK_MOST: u64 = 60;

struct Lease {
    id: i64,
    /// Until then a key put on it lives at least as long as it should.
    usable_until: Instant,
    keys: usize,
}

/// The lease in use for each time to live, in seconds.
#[derive(Default)]
pub(super) struct Leases {
    open: Mutex<HashMap<u64, Lease>>,
}

impl Leases {
    /// A lease for one more key.
    pub(super) async fn of(&self, link: &Link, ttl: Duration) -> Result<i64> {
        let seconds = (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(1);
        if let Some(lease) = self.shared(seconds) {
            return Ok(lease);
        }
        let slack = (seconds / 20).min(SLACK_MOST);
        let asked = Instant::now();
        let total = i64::try_from(seconds + slack).unwrap_or(i64::MAX);
        // One granted twice ends by itself.
        let grant =
            |client: etcd_client::Client| async move { client.lease_client().grant(total, None).await };
        let granted = link.call(QUICK, grant).await?;
        if slack > 0 {
            let usable_until = asked + Duration::from_secs(slack);
            let mut open = self.open.lock();
            open.retain(|_, lease| lease.usable_until > asked);
            open.insert(seconds, Lease { id: granted.id(), usable_until, keys: 1 });
        }
        Ok(granted.id())
    }

    /// Takes new leases from now on: etcd does not know one of these any more.
    pub(super) fn forget(&self) {
        self.open.lock().clear();
    }

    fn shared(&self, seconds: u64) -> Option<i64> {
        let mut open = self.open.lock();
        let lease = open.get_mut(&seconds)?;
        if lease.keys >= KEYS || lease.usable_until <= Instant::now() {
            return None;
        }
        lease.keys += 1;
        Some(lease.id)
    }
}
