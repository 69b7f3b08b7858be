#!/usr/bin/env python3
"""Checks the profiles of this folder: `make profiles` runs it with trex_stl_lib from PyPI.

Stateless ones are loaded as TRex's console does, for both directions, and what they would send is looked at. For the
stateful one there is no library outside TRex: it is run against a stand-in that takes every call.
"""

import importlib.util
import os
import sys
import unittest.mock

from scapy.all import IP, TCP, UDP, Ether
from trex_stl_lib.api import STLProfile

HERE = os.path.dirname(os.path.abspath(__file__))
VIP = "10.9.8.7"
# With tunables as the console gives them: text.
STATELESS = {
    "udp.py": [{}, {"clients": "5", "size": "1400", "both": "1"}],
    "tcp.py": [{}, {"clients": "5", "size": "1400"}],
    "syn_flood.py": [{}],
}


def check(condition, what):
    if not condition:
        sys.exit("trex profiles: " + what)


def check_stream(name, stream, direction, tunables):
    what = "%s, direction %d, %s" % (name, direction, tunables)
    packet = Ether(stream.pkt)
    check(IP in packet and (TCP in packet or UDP in packet), what + ": no TCP or UDP over IPv4")
    if direction == 0:
        check(packet[IP].dst == VIP, what + ": goes to %s, not to the VIP" % packet[IP].dst)
    size = int(tunables.get("size", 64))
    is_syn = TCP in packet and packet[TCP].flags == "S"
    check(is_syn or len(stream.pkt) + 4 == size, what + ": %d bytes with the FCS" % (len(stream.pkt) + 4))
    written = {i["type"] for i in stream.to_json()["vm"]["instructions"]}
    check("write_flow_var" in written, what + ": every packet is of the same flow")
    if TCP in packet:
        check("fix_checksum_hw" in written, what + ": TCP checksums are not renewed")


def main():
    for name, variants in STATELESS.items():
        for tunables in variants:
            for direction in (0, 1):
                profile = STLProfile.load_py(os.path.join(HERE, name), direction=direction, vip=VIP, **tunables)
                streams = profile.get_streams()
                expected = direction == 0 or tunables.get("both") == "1"
                check(bool(streams) == expected, "%s: %d streams in direction %d" % (name, len(streams), direction))
                for stream in streams:
                    check_stream(name, stream, direction, tunables)
        print("%s: right" % name)

    stand_in = unittest.mock.MagicMock()
    stand_in.__all__ = [
        "ASTFAssociationRule", "ASTFIPGen", "ASTFIPGenDist", "ASTFIPGenGlobal", "ASTFProfile", "ASTFProgram",
        "ASTFTCPClientTemplate", "ASTFTCPServerTemplate", "ASTFTemplate",
    ]
    modules = {"trex": unittest.mock.MagicMock(), "trex.astf": unittest.mock.MagicMock(), "trex.astf.api": stand_in}
    with unittest.mock.patch.dict(sys.modules, modules):
        spec = importlib.util.spec_from_file_location("http_profile", os.path.join(HERE, "http.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.register().get_profile(tunables=["--vip", VIP, "--response", "10"])
    ranges = [call.kwargs["ip_range"] for call in stand_in.ASTFIPGenDist.call_args_list]
    check([VIP, VIP] in ranges, "http.py: clients do not go to the VIP but to %s" % ranges)
    print("http.py: runs")


if __name__ == "__main__":
    main()
