"""The wire between driver and agents: only holders of the run's key are understood, and every tampering ends the connection."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from pdslurm.slurm.wire import Forged, Wire, api_key, new_key

KEY = "11" * 32
Pair = Callable[..., tuple[Wire, Wire]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """pair(): driver's and agent's ends; pair(agent_key=…) with another key."""
    made: list[socket.socket] = []

    def connect(agent_key: str = KEY) -> tuple[Wire, Wire]:
        ours, theirs = socket.socketpair()
        made.extend((ours, theirs))
        found: list[Wire] = []
        thread = threading.Thread(target=lambda: found.append(Wire(theirs, agent_key, is_driver=False)))
        thread.start()
        driver = Wire(ours, KEY, is_driver=True)
        thread.join(5)
        return driver, found[0]

    # a socketpair is no TCP socket: TCP_NODELAY is refused there
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pdslurm.slurm.wire.TCP_OPTIONS", ())
        yield connect
    for sock in made:
        sock.close()


def test_messages_arrive_whole_and_in_order(pair: Pair) -> None:
    driver, agent = pair()
    long = "x" * 300_000

    def send_three() -> None:
        for n in range(3):
            driver.send(number=n, text=long if n == 1 else "line\n")

    sender = threading.Thread(target=send_three)
    sender.start()
    assert [agent.receive(5) for _ in range(3)] == [
        {"number": 0, "text": "line\n"},
        {"number": 1, "text": long},
        {"number": 2, "text": "line\n"},
    ]
    sender.join()
    agent.send(answer=True)
    assert driver.receive(5) == {"answer": True}
    assert driver.receive(0.01) is None


def test_another_key_is_not_understood(pair: Pair) -> None:
    driver, agent = pair(agent_key="22" * 32)
    agent.send(join="n1")
    with pytest.raises(Forged, match="was not written with this run's key"):
        driver.receive(1)


def taken(agent: Wire, driver: Wire) -> bytes:
    """The bytes of one line that the agent sends, taken off the line."""
    agent.send(do="start")
    return driver.sock.recv(10_000)


@pytest.mark.parametrize("tamper", ["change", "repeat", "leave out", "reflect", "rubbish"])
def test_tampering_ends_the_connection(pair: Pair, tamper: str) -> None:
    driver, agent = pair()
    line = taken(agent, driver)
    sent = {
        "change": line.replace(b"start", b"stopp"),
        "repeat": line + line,
        "leave out": taken(agent, driver),
        "rubbish": b"GET / HTTP/1.1\r\n\r\n",
    }.get(tamper)
    if tamper == "reflect":  # the driver's own words sent back to it
        driver.send(do="start")
        sent = agent.sock.recv(10_000)
    assert sent
    agent.sock.sendall(sent)
    with pytest.raises(Forged):  # noqa: PT012
        driver.receive(1)
        driver.receive(1)


def test_the_end_of_a_connection_is_an_error(pair: Pair) -> None:
    driver, agent = pair()
    agent.close()
    with pytest.raises(ConnectionResetError):
        driver.receive(1)


def test_one_who_says_nothing_or_leaves_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdslurm.slurm.wire.TCP_OPTIONS", ())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(TimeoutError):
            Wire(ours, KEY, is_driver=True, timeout_s=0.05)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(Forged, match="left before it had said anything"):
            Wire(ours, KEY, is_driver=True, timeout_s=0.05)


def test_keys() -> None:
    first, second = new_key(), new_key()
    assert first != second
    assert len(bytes.fromhex(first)) == 32
    assert api_key(KEY) == api_key(KEY) != api_key(os.urandom(32).hex())
    assert KEY not in api_key(KEY)
