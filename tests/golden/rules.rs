//! What holds for every frame that leaves, whatever the case says: a second opinion, taken from the bytes.

use anyhow::{Context, Result, ensure};
use wire::ipv4;

use crate::case::{Case, Step};
use crate::conn::Conn;
use crate::frame::{Frame, Port, family_of};
use crate::load::Endpoint;
use crate::look::{GUE_PORT, Packet, UOA};

/// The kinds of options that a real server might take for the client's address.
const TOA_KINDS: [u8; 6] = [254, 253, 252, 250, 249, 200];

pub(crate) fn check(frame: &Frame, step: &Step, conns: &[Conn], case: &Case) -> Result<()> {
    let bytes = &frame.bytes;
    let (ours, theirs) = frame.port.macs();
    ensure!(bytes[..12] == [theirs.0, ours.0].concat(), "Ethernet header {:02x?}", &bytes[..14]);
    let packet = Packet::of(frame.packet()).context("the IP packet ends behind the frame")?;
    ensure!(bytes[12..14] == family_of(packet.src).ether_type().to_bytes(), "the wrong Ethernet type");
    // What came in broken must leave broken; then the case alone says how.
    let is_intact = |frame: &Frame| Packet::of(frame.bytes.get(14..)?).map(|packet| packet.is_intact());
    let all_intact = step.input.iter().all(|frame| is_intact(frame).unwrap_or(false));
    ensure!(!all_intact || packet.is_intact(), "a checksum is wrong");
    let packet = packet.innermost();
    let Some([src, dst]) = packet.ports() else { return Ok(()) };
    // A tunnel's packet that was cut shows nothing of what is in it.
    if packet.is_fragment && packet.protocol == ipv4::PROTO_UDP && dst == GUE_PORT {
        return Ok(());
    }
    let ends = [(packet.src, src), (packet.dst, dst)];
    let protocol = if packet.protocol == UOA { ipv4::PROTO_UDP } else { packet.protocol };
    let conn = conns.iter().find(|conn| conn.protocol() == protocol && ends_at(conn, frame.port) == ends);
    if conn.is_none() && case.service.tune.is_some() {
        return Ok(());
    }
    let conn = conn.with_context(|| format!("{ends:?} are the endpoints of no connection"))?;
    if let (Port::Lan, Some(kind), ipv4::PROTO_TCP) = (frame.port, case.service.toa, packet.protocol) {
        check_toa(packet.tcp_options().context("a cut TCP header")?, kind, conn)?;
    }
    Ok(())
}

/// The endpoints of what leaves for a connection's real server or client.
fn ends_at(conn: &Conn, port: Port) -> [Endpoint; 2] {
    match port {
        Port::Wan => [conn.virtual_, conn.client],
        Port::Lan => conn.inside().into(),
    }
}

/// Nothing but the true address, and that at the very front.
fn check_toa(options: &[u8], kind: u8, conn: &Conn) -> Result<()> {
    let mut offset = 0;
    while let Some(&found) = options.get(offset) {
        let len = match (found, options.get(offset + 1)) {
            (0, _) => break,
            (1, _) => 1,
            // From here on no receiver reads.
            (_, None | Some(0 | 1)) => break,
            (_, Some(len)) => usize::from(*len),
        };
        let Some(option) = options.get(offset..offset + len) else { break };
        if TOA_KINDS.contains(&found) {
            ensure!(offset == 0 && option == conn.toa(kind), "{option:02x?} at {offset} tells an address");
        }
        offset += len;
    }
    Ok(())
}
