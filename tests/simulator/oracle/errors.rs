//! What must hold for ICMP errors.

use engine::snapshot::Mode;

use super::{Broken, Oracle, ensure};
use crate::packet::{ETH_LEN, IcmpError, icmp_error_of, parse_ip, unwrap_tunnel};

impl Oracle {
    /// An ICMP error about a connection: whoever gets it must find in it what he sent himself.
    pub(super) fn error_message(&mut self, input: &IcmpError<'_>, after: &[u8]) -> Result<(), Broken> {
        let ip = after.get(ETH_LEN..).unwrap_or_default();
        let inner = unwrap_tunnel(ip).map(|tunnel| tunnel.inner);
        let Some(output) = icmp_error_of(inner.unwrap_or(ip)) else {
            return Err("what was forwarded is no ICMP error any more".into());
        };
        self.seen.icmp_errors += 1;
        let to_real = (input.protocol, input.quoted_src, input.quoted_dst);
        let to_client = (input.protocol, input.quoted_dst, input.quoted_src);
        let client_sent = (output.protocol, output.quoted_src, output.quoted_dst);
        let tunnelled = self.by_client.get(&client_sent).map(|i| &self.flows[*i]);
        if let Some(flow) = tunnelled.filter(|flow| flow.mode == Mode::Tun) {
            // From inside the tunnel: a new error, about what the client sent.
            ensure!(input.checksum_ok && output.checksum_ok, "a corrupt error from a tunnel was believed");
            ensure!(output.ttl == 64, "an error of the gateway's own with TTL {}", output.ttl);
            ensure!(input.quoted_dst.ip() == flow.real.ip(), "about a tunnel to {}", input.quoted_dst.ip());
            let ends = (output.src, output.dst);
            ensure!(ends == (flow.virtual_.ip(), flow.client.ip()), "the error goes between {ends:?}");
            return Ok(());
        }
        let crossed = input.src.is_ipv4() != output.src.is_ipv4();
        let right = input.checksum_ok == output.checksum_ok || (crossed && output.checksum_ok);
        ensure!(right, "ICMP checksum: {} came in, {} went out", input.checksum_ok, output.checksum_ok);
        ensure!(output.ttl.wrapping_add(1) == input.ttl, "TTL {} became {}", input.ttl, output.ttl);
        self.quote_is_untold(self.by_local.get(&to_real).copied(), input, &output)?;
        let (to, quoted) = if let Some(flow) = self.by_local.get(&to_real).map(|i| &self.flows[*i]) {
            (flow.client.ip(), (flow.client, flow.virtual_))
        } else if let Some(flow) = self.by_client.get(&to_client).map(|i| &self.flows[*i]) {
            match flow.mode {
                Mode::FullNat | Mode::Nat => (flow.real.ip(), (flow.real, flow.local)),
                Mode::Dr | Mode::Tun => (flow.virtual_.ip(), (flow.virtual_, flow.client)),
            }
        } else {
            return Err("an ICMP error about no connection was forwarded".into());
        };
        let got = (output.quoted_src, output.quoted_dst);
        ensure!(
            output.dst == to && got == quoted,
            "the error goes to {} quoting {got:?}, not {to}, {quoted:?}",
            output.dst
        );
        let outer = parse_ip(ip).is_some_and(|outer| outer.ttl > 0);
        ensure!(outer, "an ICMP error with a used up TTL");
        Ok(())
    }
}
