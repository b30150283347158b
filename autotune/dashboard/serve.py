"""Serves the live page, read-only, on this machine's loopback address.

Python's own http.server is enough for one reader: three paths, GET and HEAD. The Host header must name the loopback
address, so that another site cannot reach the page through a name of its own (DNS rebinding). No path is ever looked up
on disk.
"""

import hashlib
import ipaddress
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from autotune import UserError

HOST = "127.0.0.1"
PAGE, VERSION, HEALTH = "/", "/version", "/health"


class Server(ThreadingHTTPServer):
    """build: makes the page; state: a value that changes when the page would; explain: an error in one line, None for
    a bug of ours."""

    daemon_threads = True

    def __init__(
        self,
        port: int,
        build: Callable[[], str],
        state: Callable[[], object],
        explain: Callable[[Exception], str | None],
    ) -> None:
        self._build, self._state, self.explain = build, state, explain
        self._lock = threading.Lock()
        self._made: tuple[object, bytes] | None = None
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used ({error.strerror or error}); choose another with --port"
            ) from None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"

    def version(self) -> str:
        return hashlib.sha256(repr(self._state()).encode()).hexdigest()[:16]

    def page(self) -> bytes:
        """Made anew only when the state has changed; asked by several threads, made by one."""
        with self._lock:
            version = self.version()
            if self._made is None or self._made[0] != version:
                self._made = (version, self._build().encode())
            return self._made[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that resets its connection, or is silent for too long, is no error of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "autotune", ""
    timeout = 30  # seconds until a silent connection is closed

    def do_GET(self) -> None:
        if not self._for_us():
            return self._answer(HTTPStatus.FORBIDDEN, "this server answers only under the loopback address\n")
        try:
            if self.path == PAGE:
                return self._answer(HTTPStatus.OK, self.server.page(), "text/html; charset=utf-8")
            if self.path == VERSION:
                return self._answer(HTTPStatus.OK, self.server.version())
            if self.path == HEALTH:
                return self._answer(HTTPStatus.OK, "ok\n")
            self._answer(HTTPStatus.NOT_FOUND, "there is only /\n")
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the reader has gone
        except Exception as error:
            text = self.server.explain(error) or f"a bug of autotune: {type(error).__name__}"
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{text}\n")

    do_HEAD = do_GET

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # every other method, known or invented
            return self._refuse
        raise AttributeError(name)

    def _refuse(self) -> None:
        self.close_connection = True  # its body is not read
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "this server only reads\n", allow=True)

    def _for_us(self) -> bool:
        hosts = self.headers.get_all("Host") or []
        name, _, port = (hosts[0] if len(hosts) == 1 else "").rpartition(":")
        if port != str(self.server.server_address[1]):
            return False
        if name == "localhost":
            return True
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return False

    def _answer(
        self, status: HTTPStatus, body: str | bytes, kind: str = "text/plain; charset=utf-8", allow: bool = False
    ) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        if allow:
            self.send_header("Allow", "GET, HEAD")
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(data))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """No log of requests."""
