"""Stateless TRex profile: datagrams of many clients to a UDP service.

Port 0 of TRex is on the clients' side of the gateway. With both=1, port 1, on the real servers' side, sends datagrams of
a real server to the gateway's local addresses; only those to local ports that connections have are forwarded, so narrow
the service's local ports to what the clients fill (see docs/load-tests.md).

With latency=N, N further datagrams per second, whatever -m is, are timed from port 0 to port 1, where the real server is.

  start -f udp.py -m 1mpps -t vip=10.1.0.100,clients=1000,size=64
"""

from trex_stl_lib.api import *

# Offsets in bytes; names such as "IP.src" need the scapy that comes with TRex.
IP_AT = 14
L4_AT = IP_AT + 20
SRC_AT, SPORT_AT = IP_AT + 12, L4_AT
DST_AT, DPORT_AT = IP_AT + 16, L4_AT + 2
FCS_LEN = 4


class Udp(object):
    def get_streams(self, direction=0, vip="10.1.0.100", vport=80, client="10.3.0.1", clients=1000, size=64,
                    lip="10.2.0.200", lips=1, rip="10.2.0.11", rport=80, lport_first=1024, lport_last=65535,
                    both=0, latency=0, **_):
        """clients: how many flows there are; size: of frames, with the FCS; latency: timed datagrams per second."""
        if direction == 0:
            packet = Ether() / IP(src=client, dst=vip) / UDP(sport=1025, dport=int(vport), chksum=0)
            flows = packet, "src", client, 256, 1025, 65000, int(clients), int(size)
            timed = dict(mode=STLTXCont(pps=int(latency)), flow_stats=STLFlowLatencyStats(pg_id=1))
            return [self.stream(*flows)] + ([self.stream(*flows, **timed)] if int(latency) else [])
        if not int(both):
            return []
        packet = Ether() / IP(src=rip, dst=lip) / UDP(sport=int(rport), dport=int(lport_first), chksum=0)
        ports = int(lport_last) - int(lport_first) + 1
        return [self.stream(packet, "dst", lip, int(lips), int(lport_first), int(lport_last), ports * int(lips),
                            int(size))]

    @staticmethod
    def stream(packet, end, first, addresses, port_first, port_last, flows, size, **how):
        """Flows that differ in address and port of one end. Without UDP checksum, which may be missing over IPv4."""
        pad = max(0, size - FCS_LEN - len(packet)) * "x"
        last = ltoa(atol(first) + min(addresses, flows) - 1)
        vm = STLScVmRaw([
            STLVmTupleGen(name="flow", ip_min=first, ip_max=last, port_min=port_first, port_max=port_last,
                          limit_flows=flows),
            STLVmWrFlowVar(fv_name="flow.ip", pkt_offset=SRC_AT if end == "src" else DST_AT),
            STLVmWrFlowVar(fv_name="flow.port", pkt_offset=SPORT_AT if end == "src" else DPORT_AT),
            STLVmFixIpv4(offset=IP_AT),
        ])
        return STLStream(packet=STLPktBuilder(pkt=packet / pad, vm=vm), **({"mode": STLTXCont()} | how))


def register():
    return Udp()
