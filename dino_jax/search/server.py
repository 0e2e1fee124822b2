"""The page over HTTP, by the standard library: what is let in, and what goes out.

Nothing but this machine is listened to unless a token is asked for. The Host header must name this
server (else a page of somebody else could reach it under a name of its own, DNS rebinding), an
Origin must be its own, bodies have a length that is checked before they are read. Photographs are
asked for by row, never by path, and leave as new JPEGs.
"""

import hmac
import ipaddress
import itertools
import json
import secrets
import socket
import sys
import traceback
from collections.abc import Callable
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from dino_jax.data.decode import UnreadableImageError
from dino_jax.foreign.names import one_line
from dino_jax.search.desk import BusyError, Desk, NotFoundError, row_of, to_jpeg

MOST_BYTES = 20_000_000  # of an upload
MOST_DIGITS = 19  # of a length
SILENT_SECONDS = 10  # after which a connection that sends nothing is closed
ICON_COLOR = (11, 99, 165)
COOKIE = "dino_jax_search"
FILES = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css")}
FILES["/page.js"] = ("page.js", "text/javascript")
POLICY = (
    "default-src 'none'; img-src 'self' blob:; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """One thread per connection.

    Attributes:
      desk: gives the answers.
      token: word that a browser must have been given; "" for none.
    """

    daemon_threads = True
    request_queue_size = 128  # 5, the default, cuts clients off that come together

    def __init__(self, host: str, port: int, desk: Desk, token: str = ""):
        """Listens.

        Raises:
          OSError: if the port is taken or the address is none of this machine.
        """
        self.desk, self.token, self._host = desk, token, host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)

    @property
    def link(self) -> str:
        """What to open in a browser."""
        name = f"[{self._host}]" if ":" in self._host else self._host
        link = f"http://{name}:{self.server_port}/"
        return f"{link}?token={self.token}" if self.token else link

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this server."""
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        if port != self.server_port:
            return False
        if is_loopback(self._host):
            return name in ("localhost", "127.0.0.1", "::1", self._host)
        return name in (self._host, socket.gethostname().lower()) or _is_address(name)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = SILENT_SECONDS
    server_version, sys_version = "dino-jax", ""

    def do_GET(self) -> None:
        if self.headers.get("Content-Length") or self.headers.get("Transfer-Encoding"):
            self.close_connection = True  # its body would be taken for the next request
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def _respond(self, work: Callable[[str, dict[str, str]], tuple[bytes, str]]) -> None:
        """Whatever happens, there is an answer."""
        try:
            parts = urlsplit(self.path)
            asked = dict(parse_qsl(parts.query, max_num_fields=20))
            extra = self._admit(parts.path, asked)
            body, kind = work(parts.path, asked)
            self._send(200, body, kind, extra)
        except RefusedError as error:
            self._say(error.status, str(error))
        except NotFoundError as error:
            self._say(404, str(error))
        except BusyError as error:
            self._say(503, str(error))
        except UnreadableImageError as error:
            self._say(400, f"this is not an image that can be read: {error}")
        except ValueError as error:
            self._say(400, str(error))
        except OSError:  # the connection
            self.close_connection = True
        except Exception:
            number = secrets.token_hex(4)
            print(f"error {number}", traceback.format_exc(), sep="\n", file=sys.stderr, flush=True)
            self._say(500, f"something went wrong; the log has it as {number}")

    def _admit(self, path: str, asked: dict[str, str]) -> dict[str, str]:
        """Checks who asks; returns headers for the answer."""
        host = self.headers.get("Host", "")
        if not self.server.is_own(host):
            raise RefusedError(403, "this server has another name")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            raise RefusedError(403, "a page of another site may not ask")
        if not self.server.token:
            return {}
        if path == "/" and self._is_token(asked.get("token", "")):
            cookie = f"{COOKIE}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
            return {"Set-Cookie": cookie}
        cookies = SimpleCookie(self.headers.get("Cookie", ""))
        if COOKIE in cookies and self._is_token(cookies[COOKIE].value):
            return {}
        raise RefusedError(403, "open the link with the token that the server has printed")

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.server.token.encode())

    def _get(self, path: str, asked: dict[str, str]) -> tuple[bytes, str]:
        desk = self.server.desk
        if path in FILES:
            name, kind = FILES[path]
            data = resources.files("dino_jax.search").joinpath(name).read_bytes()
            return data, f"{kind}; charset=utf-8"
        if path == "/icon":  # else a browser asks for one that is not there
            return to_jpeg(np.full((32, 32, 3), ICON_COLOR, np.uint8), 32), "image/jpeg"
        if path == "/info":
            return _json(desk.info())
        if path == "/like":
            return _json(desk.search_row(_row(asked, "row"), asked))
        if path == "/words":
            return _json(desk.search_text(asked))
        if path == "/photo":
            return desk.photo(_row(asked, "row"), "large" in asked), "image/jpeg"
        if path == "/why":
            query, row = _row(asked, "query"), _row(asked, "row")
            return desk.why_row(query, row, asked), "image/jpeg"
        raise RefusedError(404, "there is no such page")

    def _post(self, path: str, asked: dict[str, str]) -> tuple[bytes, str]:
        if path not in ("/search", "/why"):
            raise RefusedError(404, "there is no such page")
        data = self._body()
        if path == "/search":
            return _json(self.server.desk.search_upload(_parts(data, asked), asked))
        return self.server.desk.why_upload(data, _row(asked, "row"), asked), "image/jpeg"

    def _body(self) -> bytes:
        given = self.headers.get("Content-Length")
        if given is None or self.headers.get("Transfer-Encoding"):
            raise RefusedError(411, "an upload needs its Content-Length")
        if not (given.isascii() and given.isdigit() and len(given) <= MOST_DIGITS):
            raise RefusedError(400, "Content-Length is no number")
        size = int(given)
        if size > MOST_BYTES:
            raise RefusedError(413, f"at most {MOST_BYTES // 10**6} MB, this has {size / 1e6:,.0f}")
        data = self.rfile.read(size)
        if len(data) < size:
            raise OSError("the connection ended")
        return data

    def _say(self, status: int, message: str) -> None:
        # What was not read would be taken for the next request.
        self.close_connection = True
        body, kind = _json({"error": one_line(message)})
        try:
            self._send(status, body, kind, {"Connection": "close"})
        except OSError:
            return

    def _send(self, status: int, body: bytes, kind: str, extra: dict[str, str]) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS, **extra}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """For requests that the standard library refuses, in the form of all others."""
        del explain
        self._say(code, message or "this request is not understood")

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: they hold what people look for."""
        del format, args


def is_loopback(host: str) -> bool:
    """Whether an address to listen at is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _row(asked: dict[str, str], name: str) -> int:
    return row_of(asked.get(name, ""))


def _parts(data: bytes, asked: dict[str, str]) -> list[bytes]:
    """The files of a body that holds several, one after the other; `sizes` says where they end."""
    if "sizes" not in asked:
        return [data]
    texts = asked["sizes"].split(",")
    if not all(text.isascii() and text.isdigit() and len(text) < MOST_DIGITS for text in texts):
        raise ValueError("sizes are numbers of bytes, with commas between them")
    ends = list(itertools.accumulate(map(int, texts)))
    if ends[-1] != len(data):
        raise ValueError(f"sizes add up to {ends[-1]:,} bytes, the body has {len(data):,}")
    return [data[start:end] for start, end in itertools.pairwise([0, *ends])]


def _json(value: Any) -> tuple[bytes, str]:
    return json.dumps(value).encode(), "application/json"
