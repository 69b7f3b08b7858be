"""Stateful (ASTF) TRex profile: short HTTP connections through a service in mode FULLNAT.

TRex's first port plays the clients, its second one the real servers. TRex takes connections to any address, on port 80, but
answers ARP only for the second port's own: a real server with another address needs a [[neighbour]] on the gateway.

  ./t-rex-64 -i --astf        and in trex-console:
  start -f http.py -m 10 -d 60 -t --vip 10.1.0.100 --response 1000

-m times --cps (1000) is the number of connections per second; -t must be the last option.
"""

import argparse

from trex.astf.api import *

REQUEST = b"GET / HTTP/1.1\r\nHost: tollgate\r\nConnection: close\r\n\r\n"


class Http(object):
    def get_profile(self, tunables=(), **_):
        options = argparse.ArgumentParser(prog="http.py")
        options.add_argument("--vip", default="10.1.0.100")
        options.add_argument("--clients", nargs=2, default=["10.3.0.1", "10.3.0.254"], metavar=("FIRST", "LAST"))
        options.add_argument("--response", type=int, default=1000, help="bytes of the body")
        options.add_argument("--cps", type=float, default=1000, help="connections per second with -m 1")
        wanted = options.parse_args(list(tunables))

        head = "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % wanted.response
        response = head.encode() + b"x" * wanted.response
        client = ASTFProgram()
        client.send(REQUEST)
        client.recv(len(response))
        server = ASTFProgram()
        server.recv(len(REQUEST))
        server.send(response)

        addresses = ASTFIPGen(
            glob=ASTFIPGenGlobal(ip_offset="0.0.1.0"),
            dist_client=ASTFIPGenDist(ip_range=wanted.clients, distribution="seq"),
            dist_server=ASTFIPGenDist(ip_range=[wanted.vip, wanted.vip], distribution="seq"),
        )
        template = ASTFTemplate(
            client_template=ASTFTCPClientTemplate(program=client, ip_gen=addresses, port=80, cps=wanted.cps),
            server_template=ASTFTCPServerTemplate(program=server, assoc=ASTFAssociationRule(port=80)),
        )
        return ASTFProfile(default_ip_gen=addresses, templates=template)


def register():
    return Http()
