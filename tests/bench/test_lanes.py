"""A lane's look-ups go on over a new connection when the server has closed the one that was idle, whichever way it did."""

import socket
import struct
import threading
from collections.abc import Callable

import pytest

from bench.lanes import Lanes
from bench.services import LOOPBACK
from storage.log import Position
from stream.events import Event
from stream.producer import Limits, Producer

BODY = b'{"items": [{"item_id": "i1"}], "fresh": true}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
EVENTS = [Event(user_id="u", action="like", item_id=f"i{n}", ts_ms=n) for n in range(2)]


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def serve(listener: socket.socket, end_first: Callable[[socket.socket], None]) -> None:
    """Read one request and end its connection unanswered; answer on the next one."""
    first, _ = listener.accept()
    first.recv(65_536)
    end_first(first)
    second, _ = listener.accept()
    with second:
        while second.recv(65_536):
            second.sendall(ANSWER)


@pytest.mark.parametrize("end_first", [socket.socket.close, reset])
def test_a_connection_that_was_closed_meanwhile_is_made_anew(end_first: Callable[[socket.socket], None]) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        server = threading.Thread(target=serve, args=(listener, end_first), daemon=True)
        server.start()
        with Producer(lambda entries: [Position(0, n, n) for n in range(len(entries))], limits=Limits(linger_s=0.0)) as producer:
            seen = Lanes(producer, listener.getsockname()[1], partitions=1).run([EVENTS[0]], [EVENTS[1]], ["i0", "i1"], told=lambda _: None)
        assert list(seen.hits.values()) == [True]
        server.join(timeout=30)
        assert not server.is_alive()
