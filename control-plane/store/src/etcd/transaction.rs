//! A transaction in etcd: conditions, effects, and what is known of it when a member is lost on the way.

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::link::{Failed, Patience, QUICK};
use super::{Etcd, header_revision, signed};
use crate::{Change, Entry, Expect, Result, Revision, StoreError, Write, check_writes};

impl Etcd {
    pub(super) async fn transact(&self, writes: Vec<Write>) -> Result<Revision> {
        check_writes(&writes)?;
        if writes.is_empty() {
            return self.newest().await;
        }
        let repeatable = repeatable(&writes);
        let mut patience = Patience::new();
        let mut doubtful = false;
        loop {
            let txn = self.txn(&writes).await?;
            let sent = self.link.once(QUICK, |client| {
                let txn = txn.clone();
                async move { client.kv_client().txn(txn).await }
            });
            match sent.await {
                Ok(answer) if answer.succeeded() => return Ok(header_revision(answer.header())),
                Ok(answer) => return self.refused(&writes, answer, doubtful),
                Err(failed) if failed.says("requested lease not found") && patience.wait().await => {
                    self.leases.forget();
                }
                Err(Failed::Lost(_)) if repeatable && patience.wait().await => doubtful = true,
                Err(failed) => return Err(failed.into()),
            }
        }
    }

    async fn txn(&self, writes: &[Write]) -> Result<Txn> {
        let (mut compares, mut effects, mut looks) = (Vec::new(), Vec::new(), Vec::new());
        for write in writes {
            let key = self.link.full(&write.key);
            match write.expect {
                Expect::Any => {}
                Expect::Absent => compares.push(Compare::version(key.clone(), CompareOp::Equal, 0)),
                Expect::Revision(revision) => {
                    let revision = signed(revision);
                    compares.push(Compare::mod_revision(key.clone(), CompareOp::Equal, revision));
                }
            }
            if write.expect != Expect::Any {
                looks.push(TxnOp::get(key.clone(), None));
            }
            match &write.change {
                Change::Check => {}
                Change::Delete => effects.push(TxnOp::delete(key, None)),
                Change::Put(value) => effects.push(TxnOp::put(key, value.to_vec(), None)),
                Change::PutFor(value, ttl) => {
                    let lease = self.leases.of(&self.link, *ttl).await?;
                    let options = PutOptions::new().with_lease(lease);
                    effects.push(TxnOp::put(key, value.to_vec(), Some(options)));
                }
            }
        }
        Ok(Txn::new().when(compares).and_then(effects).or_else(looks))
    }

    /// What a failed condition means. When an earlier attempt may have been carried out, it can be the reason.
    fn refused(&self, writes: &[Write], answer: TxnResponse, doubtful: bool) -> Result<Revision> {
        let conditional = writes.iter().filter(|write| write.expect != Expect::Any);
        let mut found: Vec<(&Write, Option<Entry>)> = Vec::new();
        for (write, response) in conditional.zip(answer.op_responses()) {
            let TxnOpResponse::Get(mut got) = response else { continue };
            found.push((write, self.link.entries(got.take_kvs()).into_iter().next()));
        }
        if doubtful {
            let unknown = || StoreError::Unavailable("etcd: a write was lost on the way".to_owned());
            return carried_out(&found).ok_or_else(unknown);
        }
        for (write, current) in found {
            let held = match write.expect {
                Expect::Any => true,
                Expect::Absent => current.is_none(),
                Expect::Revision(revision) => current.as_ref().is_some_and(|e| e.mod_revision == revision),
            };
            if !held {
                return Err(StoreError::Conflict { key: write.key.clone(), current: current.map(Box::new) });
            }
        }
        Err(StoreError::Unavailable("etcd refused a transaction whose conditions hold".to_owned()))
    }
}

/// Whether the conditions see to it that a second attempt cannot write what the first one wrote already.
fn repeatable(writes: &[Write]) -> bool {
    writes.iter().all(|write| write.expect != Expect::Any || write.change == Change::Check)
}

/// The revision at which everything that was to be written was written together, as far as the keys show it.
fn carried_out(found: &[(&Write, Option<Entry>)]) -> Option<Revision> {
    let mut revision = None;
    for (write, current) in found {
        match &write.change {
            Change::Check => {}
            Change::Delete => {
                if current.is_some() {
                    return None;
                }
            }
            Change::Put(value) | Change::PutFor(value, _) => {
                let current = current.as_ref().filter(|entry| entry.value == *value)?;
                if *revision.get_or_insert(current.mod_revision) != current.mod_revision {
                    return None;
                }
            }
        }
    }
    revision
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(value: &'static str, revision: Revision) -> Option<Entry> {
        let value = Bytes::from_static(value.as_bytes());
        Some(Entry { key: "k".into(), value, create_revision: 1, mod_revision: revision })
    }

    #[test]
    fn a_lost_write_counts_as_done_only_if_all_of_it_is_there_at_one_revision() {
        let (a, b) = (Write::create("a", "1".into()), Write::update("b", 3, "2".into()));
        let gone = Write::delete("c", Expect::Revision(4));
        assert_eq!(carried_out(&[(&a, entry("1", 9)), (&b, entry("2", 9)), (&gone, None)]), Some(9));
        assert_eq!(carried_out(&[(&a, entry("1", 9)), (&b, entry("2", 8))]), None);
        assert_eq!(carried_out(&[(&a, entry("other", 9))]), None);
        assert_eq!(carried_out(&[(&a, entry("1", 9)), (&gone, entry("x", 4))]), None);
        // Who deleted it cannot be seen.
        assert_eq!(carried_out(&[(&gone, None)]), None);
    }

    #[test]
    fn only_conditional_writes_are_repeated() {
        assert!(repeatable(&[Write::create("a", "1".into()), Write::check("b", Expect::Absent)]));
        assert!(!repeatable(&[Write::create("a", "1".into()), Write::put("b", "1".into())]));
    }
}
