//! ICMP errors about connections.

use wire::PacketBuf;

use super::Worker;
use crate::addr::Tuple;
use crate::parse::Message;
use crate::verdict::{PuntClass, Verdict};

impl Worker {
    #[cold]
    pub(super) fn icmp_error<P: PacketBuf>(&mut self, _packet: &mut P, message: Message) -> Verdict {
        self.punt(if message.wide { PuntClass::Ipv6 } else { PuntClass::Icmp })
    }
}

pub(super) fn about(_data: &[u8], _message: Message) -> Option<Tuple> {
    None
}
