"""Stateless TRex profile: TCP clients of a service in mode DR or TUN, where the gateway sees clients' packets only.

Each flow's SYN is sent once, slowly, then data segments of all flows, as fast as -m says. In FULLNAT and NAT real servers
must answer before a connection is open: use the stateful profile http.py there.

  start -f tcp.py -m 1mpps -t vip=10.1.0.100,vport=81,clients=10000,size=64
"""

from trex_stl_lib.api import *

# Offsets in bytes; names such as "IP.src" need the scapy that comes with TRex.
IP_AT = 14
L4_AT = IP_AT + 20
SRC_AT, SPORT_AT = IP_AT + 12, L4_AT
FCS_LEN = 4
ISN = 1000


class Tcp(object):
    def get_streams(self, direction=0, vip="10.1.0.100", vport=80, client="10.3.0.1", clients=1000, size=64,
                    opened_per_second=100000, **_):
        """clients: how many flows there are; size: of data frames, with the FCS."""
        if direction != 0:
            return []
        clients = int(clients)
        syn = self.packet(client, vip, int(vport), "S", ISN, 0, clients)
        data = self.packet(client, vip, int(vport), "PA", ISN + 1, int(size), clients)
        opening = STLTXSingleBurst(total_pkts=clients, pps=int(opened_per_second))
        return [
            STLStream(name="opening", packet=syn, mode=opening, next="data"),
            STLStream(name="data", packet=data, mode=STLTXCont(), self_start=False),
        ]

    @staticmethod
    def packet(client, vip, vport, flags, seq, size, flows):
        packet = Ether() / IP(src=client, dst=vip)
        packet /= TCP(sport=1025, dport=vport, flags=flags, seq=seq, ack=0 if flags == "S" else 1)
        pad = max(0, size - FCS_LEN - len(packet)) * "x"
        vm = STLScVmRaw([
            STLVmTupleGen(name="flow", ip_min=client, ip_max=ltoa(atol(client) + min(256, flows) - 1),
                          port_min=1025, port_max=65000, limit_flows=flows),
            STLVmWrFlowVar(fv_name="flow.ip", pkt_offset=SRC_AT),
            STLVmWrFlowVar(fv_name="flow.port", pkt_offset=SPORT_AT),
            # The gateway believes no segment with a wrong checksum.
            STLVmFixChecksumHw(l3_offset=IP_AT, l4_offset=L4_AT, l4_type=CTRexVmInsFixHwCs.L4_TYPE_TCP),
        ])
        return STLPktBuilder(pkt=packet / pad, vm=vm)


def register():
    return Tcp()
