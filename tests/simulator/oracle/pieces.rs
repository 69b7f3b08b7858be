//! What must hold for fragments: for each of them, and for the packet that they are together.

use std::net::{IpAddr, SocketAddr};

use engine::WorkerId;

use super::{Broken, Oracle, Output, ensure};
use crate::fragments::{Piece, join, piece_of};
use crate::packet::{ETH_LEN, ip_of, segment_of, unwrap_tunnel};

/// A fragment that was forwarded.
#[derive(Debug)]
pub(super) struct Forwarded {
    worker: WorkerId,
    before: Vec<u8>,
    after: Vec<u8>,
    target: Option<IpAddr>,
}

impl Forwarded {
    pub(super) fn new(worker: WorkerId, before: &[u8], after: &[u8], target: Option<IpAddr>) -> Forwarded {
        Forwarded { worker, before: before.to_vec(), after: after.to_vec(), target }
    }

    /// Whether both went through the same tunnel, or through none.
    fn same_way(&self, other: &Forwarded) -> bool {
        let [one, two] = [self, other].map(|one| unwrap_tunnel(one.after.get(ETH_LEN..).unwrap_or_default()));
        one.map(|tunnel| (tunnel.src, tunnel.dst)) == two.map(|tunnel| (tunnel.src, tunnel.dst))
    }
}

/// The IP packet of a frame, without a tunnel's headers.
fn innermost(frame: &[u8]) -> &[u8] {
    let ip = frame.get(ETH_LEN..).unwrap_or_default();
    unwrap_tunnel(ip).map_or(ip, |tunnel| tunnel.inner)
}

impl Oracle {
    /// A first fragment may mean that the real server went on; whether it is corrupt cannot be seen.
    pub(super) fn progress_of_piece(&mut self, piece: &Piece<'_>) {
        let (src, dst, protocol, _) = piece.key;
        let Some((src_port, dst_port)) = piece.ports() else { return };
        let key = (protocol, SocketAddr::new(dst, dst_port), SocketAddr::new(src, src_port));
        if let Some(index) = self.by_local.get(&key) {
            self.flows[*index].toa_needed = false;
        }
    }

    /// A fragment leaves as it came, but for addresses and ports; all of a packet are looked at together.
    pub(super) fn piece(
        &mut self,
        worker: WorkerId,
        input: &Piece<'_>,
        forwarded: Forwarded,
    ) -> Result<(), Broken> {
        self.seen.fragments += 1;
        self.progress_of_piece(input);
        if input.is_all() {
            return self.joined(worker, &[forwarded]);
        }
        let inner = innermost(&forwarded.after);
        let Some(output) = piece_of(inner) else {
            return Err("what was forwarded is no fragment any more".into());
        };
        let place = |piece: &Piece<'_>| (piece.start, piece.end(), piece.more, piece.key.2);
        ensure!(place(input) == place(&output), "{:?} became {:?}", place(input), place(&output));
        ensure!(input.start == 0 || input.payload == output.payload, "a later fragment's payload changed");
        ensure!(output.ttl.wrapping_add(1) == input.ttl, "TTL {} became {}", input.ttl, output.ttl);
        let crossed = input.key.0.is_ipv4() != output.key.0.is_ipv4();
        let right = input.checksum_ok == output.checksum_ok || (crossed && output.checksum_ok);
        ensure!(right, "IP checksum: {} came in, {} went out", input.checksum_ok, output.checksum_ok);
        self.piece_tells_nothing(input, &output)?;
        match self.fragments.add(input, forwarded) {
            Some(all) => self.joined(worker, &all),
            None => Ok(()),
        }
    }

    /// All fragments of a packet were forwarded: together they must be what the whole packet would have become.
    fn joined(&mut self, worker: WorkerId, all: &[Forwarded]) -> Result<(), Broken> {
        let first = &all[0];
        let inputs: Vec<_> = all.iter().filter_map(|one| piece_of(ip_of(&one.before)?)).collect();
        let outputs: Vec<_> = all.iter().filter_map(|one| piece_of(innermost(&one.after))).collect();
        // Between two of them their connection may have become another.
        let torn = all.iter().any(|one| one.worker != worker || !one.same_way(first))
            || outputs.iter().any(|piece| piece.key != outputs[0].key);
        if torn {
            return Ok(());
        }
        let input = join(&inputs).unwrap_or_default();
        let output = join(&outputs).unwrap_or_else(|| innermost(&first.after).to_vec());
        // A UDP length beyond the last fragment can be seen by the receiver alone.
        let Some(input) = segment_of(&input) else { return Ok(()) };
        self.seen.put_together += 1;
        let output = Output { after: &first.after, target: first.target, joined: Some(&output), told: None };
        self.packet(worker, &input, &output)
    }
}
