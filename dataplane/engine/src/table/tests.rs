use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::snapshot::Endpoint4;

fn table(connections_max: u32) -> Table {
    Table::new(connections_max, Secret([0x1234_5678_9abc_def1, 0xfeed_beef_0bad_cafe]))
}

/// A connection that is unique in both directions for each `n`.
fn enter(table: &mut Table, n: u32) -> Option<u32> {
    let index = table.take()?;
    let conn = &mut table.conns[index as usize];
    let (inbound, outbound) = keys_of(n);
    *conn = Conn { flags: flag::LIVE, ..Conn::EMPTY };
    conn.set_endpoints(inbound, outbound);
    if table.link(index).is_err() {
        table.give_back(index);
        return None;
    }
    Some(index)
}

fn look(table: &Table, key: Key) -> Option<Found> {
    table.find(key, table.hash(key))
}

fn keys_of(n: u32) -> (Key, Key) {
    let endpoint = |addr: u32, port: u16| Endpoint4 { addr, port };
    let inbound = Key::new(6, endpoint(n, n as u16), endpoint(7, 80));
    let outbound = Key::new(6, endpoint(n >> 16, 8080), endpoint(9, n as u16));
    (inbound, outbound)
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
                let (inbound, outbound) = keys_of(n);
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
        assert!(look(&table, keys_of(n).0).is_some() && look(&table, keys_of(n).1).is_some());
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
    assert!(table.buckets.iter().all(|b| b.overflowed == 0 && b.tags == [0; 2]));
}

#[test]
fn a_connection_costs_at_most_160_bytes() {
    let table = table(1_000_000);
    assert!(table.bytes() <= 160 * 1_000_000, "{} bytes per connection", table.bytes() / 1_000_000);
}
