//! Which slot each hash of a flow leads to (Maglev, NSDI 2016). Every node computes the same table: it follows from the
//! backends' addresses and weights alone, whatever slots they have on this node. Pure.

use fairlead_abi::{Backend, Table};

/// Sets with more backends have no table, since shares could not be told apart in it any more.
pub const MAX_BACKENDS: usize = Table::SIZE / 2;

/// Two numbers of a backend that spread well and never change: 64 bits of FNV-1a, mixed as in SplitMix64.
fn hashes(backend: &Backend) -> (u64, u64) {
    let port = backend.port.get().to_be_bytes();
    let folded = backend.addr.octets().iter().chain(&port).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mix = |seed: u64| {
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let first = mix(folded);
    (first, mix(first))
}

/// One backend's turn order over the table's entries.
struct Turns {
    slot: u16,
    weight: u64,
    /// What the round times the weight must reach before the next turn.
    due: u64,
    next: usize,
    step: usize,
}

/// The table of a set: backends in the order of their slots, each with its weight. A backend of weight 0 gets nothing,
/// unless all are of weight 0; then all get the same. None when there are no backends, or too many.
#[must_use]
pub fn table(backends: &[Backend], weights: &[u16]) -> Option<Table> {
    if backends.is_empty() || backends.len() > MAX_BACKENDS {
        return None;
    }
    let all_idle = weights.iter().all(|weight| *weight == 0);
    let weight = |slot: usize| if all_idle { 1 } else { weights.get(slot).copied().unwrap_or(1) };
    let mut order: Vec<usize> = (0..backends.len()).filter(|slot| weight(*slot) > 0).collect();
    order.sort_by_key(|slot| (backends[*slot].addr.octets(), backends[*slot].port.get()));
    let mut turns: Vec<Turns> = order
        .into_iter()
        .map(|slot| {
            let (first, second) = hashes(&backends[slot]);
            Turns {
                slot: slot as u16,
                weight: weight(slot).into(),
                due: 0,
                next: (first % Table::SIZE as u64) as usize,
                step: (second % (Table::SIZE as u64 - 1)) as usize + 1,
            }
        })
        .collect();
    let heaviest = turns.iter().map(|turn| turn.weight).max()?;
    let mut entries: [Option<u16>; Table::SIZE] = [None; Table::SIZE];
    let mut left = Table::SIZE;
    for round in 1_u64.. {
        for turn in &mut turns {
            // The heaviest has a turn in every round, half its weight in every other.
            if round * turn.weight < turn.due {
                continue;
            }
            turn.due += heaviest;
            // The step and the prime size have no common divisor, so this comes by every entry.
            while entries[turn.next].is_some() {
                turn.next = (turn.next + turn.step) % Table::SIZE;
            }
            entries[turn.next] = Some(turn.slot);
            left -= 1;
            if left == 0 {
                return Some(Table { slots: entries.map(Option::unwrap_or_default), _pad: 0 });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::Ipv4Addr};

    use fairlead_abi::{Addr, Be16};

    use super::*;

    fn backend(last: u16) -> Backend {
        let [high, low] = last.to_be_bytes();
        Backend { addr: Addr::from(Ipv4Addr::new(10, 244, high, low)), port: Be16::new(8080), flags: 0 }
    }

    fn shares(backends: &[Backend], weights: &[u16]) -> HashMap<Backend, usize> {
        let mut shares = HashMap::new();
        for slot in table(backends, weights).expect("a table").slots {
            *shares.entry(backends[usize::from(slot)]).or_default() += 1;
        }
        shares
    }

    #[test]
    fn the_table_follows_from_the_addresses_whatever_the_slots() {
        let one: Vec<Backend> = (1..=7).map(backend).collect();
        let mut other = one.clone();
        other.reverse();
        let leads = |backends: &[Backend]| -> Vec<Backend> {
            let table = table(backends, &[1; 7]).expect("a table");
            table.slots.iter().map(|slot| backends[usize::from(*slot)]).collect()
        };
        assert_eq!(leads(&one), leads(&other));
    }

    #[test]
    fn shares_are_even_and_a_backend_that_leaves_moves_little_else() {
        let all: Vec<Backend> = (1..=10).map(backend).collect();
        assert!(shares(&all, &[1; 10]).values().all(|share| (203..=204).contains(share)));
        let (before, after) = (table(&all, &[1; 10]), table(&all[..9], &[1; 9]));
        let (before, after) = (before.expect("a table"), after.expect("a table"));
        let moved =
            before.slots.iter().zip(after.slots).filter(|(old, new)| **old != 9 && **old != *new).count();
        assert!(moved < Table::SIZE / 20, "{moved} of {} moved for nothing", Table::SIZE);
    }

    #[test]
    fn weights_are_shares() {
        let all: Vec<Backend> = (1..=4).map(backend).collect();
        let shares = shares(&all, &[1, 2, 5, 0]);
        let share = |index: usize| shares.get(&all[index]).copied().unwrap_or_default();
        for (index, part) in [(0, 1), (1, 2), (2, 5)] {
            let expected = Table::SIZE * part / 8;
            assert!(share(index).abs_diff(expected) <= 3, "{index} has {} for {expected}", share(index));
        }
        assert_eq!(share(3), 0, "weight 0 gets nothing");
        assert_eq!(self::shares(&all, &[0; 4]).len(), 4, "unless nobody has any");
    }

    #[test]
    fn there_is_no_table_of_nothing_and_of_too_much() {
        assert!(table(&[], &[]).is_none());
        let many: Vec<Backend> = (0..=MAX_BACKENDS as u16).map(backend).collect();
        assert!(table(&many, &[]).is_none());
        assert!(table(&many[1..], &[]).is_some());
    }

    #[test]
    fn the_table_is_the_same_in_every_version() {
        let all: Vec<Backend> = (1..=3).map(backend).collect();
        let table = table(&all, &[1; 3]).expect("a table");
        let folded =
            table.slots.iter().fold(0_u64, |sum, slot| sum.wrapping_mul(31).wrapping_add((*slot).into()));
        assert_eq!(folded, FOLDED, "nodes of different versions must choose alike");
    }

    /// The table of three backends, folded.
    const FOLDED: u64 = 11_753_497_167_435_735_780;
}
