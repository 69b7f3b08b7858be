//! What the BPF programs count. The order is that of `enum counter` in bpf/common.h.

/// One counter: its key in the map, its name in JSON, and what it means.
pub(crate) struct Counter {
    /// Name in JSON and metrics.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) meaning: &'static str,
}

/// All counters; the index is the key in the map `counters`.
pub(crate) const COUNTERS: [Counter; 12] = [
    Counter { name: "learnt", meaning: "connections whose client was learnt from an option" },
    Counter { name: "without_option", meaning: "connections from a trusted gateway without an option" },
    Counter { name: "untrusted", meaning: "options ignored: the sender is not trusted" },
    Counter { name: "malformed", meaning: "options ignored: they do not parse" },
    Counter { name: "bad_address", meaning: "options ignored: no client can have this address or port" },
    Counter { name: "no_memory", meaning: "options lost: no memory for the socket's storage" },
    Counter { name: "shown", meaning: "answers (accept, getpeername) given with the client's address" },
    Counter { name: "udp_learnt", meaning: "datagrams that told the client" },
    Counter { name: "udp_shown", meaning: "datagrams handed over as from the client" },
    Counter { name: "udp_returned", meaning: "answers to clients that were sent to their gateway" },
    Counter {
        name: "udp_other_family",
        meaning: "datagrams whose client is of another family than the gateway, and is not shown",
    },
    Counter { name: "udp_unwrapped", meaning: "datagrams whose header of protocol 248 was taken out" },
];
