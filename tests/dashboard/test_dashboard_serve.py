"""The live pages: only this machine, only reading, only three paths."""

import http.client
import socket
import struct
import threading

import pytest

from autotune import UserError
from autotune.commands.errors import one_line
from autotune.dashboard.serve import Server
from tuning_db.errors import DatabaseError


class Source:
    """What a server gives out; counts how often it was made."""

    def __init__(self) -> None:
        self.state, self.built, self.error = 1, 0, None

    def build(self) -> str:
        self.built += 1
        if self.error:
            raise self.error
        return f"<p>{self.state}</p>"


@pytest.fixture
def served():
    source = Source()
    with Server(0, source.build, lambda: source.state, one_line) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield source, server.server_address[1]
        server.shutdown()
        thread.join()


def ask(port: int, method: str = "GET", path: str = "/", host: str | None = None, body: str | None = None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {} if host is None else {"Host": host}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def test_the_page_is_made_again_only_when_something_changed(served):
    source, port = served
    answer, text = ask(port)
    assert (answer.status, text, answer.getheader("Cache-Control")) == (200, "<p>1</p>", "no-store")
    ask(port)
    before = ask(port, path="/version")[1]
    assert source.built == 1
    source.state = 2
    assert ask(port, path="/version")[1] != before and ask(port)[1] == "<p>2</p>" and source.built == 2


def test_head_has_no_body(served):
    answer, text = ask(served[1], "HEAD")
    assert answer.status == 200 and text == "" and answer.getheader("Content-Length") == "8"


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "MKCOL", "WHATEVER"]
)
def test_nothing_writes(served, method):
    answer, text = ask(served[1], method, body="x=1")
    assert answer.status == 405 and answer.getheader("Allow") == "GET, HEAD" and text.count("\n") == 1
    assert served[0].built == 0


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/../etc/passwd",
        "//etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/?x",
        "/index.html",
        "http://x/",
        "*",
    ],
)
def test_there_is_no_other_path(served, path):
    answer, text = ask(served[1], path=path)
    assert answer.status == (403 if path.startswith("http") else 404) and "root:" not in text and served[0].built == 0


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", ""]
)
def test_other_names_are_refused(served, host):
    answer, text = ask(served[1], host=host.format(port=served[1]))
    assert answer.status == 403 and text.count("\n") == 1 and served[0].built == 0


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}"])
def test_loopback_names_are_answered(served, host):
    assert ask(served[1], host=host.format(port=served[1]))[0].status == 200


def test_two_hosts_are_refused(served):
    with socket.create_connection(("127.0.0.1", served[1]), timeout=10) as raw:
        raw.sendall(
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{served[1]}\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode()
        )
        assert b"403" in raw.recv(4096)


def test_only_the_loopback_address_listens(served):
    with Server(0, lambda: "", lambda: 0, one_line) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_an_error_is_one_line_and_the_next_reader_is_served(served):
    source, port = served
    source.error = DatabaseError("tuning database x is damaged (y); move it away")
    answer, text = ask(port)
    assert answer.status == 503 and text == "tuning database x is damaged (y); move it away\n"
    source.error = RuntimeError("secret")
    assert ask(port)[1] == "a bug of autotune: RuntimeError\n"
    source.error = None
    assert ask(port)[0].status == 200


def test_a_port_in_use_is_one_line():
    with (
        Server(0, lambda: "", lambda: 0, one_line) as server,
        pytest.raises(UserError, match="choose another with --port"),
    ):
        Server(server.server_address[1], lambda: "", lambda: 0, one_line)


def test_a_reset_connection_is_silent(served, capfd):
    _, port = served
    for request in (b"GET / HTTP/1.1\r\nHost: ", b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port):
        reader = socket.create_connection(("127.0.0.1", port))
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing sends a reset
        reader.sendall(request)
        reader.close()
    assert ask(port, path="/health")[1] == "ok\n"
    assert capfd.readouterr().err == ""
