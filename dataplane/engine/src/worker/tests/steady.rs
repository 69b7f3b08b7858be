//! The short way against the long one.

use super::*;

/// What a segment of an open connection may look like, ordinary or not.
#[derive(Debug, Clone)]
struct Shape {
    inbound: bool,
    flags: u8,
    ahead: i16,
    ack_ahead: u8,
    window: u16,
    options: Vec<u8>,
    payload_len: usize,
    ttl: u8,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let timestamps = [vec![1, 1, 8, 10], vec![7; 8]].concat();
    let forged = toa::encode_v4(254, U32::new(0x0808_0808), U16::new(53)).to_vec();
    let options = prop_oneof![Just(vec![]), Just(timestamps), Just(forged), Just(vec![1, 1, 5, 10])];
    let flags = prop_oneof![
        8 => Just(flags::ACK),
        8 => Just(flags::ACK | flags::PSH),
        1 => Just(flags::ACK | flags::FIN),
        1 => Just(flags::RST)
    ];
    let rest = (any::<bool>(), flags, -50i16..2000, 0u8..200, any::<u16>(), options, 0usize..1461, 0u8..65);
    rest.prop_map(|(inbound, flags, ahead, ack_ahead, window, options, payload_len, ttl)| Shape {
        inbound,
        flags,
        ahead,
        ack_ahead,
        window,
        options,
        payload_len,
        ttl,
    })
}

impl Shape {
    fn frame(&self, lport: u16) -> (PortId, Vec<u8>) {
        let (port, base) =
            if self.inbound { (CLIENT_SIDE, from_client(5555)) } else { (SERVER_SIDE, from_real(lport)) };
        let frame = TcpFrame {
            flags: self.flags,
            seq: U32::new(base.seq.get().wrapping_add_signed(self.ahead.into())),
            ack: U32::new(base.ack.get().wrapping_add(self.ack_ahead.into())),
            window: U16::new(self.window),
            options: self.options.clone(),
            payload: vec![0xa5; self.payload_len],
            ttl: self.ttl,
            ..base
        };
        (port, frame.to_vec())
    }
}

impl Rig {
    /// As [`Rig::send`], but never by the short way.
    fn send_the_long_way(&mut self, port: PortId, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut packet = HeapBuf::from_frame(frame).on_port(port.0);
        let Parsed::Segment(segment) = parse(frame, GATEWAY_MAC) else { panic!("no segment") };
        let found = self.worker.table.find(segment.key, self.worker.table.hash(segment.key)).unwrap();
        let verdict = self.worker.forward(self.now, &mut packet, &segment, found);
        (verdict, packet.to_vec())
    }

    fn record(&self) -> String {
        format!("{:?}", self.worker.table.used()[0])
    }
}

proptest! {
    #[test]
    fn the_short_way_does_what_the_long_way_does(shapes in prop::collection::vec(shapes(), 1..30)) {
        let mut rigs = [Rig::new(), Rig::new()];
        let lport = rigs.each_mut().map(|rig| rig.open(5555))[0];
        for shape in shapes {
            let (port, frame) = shape.frame(lport);
            let short = rigs[0].send(port, &frame);
            let long = rigs[1].send_the_long_way(port, &frame);
            prop_assert_eq!(short, long, "{:?}", shape);
            prop_assert_eq!(rigs[0].record(), rigs[1].record(), "{:?}", shape);
            for event in Counter::ALL {
                prop_assert_eq!(rigs[0].event(*event), rigs[1].event(*event), "{:?} {:?}", event, shape);
            }
        }
    }
}
