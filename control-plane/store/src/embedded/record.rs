//! The bytes in the embedded store: the current value of a key, and one change in the log.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Entry, Event, Revision};

/// The value part of the `current` keyspace: create revision, mod revision, value.
pub(super) const CURRENT_HEADER: usize = 16;

const PUT: u8 = 1;
const HAS_PREVIOUS: u8 = 2;
const CHANGE_HEADER: usize = 1 + 8 + 8 + 8 + 4;

/// Bytes that no version of this store has written.
#[derive(Debug, thiserror::Error)]
#[error("{what} is damaged")]
pub(super) struct Damaged {
    what: &'static str,
}

pub(super) fn encode_current(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(CURRENT_HEADER + entry.value.len());
    out.extend_from_slice(&entry.create_revision.to_be_bytes());
    out.extend_from_slice(&entry.mod_revision.to_be_bytes());
    out.extend_from_slice(&entry.value);
    out
}

pub(super) fn decode_current(key: &[u8], bytes: &[u8]) -> Result<Entry, Damaged> {
    let damaged = || Damaged { what: "the record of a key" };
    let key = std::str::from_utf8(key).map_err(|_| damaged())?;
    // The value is copied: a slice would keep the whole block of the storage engine alive.
    Ok(Entry {
        key: key.into(),
        create_revision: revision_at(bytes, 0).ok_or_else(damaged)?,
        mod_revision: revision_at(bytes, 8).ok_or_else(damaged)?,
        value: Bytes::copy_from_slice(bytes.get(CURRENT_HEADER..).ok_or_else(damaged)?),
    })
}

/// The key of a change in the log: revision, place in the transaction, key.
pub(super) fn log_key(revision: Revision, place: u16, key: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(10 + key.len());
    out.extend_from_slice(&revision.to_be_bytes());
    out.extend_from_slice(&place.to_be_bytes());
    out.extend_from_slice(key.as_bytes());
    out
}

pub(super) fn decode_log_key(bytes: &[u8]) -> Result<(Revision, u16, &str), Damaged> {
    let damaged = || Damaged { what: "a key of the log" };
    let revision = revision_at(bytes, 0).ok_or_else(damaged)?;
    let place = bytes.get(8..10).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes);
    let key = bytes.get(10..).and_then(|b| std::str::from_utf8(b).ok());
    Ok((revision, place.ok_or_else(damaged)?, key.ok_or_else(damaged)?))
}

pub(super) fn encode_change(event: &Event) -> Vec<u8> {
    let value = event.value.as_deref().unwrap_or_default();
    let previous = event.previous.as_ref();
    let mut flags = 0;
    if event.value.is_some() {
        flags |= PUT;
    }
    if previous.is_some() {
        flags |= HAS_PREVIOUS;
    }
    let previous_value = previous.map(|entry| entry.value.as_ref()).unwrap_or_default();
    let mut out = Vec::with_capacity(CHANGE_HEADER + value.len() + previous_value.len());
    out.push(flags);
    out.extend_from_slice(&event.create_revision.to_be_bytes());
    out.extend_from_slice(&previous.map_or(0, |entry| entry.create_revision).to_be_bytes());
    out.extend_from_slice(&previous.map_or(0, |entry| entry.mod_revision).to_be_bytes());
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
    out.extend_from_slice(previous_value);
    out
}

pub(super) fn decode_change(revision: Revision, key: &str, bytes: &[u8]) -> Result<Event, Damaged> {
    let damaged = || Damaged { what: "a change in the log" };
    let flags = *bytes.first().ok_or_else(damaged)?;
    let length = bytes.get(25..29).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let end = CHANGE_HEADER + length.ok_or_else(damaged)? as usize;
    let value = bytes.get(CHANGE_HEADER..end).ok_or_else(damaged)?;
    let key: Arc<str> = key.into();
    let previous = if flags & HAS_PREVIOUS == 0 {
        None
    } else {
        Some(Entry {
            key: key.clone(),
            create_revision: revision_at(bytes, 9).ok_or_else(damaged)?,
            mod_revision: revision_at(bytes, 17).ok_or_else(damaged)?,
            value: Bytes::copy_from_slice(bytes.get(end..).ok_or_else(damaged)?),
        })
    };
    Ok(Event {
        key,
        revision,
        create_revision: revision_at(bytes, 1).ok_or_else(damaged)?,
        value: (flags & PUT != 0).then(|| Bytes::copy_from_slice(value)),
        previous,
    })
}

pub(super) fn revision_at(bytes: &[u8], offset: usize) -> Option<Revision> {
    let bytes = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &'static str) -> Entry {
        Entry { key: "a/b".into(), value: value.into(), create_revision: 3, mod_revision: 9 }
    }

    #[test]
    fn every_truncation_of_a_change_is_refused_or_shorter() {
        let event = Event {
            key: "a/b".into(),
            revision: 12,
            create_revision: 3,
            value: Some("new".into()),
            previous: Some(entry("old")),
        };
        let bytes = encode_change(&event);
        assert_eq!(decode_change(12, "a/b", &bytes).expect("whole"), event);
        for end in 0..CHANGE_HEADER + 3 {
            assert!(decode_change(12, "a/b", &bytes[..end]).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn a_current_record_and_a_log_key_come_back_as_they_were() {
        let entry = entry("v");
        assert_eq!(decode_current(b"a/b", &encode_current(&entry)).expect("whole"), entry);
        assert!(decode_current(b"a/b", &[0; CURRENT_HEADER - 1]).is_err());
        assert_eq!(decode_log_key(&log_key(7, 2, "x")).expect("whole"), (7, 2, "x"));
        assert!(decode_log_key(&[0; 9]).is_err());
    }
}
