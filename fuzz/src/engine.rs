//! A worker of the engine, driven by a script: frames from clients and real servers, good and broken, in bursts, with
//! time passing and configurations changing between them.
//!
//! Beside one service that is looked at closely there is one of every other mode, protocol and pair of families.
//!
//! Promises: no panic; no packet without a verdict and a count; what is forwarded has right checksums, the same
//! payload, and the endpoints of its side; and no real server ever gets an address that the client made up.

mod mixed;
mod rig;
mod sent;

use engine::{BURST_LEN_MAX, PortId};
use wire::tcp::flags;
use wire::{HeapBuf, PacketBuf as _};

use crate::script::Script;
use rig::Rig;
use sent::Sent;

/// Steps of one script: enough for any interplay, and quick.
const STEPS_MAX: usize = 512;

/// The bytes are the script.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut rig = Rig::new(script.byte());
    let mut burst = Vec::new();
    for _ in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        let what = script.byte();
        match what & 0x0f {
            0..=3 => burst.push(client_segment(&mut script)),
            4 | 5 => {
                let flags = control_bits(&mut script);
                burst.push(mixed::client_packet(&mut script, flags));
            }
            6..=8 => burst.push(rig.real_segment(&mut script)),
            9 => {
                let flags = control_bits(&mut script);
                burst.extend(rig.kept.answer(&mut script, flags));
            }
            10 => burst.extend(rig.kept.error(&mut script)),
            11 => burst.push(Sent::raw(script.byte(), script.bytes())),
            12 => burst.push(broken(&mut script, &rig)),
            13 => rig.pass(script.byte()),
            14 => rig.configure(script.byte()),
            _ => rig.look(script.byte()),
        }
        // The high bits say where a burst ends: mostly at once, so that a script can react to its own packets.
        if what < 0xc0 || burst.len() == BURST_LEN_MAX {
            process(&mut rig, &mut burst);
        }
    }
    process(&mut rig, &mut burst);
    rig.end();
}

fn process(rig: &mut Rig, burst: &mut Vec<Sent>) {
    if burst.is_empty() {
        return;
    }
    let mut packets: Vec<HeapBuf> = burst.iter().map(Sent::packet).collect();
    let verdicts = rig.process(&mut packets);
    for ((sent, packet), verdict) in burst.drain(..).zip(&packets).zip(verdicts) {
        rig.check(sent, packet.data(), verdict);
    }
    // Later fragments only, which release no others.
    let mut again = rig.released();
    while !again.is_empty() {
        let len = again.len().min(BURST_LEN_MAX);
        process(rig, &mut again.drain(..len).collect());
    }
}

/// Control bits by a small number: the sensible ones often, any at all sometimes.
fn control_bits(script: &mut Script<'_>) -> u8 {
    const USUAL: [u8; 8] = [
        flags::SYN,
        flags::ACK,
        flags::ACK | flags::PSH,
        flags::ACK | flags::FIN,
        flags::RST,
        flags::RST | flags::ACK,
        flags::SYN | flags::ACK,
        flags::ACK,
    ];
    match script.byte() {
        usual @ 0..0xe0 => USUAL[usize::from(usual) % USUAL.len()],
        _ => script.byte(),
    }
}

fn client_segment(script: &mut Script<'_>) -> Sent {
    let who = script.byte();
    let flags = control_bits(script);
    Sent::from_client(who, flags, script)
}

/// A good frame with one byte changed, or cut short.
fn broken(script: &mut Script<'_>, rig: &Rig) -> Sent {
    let how = script.byte();
    let good = if how & 1 == 0 { client_segment(script) } else { rig.real_segment(script) };
    good.spoilt(how, script.word(), script.byte())
}

/// The port that clients are on.
const CLIENT_SIDE: PortId = PortId(0);
/// The port that real servers are on.
const SERVER_SIDE: PortId = PortId(1);
