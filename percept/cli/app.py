"""``percept app``: serve the rating app."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from urllib.parse import quote

from percept import bundle
from percept.errors import InputError, Interrupted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--db", required=True, metavar="URL", help="database with the studies, or an SQLite file"
    )
    parser.add_argument(
        "--port", type=int, default=8501, help="port to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--host",
        default="localhost",
        help="address to listen on; 0.0.0.0 lets other machines in (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from percept.store import open_store

    with open_store(args.db) as store:
        studies = store.studies()
        simulated = {one.name for one in studies if store.observers(one)["simulated"].any()}
    _check_address(args.host, args.port)
    token = _admin_token()
    settings = {
        "PERCEPT_DB": args.db,
        "PERCEPT_HOST": args.host,
        "PERCEPT_PORT": str(args.port),
        "PERCEPT_ADMIN_TOKEN": token,
    }
    server = subprocess.Popen(
        [bundle.python(), "-m", "app.server"],
        env=bundle.child_environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # Streamlit's own greeting; errors go to stderr
    )
    # A service manager stops with SIGTERM what a person stops with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    base = f"http://{'localhost' if args.host in ('0.0.0.0', '::') else args.host}:{args.port}"  # noqa: S104
    try:
        _wait(server, f"{base}/healthz")
        print("The rating app is running. Ctrl-C stops it; answers are saved as they come.\n")
        if not studies:
            print("There is no study yet; `percept study create` makes one.")
        for study in studies:
            if study.name in simulated:
                print(f"  simulated  {study.name}: see it on the admin page")
            else:
                state = "" if study.state == "open" else f" ({study.state})"
                print(f"  observers  {base}/?study={quote(study.name)}{state}")
        print(f"  admin      {base}/admin?token={quote(token)}\n", flush=True)
        if server.wait() != 0:
            raise Interrupted(f"the server stopped with status {server.returncode}")
    except KeyboardInterrupt:
        print("Stopped.")
    finally:
        _stop(server)
    return 0


def _admin_token() -> str:
    """Take the token from the environment, or make one for this start."""
    token = os.environ.get("PERCEPT_ADMIN_TOKEN") or secrets.token_urlsafe(24)
    if len(token) < 16:
        raise InputError(
            f"too short to be safe: {len(token)} characters",
            key="PERCEPT_ADMIN_TOKEN",
            remedy="Use at least 16 random ones, such as those of `openssl rand -base64 24`",
        )
    return token


def _check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, before anything starts."""
    if not 1 <= port <= 65535:
        raise InputError("not a port", key="--port", value=port, remedy="Use 1 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            if os.name != "nt":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on this address: {getattr(error, 'strerror', None) or error}",
            key="--port",
            value=f"{host}:{port}",
            remedy="Choose another --port, or stop the program that uses it",
        ) from error


def _wait(server: subprocess.Popen[bytes], url: str) -> None:
    """Wait until the server answers."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own http address
                return
        except urllib.error.HTTPError:
            return  # it answers; what is wrong it says on every page
        except OSError:
            time.sleep(0.1)
    raise Interrupted(f"the server did not start (status {server.returncode})")


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
