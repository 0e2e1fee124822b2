"""A connection to another process that carries JSON objects, one per line."""

import json
import socket
from typing import Any

# A host that vanishes (power, network) is noticed after 20 + 4 x 5 seconds.
KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # seconds, seconds, probes
UNANSWERED_SECONDS = 40  # data that stays unacknowledged for this long ends the connection
MAX_LINE = 1 << 20  # bytes; a longer line is not from our processes

Message = dict[str, Any]


class Line:
    """One end of a connection.

    Attributes:
      host: name of the host at the other end, "" until it is known.
      unread: messages that a reader has received and left for the next one.
    """

    def __init__(self, connection: socket.socket):
        """Takes over a connected TCP socket."""
        self.host, self.unread = "", list[Message]()
        self._socket, self._rest = connection, b""
        connection.settimeout(UNANSWERED_SECONDS)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # not on macOS
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            timeout = 1000 * UNANSWERED_SECONDS
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout)

    def fileno(self) -> int:
        """For `selectors`."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Sends an object.

        Raises:
          OSError: if the other end is gone.
        """
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Message]:
        """Returns the objects that have arrived; waits for at least one.

        Raises:
          OSError: if the other end is gone.
          ValueError: if it is not one JSON object per line.
        """
        arrived = self._socket.recv(1 << 16)
        if not arrived:
            raise ConnectionResetError("the connection was closed")
        *lines, self._rest = (self._rest + arrived).split(b"\n")
        messages = [json.loads(line) for line in lines]
        if len(self._rest) > MAX_LINE or not all(isinstance(each, dict) for each in messages):
            raise ValueError("these are not JSON objects")
        return messages

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()
