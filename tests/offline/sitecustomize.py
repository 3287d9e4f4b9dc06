"""Denies Python the network and records who asked, and who imported torch; loaded wherever PYTHONPATH contains this."""

import atexit
import os
import socket
import sys

connect, look_up = socket.socket.connect, socket.getaddrinfo
HERE = ("localhost", "127.", "::1", socket.gethostname())


def refuse(address: object) -> None:
    with open(os.environ["CONNECTIONS"], "a") as file:
        file.write(f"{address}: {' '.join(sys.orig_argv)[:300]}\n")
    raise ConnectionRefusedError(f"{address}: no network in tests")


def connect_here(self: socket.socket, address: object) -> None:
    if self.family != socket.AF_UNIX and not str(address[0]).startswith(HERE):
        refuse(address)
    connect(self, address)


def look_up_here(host, *args, **kwargs):
    if host and not str(host).startswith(HERE):
        refuse(host)
    return look_up(host, *args, **kwargs)


socket.socket.connect = connect_here
socket.getaddrinfo = look_up_here


@atexit.register
def note_torch() -> None:
    if "torch" in sys.modules and "TORCH_IMPORTERS" in os.environ:
        with open(os.environ["TORCH_IMPORTERS"], "a") as file:
            file.write(f"{sys.argv[0]}\n")
