use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::addr::{Addr, Endpoint};

fn table(connections_max: u32) -> Table {
    Table::new(connections_max, Secret([0x1234_5678_9abc_def1, 0xfeed_beef_0bad_cafe]))
}

/// A connection that is unique in both directions for each `n`.
fn enter(table: &mut Table, n: u32) -> Option<u32> {
    let index = table.take()?;
    table.conns[index as usize] = Conn { flags: flag::LIVE, ..Conn::EMPTY };
    let keys = keys_of(n);
    let hashes = keys.each_ref().map(|key| table.hash_any(key));
    if table.set_keys(index, &keys).and_then(|()| table.link(index, hashes)).is_err() {
        table.give_back(index);
        return None;
    }
    Some(index)
}

fn keys_of(n: u32) -> Keys {
    let tuples = tuples_of(n);
    [tuples.inbound, tuples.outbound].map(|tuple| AnyKey::of(&tuple))
}

fn look(table: &Table, tuple: Tuple) -> Option<Found> {
    table.find_tuple(&tuple)
}

/// Every third is IPv6 on both sides, every third on the client's only.
fn tuples_of(n: u32) -> Tuples {
    let endpoint = |wide: bool, addr: u32, port: u16| {
        let mut octets = [0; 16];
        (octets[0], octets[1]) = (0x20, 0x01);
        octets[12..].copy_from_slice(&addr.to_ne_bytes());
        Endpoint { addr: if wide { Addr::from_v6(octets) } else { Addr::from_v4(addr) }, port }
    };
    let tuple = |wide, src: (u32, u16), dst: (u32, u16)| Tuple {
        protocol: 6,
        src: endpoint(wide, src.0, src.1),
        dst: endpoint(wide, dst.0, dst.1),
    };
    Tuples {
        inbound: tuple(!n.is_multiple_of(3), (n, n as u16), (7, 80)),
        outbound: tuple(n % 3 == 1, (n >> 16, 8080), (9, n as u16)),
    }
}

proptest! {
    #[test]
    fn table_behaves_as_a_hash_map(steps in prop::collection::vec((0u32..60, any::<bool>()), 1..400)) {
        let mut table = table(40);
        let mut model: HashMap<u32, u32> = HashMap::new();
        for (n, insert) in steps {
            match (insert, model.get(&n).copied()) {
                (true, None) => {
                    let index = enter(&mut table, n);
                    prop_assert_eq!(index.is_some(), model.len() < 40);
                    if let Some(index) = index {
                        model.insert(n, index);
                    }
                }
                (false, Some(index)) => {
                    table.unlink(index);
                    table.give_back(index);
                    model.remove(&n);
                }
                _ => {}
            }
            prop_assert_eq!(table.len() as usize, model.len());
            prop_assert_eq!(table.live_conns().count(), model.len());
            for n in 0..60 {
                let Tuples { inbound, outbound } = tuples_of(n);
                let conn = model.get(&n).copied();
                let expect = |direction| conn.map(|conn| Found { conn, direction });
                prop_assert_eq!(look(&table, inbound), expect(Direction::Inbound));
                prop_assert_eq!(look(&table, outbound), expect(Direction::Outbound));
            }
        }
    }
}

#[test]
fn every_record_finds_a_place_in_the_index() {
    let mut table = table(100_000);
    for n in 0..100_000 {
        assert!(enter(&mut table, n).is_some(), "connection {n} found no place");
    }
    assert!(enter(&mut table, 100_000).is_none());
    for n in 0..100_000 {
        assert!(
            look(&table, tuples_of(n).inbound).is_some() && look(&table, tuples_of(n).outbound).is_some()
        );
    }
}

#[test]
fn overflow_counts_return_to_zero() {
    let mut table = table(1000);
    let entered: Vec<u32> = (0..1000).map(|n| enter(&mut table, n).unwrap()).collect();
    for index in entered {
        table.unlink(index);
        table.give_back(index);
    }
    assert!(table.buckets.iter().all(|b| b.overflowed == 0 && b.tags == [0; 8]));
    assert!(
        table.buckets.iter().flat_map(|b| b.entries).all(|e| e == 0 || e == NIL),
        "an entry that is gone"
    );
}

#[test]
fn a_connection_costs_at_most_160_bytes() {
    let table = table(1_000_000);
    assert!(table.bytes() <= 160 * 1_000_000, "{} bytes per connection", table.bytes() / 1_000_000);
}
