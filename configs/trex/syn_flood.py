"""Stateless TRex profile: a SYN flood, every SYN from a random address and port.

What to look at is in docs/load-tests.md: established connections must live on, embryonic ones are given up oldest first.

  start -f syn_flood.py -m 1mpps -t vip=10.1.0.100
"""

from trex_stl_lib.api import *

# Offsets in bytes; names such as "IP.src" need the scapy that comes with TRex.
IP_AT = 14
L4_AT = IP_AT + 20
SRC_AT, SPORT_AT = IP_AT + 12, L4_AT


class SynFlood(object):
    def get_streams(self, direction=0, vip="10.1.0.100", vport=80, first="16.0.0.1", last="19.255.255.254", **_):
        """first, last: what addresses the SYNs come from."""
        if direction != 0:
            return []
        options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
        packet = Ether() / IP(src=first, dst=vip)
        packet /= TCP(sport=1025, dport=int(vport), flags="S", seq=1, window=64240, options=options)
        vm = STLScVmRaw([
            STLVmFlowVar(name="address", min_value=first, max_value=last, size=4, op="random"),
            STLVmFlowVar(name="port", min_value=1025, max_value=65000, size=2, op="random"),
            STLVmWrFlowVar(fv_name="address", pkt_offset=SRC_AT),
            STLVmWrFlowVar(fv_name="port", pkt_offset=SPORT_AT),
            STLVmFixChecksumHw(l3_offset=IP_AT, l4_offset=L4_AT, l4_type=CTRexVmInsFixHwCs.L4_TYPE_TCP),
        ])
        return [STLStream(packet=STLPktBuilder(pkt=packet, vm=vm), mode=STLTXCont())]


def register():
    return SynFlood()
