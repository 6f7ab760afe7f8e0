"""From messages to JSON lines over TCP and back, between the driver and its agents: only holders of the run's key can write them.

An agent starts programs that it is told to start, so every line carries an HMAC-SHA256 over a session key, the direction and the
line's number: a stranger's line, one that was changed, repeated or left out ends the connection. The lines are not secret: nothing
that is goes over the wire."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import select
import socket
import threading
from typing import Any

NONCE_BYTES = 32
TCP_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
MAX_BYTES = 64 * 2**20


class Forged(ConnectionError):
    """What came is not from a holder of the key."""


def new_key() -> str:
    """A key for one run, as hex digits."""
    return os.urandom(32).hex()


def api_key(key: str) -> str:
    """The key that the run's engines ask for, made from the run's key and telling nothing about it."""
    return hmac.new(bytes.fromhex(key), b"api", hashlib.sha256).hexdigest()


class Wire:
    """One end of a connection. `send` may be called from any thread, `receive` from one."""

    def __init__(self, sock: socket.socket, key: str, *, is_driver: bool, timeout_s: float = 10.0) -> None:
        """Exchanges nonces. Raises OSError (Forged) when the other end does not."""
        self.sock = sock
        sock.settimeout(timeout_s)
        for level, option, value in TCP_OPTIONS:
            sock.setsockopt(level, option, value)
        own = os.urandom(NONCE_BYTES)
        sock.sendall(own)
        other = _exactly(sock, NONCE_BYTES)
        nonces = own + other if is_driver else other + own
        self.session = hmac.new(bytes.fromhex(key), nonces, hashlib.sha256).digest()
        self.outgoing, self.incoming = (b"driver", b"agent") if is_driver else (b"agent", b"driver")
        self.sent = self.received = 0
        self.buffer = b""
        self.sending = threading.Lock()

    def send(self, **message: Any) -> None:
        """Raises OSError when the connection is gone or the other end takes nothing for `timeout_s`."""
        payload = json.dumps(message).encode()
        with self.sending:
            mac = self._mac(self.outgoing, self.sent, payload)
            self.sent += 1
            self.sock.sendall(mac + b" " + payload + b"\n")

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """The next message, None when none came in time. Raises OSError at the connection's end, Forged for a wrong line."""
        while b"\n" not in self.buffer:
            if not select.select([self.sock], [], [], timeout_s)[0]:
                return None
            chunk = self.sock.recv(1 << 16)
            if not chunk:
                raise ConnectionResetError("the other end is gone")
            self.buffer += chunk
            if len(self.buffer) > MAX_BYTES:
                raise Forged("a line without end")
        line, _, self.buffer = self.buffer.partition(b"\n")
        mac, _, payload = line.partition(b" ")
        if not hmac.compare_digest(mac, self._mac(self.incoming, self.received, payload)):
            raise Forged("a line that was not written with this run's key")
        self.received += 1
        message: dict[str, Any] = json.loads(payload)
        return message

    def close(self) -> None:
        self.sock.close()

    def _mac(self, direction: bytes, number: int, payload: bytes) -> bytes:
        text = b"%s %d " % (direction, number) + payload
        return hmac.new(self.session, text, hashlib.sha256).hexdigest().encode()


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            raise Forged("the other end left before it had said anything")
        data += chunk
    return data
