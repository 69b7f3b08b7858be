//! Newtypes for the numbers that could be mixed up.

use std::fmt;

use zerocopy::{Immutable, IntoBytes};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($int:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, IntoBytes, Immutable)]
        #[repr(transparent)]
        pub struct $name(pub $int);

        impl $name {
            /// As an index.
            #[inline(always)]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ids! {
    /// A worker: 0, 1, …
    WorkerId(u16);
    /// A port, numbered as the platform numbers its ports.
    PortId(u16);
    /// A virtual service's slot. Reused only when no connection remembers the former service.
    ServiceId(u32);
    /// The slot of one real server in one service. Reused only when no connection remembers the former one.
    RealId(u32);
    /// The slot of one local address towards one real server endpoint, which share a local port space.
    PairId(u32);
    /// An entry of the adjacency table ([`crate::Fib`]).
    AdjacencyId(u16);
}

impl AdjacencyId {
    /// No adjacency known.
    pub const NONE: AdjacencyId = AdjacencyId(u16::MAX);
}

impl PairId {
    /// No pair: the connection has no local port.
    pub const NONE: PairId = PairId(u32::MAX);
}
