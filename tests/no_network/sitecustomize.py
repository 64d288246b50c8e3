"""Put on PYTHONPATH, this folder cuts a Python process off the network: only this machine can be reached."""

import ipaddress
import socket

_connect, _connect_ex, _sendto, _look_up = (
    socket.socket.connect,
    socket.socket.connect_ex,
    socket.socket.sendto,
    socket.getaddrinfo,
)


def _refuse_far(host):
    """Raise unless the host is this machine."""
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    if name == "localhost":
        return
    try:
        near = ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        near = False
    if not near:
        raise ConnectionRefusedError(f"the network is blocked in tests; asked for {name}")


def _guarded(method):
    def call(self, *words):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _refuse_far(words[-1][0])
        return method(self, *words)

    return call


def _look_up_near(host, *words, **more):
    _refuse_far(host)
    return _look_up(host, *words, **more)


socket.socket.connect = _guarded(_connect)
socket.socket.connect_ex = _guarded(_connect_ex)
socket.socket.sendto = _guarded(_sendto)
socket.getaddrinfo = _look_up_near
