//! The trust list of an attached receiver: the pinned map is the list, and the programs look each gateway up in it.

use std::path::Path;

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, Map, MapError};

use crate::prefix::Prefix;
use crate::receiver::{Error, MAP_TRUST, TRUST_MAX, in_map, open_map, require_attached};

/// The map, by prefix length and address.
type Trie<M> = LpmTrie<M, [u8; 16], u32>;

/// The trusted prefixes, sorted.
pub(crate) fn list(pin_dir: &Path) -> Result<Vec<Prefix>, Error> {
    require_attached(pin_dir)?;
    let map = open_map(pin_dir, MAP_TRUST)?;
    prefixes(&Trie::try_from(&map).map_err(in_map(MAP_TRUST))?)
}

fn prefixes<M: std::borrow::Borrow<aya::maps::MapData>>(trie: &Trie<M>) -> Result<Vec<Prefix>, Error> {
    let keys = trie.keys().map(|key| key.map(|key| Prefix::from_map(key.data(), key.prefix_len())));
    let mut prefixes: Vec<Prefix> = keys.collect::<Result<_, _>>().map_err(in_map(MAP_TRUST))?;
    prefixes.sort();
    Ok(prefixes)
}

/// Trusts more prefixes; those that are trusted already are no mistake.
pub(crate) fn add(pin_dir: &Path, more: &[Prefix]) -> Result<(), Error> {
    let mut map = opened(pin_dir)?;
    let mut trie = Trie::try_from(&mut map).map_err(in_map(MAP_TRUST))?;
    let mut all = prefixes(&trie)?;
    all.extend(more);
    all.sort();
    all.dedup();
    if all.len() > TRUST_MAX {
        return Err(Error::TooManyPrefixes(all.len()));
    }
    more.iter().try_for_each(|prefix| trie.insert(&key(*prefix), 1, 0)).map_err(in_map(MAP_TRUST))
}

/// Trusts these prefixes no more. All must be in the list, and one that is not must be left; else nothing is changed.
pub(crate) fn remove(pin_dir: &Path, less: &[Prefix]) -> Result<(), Error> {
    let mut map = opened(pin_dir)?;
    let mut trie = Trie::try_from(&mut map).map_err(in_map(MAP_TRUST))?;
    let all = prefixes(&trie)?;
    if let Some(unknown) = less.iter().find(|prefix| !all.contains(prefix)) {
        return Err(Error::NotTrusted(*unknown));
    }
    if all.iter().all(|prefix| less.contains(prefix)) {
        return Err(Error::NobodyTrusted);
    }
    for prefix in less {
        match trie.remove(&key(*prefix)) {
            // The same prefix twice.
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(in_map(MAP_TRUST)(error)),
        }
    }
    Ok(())
}

fn opened(pin_dir: &Path) -> Result<Map, Error> {
    require_attached(pin_dir)?;
    open_map(pin_dir, MAP_TRUST)
}

fn key(prefix: Prefix) -> Key<[u8; 16]> {
    Key::new(prefix.map_len(), prefix.octets())
}
