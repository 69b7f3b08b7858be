//! Connections whose handshake is unfinished, oldest first: what a full table gives up for newcomers.

use crate::conn::{Conn, NIL, flag};

#[derive(Debug)]
pub(crate) struct EmbryonicList {
    oldest: u32,
    newest: u32,
    len: u32,
}

impl EmbryonicList {
    pub(crate) fn new() -> EmbryonicList {
        EmbryonicList { oldest: NIL, newest: NIL, len: 0 }
    }

    pub(crate) fn oldest(&self) -> Option<u32> {
        (self.oldest != NIL).then_some(self.oldest)
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn push(&mut self, conns: &mut [Conn], index: u32) {
        let conn = &mut conns[index as usize];
        conn.flags |= flag::EMBRYONIC;
        conn.embryonic_prev = self.newest;
        conn.embryonic_next = NIL;
        match self.newest {
            NIL => self.oldest = index,
            newest => conns[newest as usize].embryonic_next = index,
        }
        self.newest = index;
        self.len += 1;
    }

    /// Takes a record off the list, if it is on it.
    pub(crate) fn remove(&mut self, conns: &mut [Conn], index: u32) {
        let conn = &mut conns[index as usize];
        if !conn.has(flag::EMBRYONIC) {
            return;
        }
        conn.flags &= !flag::EMBRYONIC;
        let (prev, next) = (conn.embryonic_prev, conn.embryonic_next);
        match prev {
            NIL => self.oldest = next,
            prev => conns[prev as usize].embryonic_next = next,
        }
        match next {
            NIL => self.newest = prev,
            next => conns[next as usize].embryonic_prev = prev,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_list_is_a_queue_with_removal(steps in prop::collection::vec(0u32..20, 1..200)) {
            let mut conns = vec![Conn::EMPTY; 20];
            let mut list = EmbryonicList::new();
            let mut model: Vec<u32> = Vec::new();
            for n in steps {
                if model.contains(&n) {
                    list.remove(&mut conns, n);
                    list.remove(&mut conns, n);
                    model.retain(|m| *m != n);
                } else {
                    list.push(&mut conns, n);
                    model.push(n);
                }
                prop_assert_eq!(list.oldest(), model.first().copied());
                prop_assert_eq!(list.len() as usize, model.len());
            }
        }
    }
}
