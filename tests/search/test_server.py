"""The page over HTTP: what it answers, and every line of what it must not."""

import contextlib
import http.client
import io
import json
import socket
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from dino_jax.search import serve, server
from dino_jax.search.desk import AT_ONCE, WAITING, Desk
from dino_jax.search.index import open_index
from dino_jax.search.options import SUBCOMMANDS
from dino_jax.search.photos import Photos
from dino_jax.search.server import Server
from dino_jax.weights.model import load
from tests.saved_model import save_tiny_vit
from tests.search.photos import run, save_photos, save_table


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    workdir = save_tiny_vit(tmp_path_factory.mktemp("run"), width=24)
    names = save_photos(folder / "photos")
    (folder / "photos" / "<img src=x onerror=alert(1)>.png").write_bytes(
        (folder / "photos" / names[0]).read_bytes()
    )
    table = save_table(folder / "table.csv", names)
    options = (f"--metadata={table}", "--batch-size=8")
    assert run("build", folder / "i", workdir, folder / "photos", *options) == 0
    return folder, workdir


@pytest.fixture(scope="module")
def desk(place):
    folder, workdir = place
    index = open_index(folder / "i")
    return Desk(index, load(workdir), Photos(str(folder / "photos")), 10**8)


@contextlib.contextmanager
def serving(desk, host="127.0.0.1", token=""):
    with Server(host, 0, desk, token) as page:
        thread = threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield page
        finally:
            page.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def page(desk):
    with serving(desk) as found:
        yield found


class Answer:
    """A response that was read."""

    def __init__(self, response):
        self.status, self.headers = response.status, response.headers
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)


def ask(page, path, body=None, method=None, **headers) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=30)
    with contextlib.closing(connection):
        method = method or ("GET" if body is None else "POST")
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, headers)
        return Answer(connection.getresponse())


def raw(page, data: bytes) -> bytes:
    """What comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", page.server_port), timeout=30) as connection:
        connection.sendall(data)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
        return received


def upload(place, name="p3-1.png") -> bytes:
    return (place[0] / "photos" / name).read_bytes()


def test_an_upload_finds_itself_with_filters_and_groups(page, place):
    found = ask(page, "/search?k=5", upload(place))
    assert found.status == 200 and found.json["proven"]
    assert found.json["hits"][0]["name"] == "p3-1.png" and len(found.json["hits"]) == 5
    assert found.json["hits"][0]["values"] == {"sku": "p3", "price": "30"}
    narrowed = ask(page, "/search?k=50&where=price%3C20%0Aprice%3E0&group=sku", upload(place))
    assert [hit["group"] for hit in narrowed.json["hits"]] == ["p1"]


def test_a_box_of_an_upload_is_what_is_searched(page, place, desk):
    found = ask(page, "/search?k=3&box=4,4,40,30", upload(place)).json
    pixels = np.array(Image.open(io.BytesIO(upload(place))))[4:30, 4:40]
    wanted = desk._index.search(desk._embed([pixels])[0], 3)
    assert [hit["row"] for hit in found["hits"]] == wanted.rows.tolist()


def test_more_like_a_row_leaves_the_row_out(page):
    found = ask(page, "/like?row=4&k=100").json
    assert len(found["hits"]) == 18 and 4 not in [hit["row"] for hit in found["hits"]]


def test_photos_leave_as_new_jpegs(page, place):
    found = ask(page, "/photo?row=2")
    assert found.headers["Content-Type"] == "image/jpeg" and found.body[:3] == b"\xff\xd8\xff"
    with Image.open(io.BytesIO(found.body)) as image:
        assert image.size == (48, 48) and not image.getexif()


@pytest.mark.parametrize("path", ["/why?row=3", "/why?row=3&box=0,0,40,40"])
def test_why_shows_both_photos(page, place, path):
    for found in (ask(page, path, upload(place)), ask(page, f"{path}&query=5")):
        assert found.status == 200
        with Image.open(io.BytesIO(found.body)) as image:
            assert image.width > 2 * image.height - 10 > 100


def test_the_page_is_whole_and_offline(page):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "javascript")):
        found = ask(page, path)
        assert found.status == 200 and kind in found.headers["Content-Type"]
        assert b"http://" not in found.body and b"https://" not in found.body
        assert b"innerHTML" not in found.body and b"style=" not in found.body
    assert ask(page, "/icon").status == 200
    assert ask(page, "/info").json["columns"] == ["name", "label", "sku", "price"]


@pytest.mark.parametrize("path", ["/", "/page.js", "/info", "/photo?row=0", "/nothing"])
def test_every_answer_carries_the_policy(page, path):
    headers = ask(page, path).headers
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; img-src 'self' blob:; script-src 'self'; style-src 'self'; "
        "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    )
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_several_photos_of_one_thing_are_their_mean(page, place):
    names = ["p3-0.png", "p3-1.png", "p4-2.png"]
    files = [upload(place, name) for name in names]
    sizes = ",".join(str(len(file)) for file in files)
    index = open_index(place[0] / "i")
    rows = [index.find(name) for name in names]
    wanted = index.search(np.mean(index.vectors(rows).astype(np.float64), axis=0), 18)
    found = ask(page, f"/search?k=18&sizes={sizes}", b"".join(files)).json["hits"]
    assert [hit["row"] for hit in found[:6]] == wanted.rows[:6].tolist()
    np.testing.assert_allclose([hit["score"] for hit in found], wanted.scores, atol=1e-3)
    # Rows of the index are no answers themselves, alone and beside files.
    mixed = ask(page, f"/search?k=50&rows={rows[1]},{rows[2]}", files[0]).json["hits"]
    alone = ask(page, f"/like?k=50&row={rows[0]}&rows={rows[1]},{rows[2]}").json["hits"]
    for hits, left_out in ((mixed, set(rows[1:])), (alone, set(rows))):
        assert len(hits) == 19 - len(left_out) and not left_out & {hit["row"] for hit in hits}
        scores = dict(zip(wanted.rows, wanted.scores, strict=True))
        for hit in hits:
            if hit["row"] in scores:
                assert abs(hit["score"] - scores[hit["row"]]) < 1e-3


@pytest.mark.parametrize(
    ("question", "status"),
    [
        ("sizes=5", 400),
        ("sizes=-5,9", 400),
        ("sizes=x", 400),
        ("rows=99", 404),
        ("rows=-1", 404),
        ("rows=1,", 404),
        ("rows=1&box=0,0,9,9", 400),
        ("rows=" + ",".join("12345678"), 400),
    ],
)
def test_wrong_parts_of_a_question_are_refused(page, place, question, status):
    found = ask(page, f"/search?{question}", upload(place))
    assert found.status == status and found.json["error"]


@pytest.mark.parametrize("name", ["evil.example", "evil.example:80", "127.0.0.1", "", "[::1"])
def test_another_name_of_the_server_is_refused(page, name):
    assert ask(page, "/info", Host=name).status == 403


def test_its_own_names_are_taken(page):
    for name in ("localhost", "127.0.0.1"):
        assert ask(page, "/info", Host=f"{name}:{page.server_port}").status == 200


def test_a_page_of_another_site_is_refused(page, place):
    own = f"http://127.0.0.1:{page.server_port}"
    assert ask(page, "/info", Origin=own).status == 200
    for origin in ("http://evil.example", "null", own.replace("http", "https")):
        assert ask(page, "/search", upload(place), Origin=origin).status == 403


def test_an_upload_needs_its_length(page):
    host = f"Host: 127.0.0.1:{page.server_port}\r\n".encode()
    line = b"POST /search HTTP/1.1\r\n" + host
    assert b" 411 " in raw(page, line + b"\r\n").splitlines()[0]
    chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    assert b" 411 " in raw(page, line + chunked).splitlines()[0]
    for wrong in (b"-5", b"x", b"0" * 20 + b"5"):
        answer = raw(page, line + b"Content-Length: " + wrong + b"\r\n\r\nhello")
        assert b" 400 " in answer.splitlines()[0] and answer.count(b"HTTP/1.1") == 1


def test_the_body_of_a_get_is_not_taken_for_a_request(page):
    host = f"Host: 127.0.0.1:{page.server_port}\r\n".encode()
    inner = b"GET /info HTTP/1.1\r\n" + host + b"\r\n"
    length = f"Content-Length: {len(inner)}\r\n\r\n".encode()
    assert raw(page, b"GET /info HTTP/1.1\r\n" + host + length + inner).count(b"HTTP/1.1") == 1


def test_too_large_an_upload_is_refused_before_it_is_read(page):
    line = f"POST /search HTTP/1.1\r\nHost: 127.0.0.1:{page.server_port}\r\n"
    answer = raw(page, (line + "Content-Length: 20000001\r\n\r\n").encode())
    assert b" 413 " in answer.splitlines()[0] and b"at most 20 MB" in answer


def huge_png(side: int) -> bytes:
    """A small file of side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    row = zlib.compress(bytes(side + 1))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("data", [huge_png(15_000), b"", b"no image", b"<svg onload='x()'/>"])
def test_what_is_no_image_is_refused_without_being_decoded(page, data):
    found = ask(page, "/search", data)
    assert found.status == 400 and "not an image" in found.json["error"]


@pytest.mark.parametrize("row", ["-1", "99", "x", "", "1e3", "../../etc/passwd", "٣", "9" * 30])
def test_photos_are_had_by_row_only(page, row):
    connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=30)
    with contextlib.closing(connection):
        from urllib.parse import quote

        connection.request("GET", f"/photo?row={quote(row)}")
        assert connection.getresponse().status == 404
    assert ask(page, "/photo?name=p0-0.png").status == 404


@pytest.mark.parametrize(
    "path", ["/photos/p0-0.png", "/../setup.py", "/page.html", "/%2e%2e/x", "//evil.example/"]
)
def test_no_path_reaches_a_file(page, path):
    assert ask(page, path).status == 404


def test_a_name_outside_of_the_folder_is_no_photo(tmp_path):
    save_photos(tmp_path / "photos")
    (tmp_path / "secret.png").write_bytes((tmp_path / "photos/p0-0.png").read_bytes())
    (tmp_path / "photos/link.png").symlink_to(tmp_path / "secret.png")
    photos = Photos(str(tmp_path / "photos"))
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "."):
        with pytest.raises(ValueError, match="is not in"):
            photos.path(name)
    assert photos.read("p0-0.png").shape == (48, 48, 3)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS", "X"])
def test_other_methods_are_refused_in_the_same_form(page, method):
    found = ask(page, "/", method=method)
    assert found.status == 501
    assert "default-src 'none'" in found.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "question",
    ["k=0", "k=x", "k=9999", "where=price", "group=no", "box=1,2", "box=0,0,999,9", "where=no%3D1"],
)
def test_wrong_questions_are_400_with_a_reason(page, place, question):
    found = ask(page, f"/search?{question}", upload(place))
    assert found.status == 400 and found.json["error"]


def test_an_unexpected_error_is_500_with_a_number_that_the_log_has(
    page, place, desk, monkeypatch, capsys
):
    def broken(*_):
        raise KeyError("secret")

    monkeypatch.setattr(desk, "search_upload", broken)
    found = ask(page, "/search", upload(place))
    assert found.status == 500 and "secret" not in found.json["error"]
    number = found.json["error"].split()[-1]
    log = capsys.readouterr().err
    assert f"error {number}" in log and "KeyError: 'secret'" in log
    assert ask(page, "/info").status == 200


def test_sixteen_clients_at_once_are_all_answered(page, place):
    answers: list[int] = []

    def client() -> None:
        for _ in range(3):
            answers.append(ask(page, "/search?k=3", upload(place)).status)

    threads = [threading.Thread(target=client) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 48


def test_more_uploads_than_may_wait_are_503(page, place, desk):
    statuses: list[int] = []
    with desk._turn:
        threads = [
            threading.Thread(
                target=lambda: statuses.append(ask(page, "/search", upload(place)).status)
            )
            for _ in range(AT_ONCE + WAITING)
        ]
        for thread in threads:
            thread.start()
        while desk._inside < AT_ONCE + WAITING:
            time.sleep(0.01)
        refused = ask(page, "/search", upload(place))
        assert refused.status == 503 and "try again" in refused.json["error"]
        assert ask(page, "/like?row=1").status == 200  # needs no network
    for thread in threads:
        thread.join()
    assert statuses == [200] * (AT_ONCE + WAITING)


def test_silent_connections_hold_nobody_up_and_are_closed(desk, monkeypatch):
    assert server.SILENT_SECONDS == 10 and server.Handler.timeout == 10
    monkeypatch.setattr(server.Handler, "timeout", 0.5)
    with serving(desk) as page:
        address = ("127.0.0.1", page.server_port)
        silent = [socket.create_connection(address, timeout=30) for _ in range(200)]
        assert ask(page, "/info").status == 200
        assert all(one.recv(1) == b"" for one in silent)
        for one in silent:
            one.close()


def test_the_queue_of_connections_is_long():
    assert Server.request_queue_size == 128 and Server.daemon_threads


def arguments_of(*options: str):
    import argparse

    parser = argparse.ArgumentParser()
    SUBCOMMANDS["serve"].add(parser)
    return parser.parse_args(["i", *options])


def test_it_listens_to_this_machine_unless_a_token_is_asked_for():
    assert arguments_of().host == "127.0.0.1"
    with pytest.raises(ValueError, match=r"shows the page, and all photos.*--token=new"):
        serve.open_server(arguments_of("--host=0.0.0.0"))


def test_with_a_token_only_its_link_opens_the_page(desk):
    with serving(desk, host="0.0.0.0", token="s3cret") as page:
        assert page.link.endswith(f":{page.server_port}/?token=s3cret")
        assert ask(page, "/").status == 403 and ask(page, "/?token=wrong").status == 403
        opened = ask(page, "/?token=s3cret")
        cookie = opened.headers["Set-Cookie"]
        assert opened.status == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert ask(page, "/info").status == 403
        assert ask(page, "/info", Cookie=cookie.partition(";")[0]).status == 200
        given = cookie.partition(";")[0]
        assert ask(page, "/info", Cookie=given, Host="evil.example:80").status == 403


def test_a_port_that_is_taken_is_said(page, place):
    folder, workdir = place
    arguments = arguments_of(f"--port={page.server_port}", f"--model={workdir}")
    arguments.index = str(folder / "i")
    with pytest.raises(OSError, match="take another --port"):
        serve.open_server(arguments)
