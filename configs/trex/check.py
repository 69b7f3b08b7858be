#!/usr/bin/env python3
"""Checks the profiles of this folder, and every `start …` line that documents them; `make profiles` runs it.

  check.py stl      with trex_stl_lib from PyPI: the stateless profiles, loaded as that library's console does
  check.py console  with TRex's own client library (lbr_trex_client on PyPI): its console's command `start` gets the lines,
                    parses them and loads the profile; then what TRex would be sent is looked at

The first also holds the lines and trex_cfg.yaml against the gateway of configs/examples/load-test.toml. Nothing is
sent. What this cannot tell is whether TRex's server takes what it would get.
"""

import glob
import ipaddress
import json
import os
import re
import sys
import tomllib
import unittest.mock

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
LOAD_TESTS = os.path.join(ROOT, "docs", "load-tests.md")
GATEWAY = os.path.join(ROOT, "configs", "examples", "load-test.toml")
FCS_LEN = 4
VIP = "10.9.8.7"
# Stateless profiles with tunables beyond those of the documented lines.
VARIANTS = {
    "udp.py": [{}, {"clients": 5, "size": 1400, "both": 1}, {"latency": 1000}],
    "tcp.py": [{}, {"clients": 5, "size": 1400}],
    "syn_flood.py": [{}],
}
STATEFUL = {"http.py"}


def check(condition, what):
    if not condition:
        sys.exit("trex profiles: " + what)


def profiles():
    """The names of all files here that are profiles."""
    names = {os.path.basename(path) for path in glob.glob(os.path.join(HERE, "*.py"))} - {os.path.basename(__file__)}
    check(names == VARIANTS.keys() | STATEFUL, "there are %s, but not all of them are checked" % sorted(names))
    return sorted(names)


def documented():
    """Every `start` line in a profile's head and in the documentation: where it is, and what follows the word."""
    lines = []
    for path in [os.path.join(HERE, name) for name in profiles()] + [LOAD_TESTS]:
        with open(path) as file:
            found = re.findall(r"(?:^ *|`)start (-f [^`\n]*)", file.read(), re.MULTILINE)
        check(found, "%s has no line that starts a profile" % os.path.basename(path))
        lines += [(os.path.basename(path), line.split("   ")[0].strip()) for line in found]
    return lines


def tunable(line, name):
    """The value of a tunable in a `start` line, in either of the two forms that consoles take, or None."""
    found = re.search(r"(?:--%s |\b%s=)([^\s,]+)" % (name, name), line)
    return found and found.group(1)


def check_gateway(lines):
    """What is sent must find a service, and TRex's ports must be in the gateway's networks."""
    import yaml

    with open(GATEWAY, "rb") as file:
        gateway = tomllib.load(file)
    services = {(service["listen"], service["protocol"]): service["mode"] for service in gateway["service"]}
    for where, line in lines:
        what = "%s: `start %s`" % (where, line)
        listen = "%s:%s" % (tunable(line, "vip"), tunable(line, "vport") or 80)
        mode = services.get((listen, "udp" if "udp.py" in line else "tcp"))
        check(mode, what + ": the gateway has no such service")
        check((mode == "dr") == ("tcp.py" in line), what + ": the service has mode " + mode)
    with open(os.path.join(HERE, "trex_cfg.yaml")) as file:
        [trex] = yaml.safe_load(file)
    check(len(trex["interfaces"]) == len(trex["port_info"]) == 2, "trex_cfg.yaml: there must be two ports")
    for of_trex, of_gateway in zip(trex["port_info"], gateway["port"]):
        address = ipaddress.ip_interface(of_gateway["addresses"][0])
        what = "trex_cfg.yaml, the port cabled to %s: " % of_gateway["name"]
        check(of_trex["default_gw"] == str(address.ip), what + "the gateway is %s" % address.ip)
        check(ipaddress.ip_address(of_trex["ip"]) in address.network, what + "it is not in %s" % address.network)


def check_stream(what, stream, vip, size):
    """vip: where the packet must go, or None; size: of the frame with its FCS, or None."""
    from scapy.all import IP, TCP, UDP, Ether

    packet = Ether(stream.pkt)
    check(IP in packet and (TCP in packet or UDP in packet), what + ": no TCP or UDP over IPv4")
    check(vip in (None, packet[IP].dst), what + ": goes to %s, not to %s" % (packet[IP].dst, vip))
    is_syn = TCP in packet and packet[TCP].flags == "S"
    length = len(stream.pkt) + FCS_LEN
    check(is_syn or size in (None, length), what + ": %d bytes with the FCS" % length)
    written = {i["type"] for i in stream.to_json()["vm"]["instructions"]}
    check("write_flow_var" in written, what + ": every packet is of the same flow")
    if TCP in packet:
        check("fix_checksum_hw" in written, what + ": TCP checksums are not renewed")


def check_stateless():
    from trex_stl_lib.api import STLProfile
    from trex_stl_lib.utils.parsing_opts import decode_tunables

    lines = documented()
    check_gateway(lines)
    variants = [(name, "variant", variant) for name, variants in VARIANTS.items() for variant in variants]
    for where, line in lines:
        name = re.search(r"-f (\S+)", line).group(1)
        if name not in STATEFUL:
            variants.append((name, where, decode_tunables(re.search(r"-t (\S+)", line).group(1))))
    for name, where, tunables in variants:
        tunables = {"vip": VIP, **tunables}
        for direction in (0, 1):
            what = "%s (%s), direction %d, %s" % (name, where, direction, tunables)
            profile = STLProfile.load_py(os.path.join(HERE, name), direction=direction, **tunables)
            accepted = profile.meta["tunables"]
            check(tunables.keys() <= accepted.keys(), "%s: there are only %s" % (what, sorted(accepted)))
            streams = profile.get_streams()
            expected = direction == 0 or tunables.get("both") == 1
            check(bool(streams) == expected, "%s: %d streams" % (what, len(streams)))
            for stream in streams:
                check_stream(what, stream, tunables["vip"] if direction == 0 else None, tunables.get("size", 64))
    print("stateless profiles, with trex_stl_lib: %d variants right" % len(variants))


def start(client, command, line):
    """Runs the console's command without the decorators that want a connection."""
    while hasattr(command, "__wrapped__"):
        command = command.__wrapped__
    command(client, line.replace("-f ", "-f %s/" % HERE))


def start_stateless(line):
    """The streams for TRex's two ports."""
    from trex.stl.api import STLClient

    client = unittest.mock.MagicMock()
    client.get_acquired_ports.return_value = [0, 1]
    start(client, STLClient.start_line, line)
    check(client.start_stl.called, "`start %s` does not start" % line)
    return client._STLClient__pre_start_check.call_args.args[3]


def start_stateful(line):
    """What TRex would be sent, decoded."""
    from trex.astf.api import ASTFClient
    from trex.astf.trex_astf_profile import ASTFProfile

    client = unittest.mock.MagicMock()
    client.validate_profile_id_input.return_value = ["_"]
    start(client, ASTFClient.start_line, line)
    check(client.start.called, "`start %s` does not start" % line)
    path, tunables = client.load_profile.call_args.args
    profile = ASTFProfile.load(path, **tunables)
    check(profile is not None, "`start %s`: the profile refuses its arguments" % line)
    return json.loads(profile.to_json_str())


def check_stateful(what, line, sent):
    template = sent["templates"][0]
    target = sent["ip_gen_dist_list"][template["client_template"]["ip_gen"]["dist_server"]["index"]]
    check(target["ip_start"] == target["ip_end"] == tunable(line, "vip"), what + ": clients go to %s" % target)
    ends = "client_template", "server_template"
    client, server = (sent["program_list"][template[end]["program_index"]]["commands"] for end in ends)
    names = [command["name"] for command in client + server]
    check(names == ["tx", "rx", "rx", "tx"], what + ": the conversation is %s" % names)
    expected = client[1]["min_bytes"]
    check(expected > int(tunable(line, "response")), what + ": the response has %d bytes" % expected)


def check_with_console():
    import lbr_trex_client  # It puts TRex's folders into the path.

    lines = documented()
    for where, line in lines:
        what = "%s: `start %s`" % (where, line)
        try:
            if re.search(r"-f (\S+)", line).group(1) in STATEFUL:
                check_stateful(what, line, start_stateful(line))
                continue
            streams = start_stateless(line)
        except Exception as error:
            sys.exit("trex profiles: %s: %s: %s" % (what, type(error).__name__, error))
        check(streams[0], what + ": nothing for port 0")
        check(("both=1" in line) == bool(streams[1]), what + ": %d streams for port 1" % len(streams[1]))
        for stream in streams[0]:
            check_stream(what, stream, tunable(line, "vip"), None)
    print("all profiles, with %s: %d documented lines right" % (lbr_trex_client.__name__, len(lines)))


if __name__ == "__main__":
    {"stl": check_stateless, "console": check_with_console}[sys.argv[1]]()
