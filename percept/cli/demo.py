"""``percept demo``: the whole chain on bundled photographs, by the commands a user would type."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

ARMS = ("baseline", "no-warmup", "compressed")
METHODS = ("pairwise", "artifact")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Age the bundled photographs, train three competing colorizers with DDP, colorize the "
        "photographs that they did not see, compute metrics, create a pairwise and an artifact "
        "study, let simulated observers answer a copy, report on it, and serve the rating app. "
        "What is there already is reused."
    )
    parser.add_argument(
        "dir",
        nargs="?",
        type=Path,
        default=Path("percept-demo"),
        metavar="DIR",
        help="where everything goes (default: %(default)s)",
    )
    parser.add_argument("--no-serve", action="store_true", help="stop before serving the app")
    parser.add_argument(
        "--port", type=int, default=8501, help="port of the rating app (default: %(default)s)"
    )
    parser.add_argument(
        "--nproc",
        type=int,
        default=2,
        help="processes for training, inference and metrics (default: %(default)s)",
    )
    parser.add_argument(
        "--observers",
        type=int,
        default=24,
        help="simulated observers who answer the copy (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from percept import bundle
    from percept.errors import InputError
    from percept.files import check_place

    home: Path = args.dir
    check_place(home, folder=True, key="DIR")
    for name, low in (("nproc", 1), ("observers", 1)):
        if getattr(args, name) < low:
            raise InputError(f"must be at least {low}", key=f"--{name}", value=getattr(args, name))
    home.mkdir(parents=True, exist_ok=True)

    photos, run_dir = home / "photos", home / "run"
    manifest = photos / "manifest.csv"
    checkpoints = {arm: home / "checkpoints" / arm for arm in ARMS}
    database = home / "study.sqlite"
    url = f"sqlite:///{database.resolve()}"
    report = home / "report"
    nproc = str(args.nproc)
    began = time.monotonic()

    chain = _Chain(total=8)
    chain.title("Photographs: age the bundled ones, with exact masks")
    if manifest.exists():
        chain.call("manifest", "check", manifest)
    else:
        bundled = bundle.root() / "data_manifests" / "demo.csv"
        chain.call("manifest", "degrade", bundled, "--out", photos, "--seed", "1")

    chain.title("Training: three competing colorizers, on photographs that no study shows")
    for arm, folder in checkpoints.items():
        chain.call(
            "train", f"demo-{arm}", "--manifest", manifest, "--out", folder, "--nproc", nproc
        )

    chain.title("Inference: every photograph of the study by every condition")
    specs = [f"{arm}={folder}" for arm, folder in checkpoints.items()]
    chain.call(
        "infer", manifest, "--split", "study", "--condition", *specs, "gray=gray",
        "--out", run_dir, "--nproc", nproc,
    )  # fmt: skip

    chain.title("Metrics")
    chain.call(
        "weights", "fetch", "alexnet", may_fail="LPIPS is left out, with the reason in run.json"
    )
    chain.call("metrics", run_dir, "--nproc", nproc)

    chain.title("Studies: one pairwise, one artifact, and a copy of each for simulated observers")
    for method in METHODS:
        for name in (method, f"{method}-simulated"):
            if not _study_exists(url, database, name):
                chain.call(
                    "study", "create", run_dir, "--protocol", method, "--db", url, "--name", name
                )

    chain.title("Simulated observers answer the copies")
    for method in METHODS:
        name = f"{method}-simulated"
        # Fewer: a run that was stopped. Those who answered are left as they are.
        if _observers(url, name) < args.observers:
            chain.call(
                "study", "simulate", "--db", url, "--study", name,
                "--observers", args.observers, "--seed", "1",
            )  # fmt: skip

    chain.title("Report on the answered copies")
    chain.call(
        "report", "--db", url, "--study", "pairwise-simulated", "--study", "artifact-simulated",
        "--run", run_dir, "--out", report,
    )  # fmt: skip

    print(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes.\n")
    for what, path in {
        "photographs": manifest,
        **{f"checkpoint {arm}": folder for arm, folder in checkpoints.items()},
        "run": run_dir,
        "metrics": run_dir / "metrics.parquet",
        "database": database,
        "report": report / "report.html",
    }.items():
        print(f"  {what:24} {path}")

    serve = ["app", "--db", url, "--port", str(args.port)]
    if args.no_serve:
        print(f"\nServe the rating app with:\n  percept {shlex.join(serve)}")
        return 0
    chain.title("Rating app")
    chain.call(*serve)
    return 0


class _Chain:
    """Runs commands one after another, each shown as a user would type it."""

    def __init__(self, total: int) -> None:
        self.step, self.total = 0, total

    def title(self, text: str) -> None:
        self.step += 1
        print(f"\n[{self.step}/{self.total}] {text}", flush=True)

    def call(self, *words: object, may_fail: str | None = None) -> None:
        """Run one command; its failure ends the demo, unless ``may_fail`` says what follows."""
        from percept.cli import main

        argv = [str(word) for word in words]
        print(f"$ percept {shlex.join(argv)}", flush=True)
        code = main(argv)
        if code and may_fail:
            print(f"  {may_fail}")
        elif code:
            raise SystemExit(code)


def _study_exists(url: str, database: Path, name: str) -> bool:
    from percept.store import open_store

    if not database.exists():
        return False
    with open_store(url) as store:
        return name in {study.name for study in store.studies()}


def _observers(url: str, name: str) -> int:
    from percept.store import open_store

    with open_store(url) as store:
        return len(store.observers(store.study(name)))
