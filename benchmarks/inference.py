"""percept infer beside what one would use instead, on the same model and photographs.

    python -m venv peers && peers/bin/pip install . accelerate lightning "ray[data]"
    peers/bin/python benchmarks/inference.py --photos 12 --rounds 3 --sets equal --json out.json

Peers that are not installed are left out, and named. Each peer does the same work in the same
number of processes with one compute thread each: read a photograph, colour it at the network's
size, bring the chroma to full size on the photograph's own luminance, write a PNG. Peers use
Pillow's decoder and its PNG at level 1, and percept's colour conversion. Rounds are interleaved;
reported is the median, over the rounds, of each peer's time against percept's in that round.
Timed is the whole command, start of the processes included.

Sets: `equal` (512×512), `mixed` (0.1 to --largest megapixels, log-uniform).
Also reported is `bare`: the network alone over the same tensors in one process, whose time is
what no runner can undercut; the overhead is percept's work (without the start) against it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from percept import bundle
from percept.inference import color
from percept.inference.colorizer import Source
from percept.inference.heap import keep_memory
from percept.inference.networks import build_network, load_checkpoint, save_checkpoint
from percept.inference.plan import fit, unfit
from percept.inference.run import Condition
from percept.manifest import load_rgb

PEERS = {"hand": None, "accelerate": "accelerate", "lightning": "lightning", "ray": "ray"}


# -- the work of one photograph, as a peer does it ------------------------------------------------


class Colour:
    def __init__(self, checkpoint: str) -> None:
        torch.set_num_threads(1)
        network, config = load_checkpoint(checkpoint)
        side = config["input"]["max_side"]
        condition = Condition("net", checkpoint)
        self.source = Source(condition, network, max_side=side, divisor=network.divisor)

    def load(self, file: str) -> tuple[np.ndarray, torch.Tensor]:
        rgb = load_rgb(file)
        return rgb, fit(rgb, self.source)

    def save(self, rgb: np.ndarray, output: torch.Tensor, file: str) -> None:
        height, width = rgb.shape[:2]
        values = unfit(output, self.source, width, height, slice(0, height))
        picture = color.to_srgb(color.luminance(rgb), values)
        Image.fromarray(picture).save(file, "PNG", compress_level=1)

    @torch.inference_mode()
    def __call__(self, file: str, out: str) -> None:
        rgb, small = self.load(file)
        self.save(rgb, self.source.colorize(small)[0], out)


def photographs(manifest: str) -> list[str]:
    table = pd.read_csv(manifest)
    return [str(Path(manifest).parent / path) for path in table["path"]]


def target(out: str, file: str) -> str:
    return str(Path(out) / f"{Path(file).stem}.png")


def hand(manifest: str, checkpoint: str, out: str, world: int) -> None:
    """The loop of a good engineer: rank r does every world-th photograph."""
    rank, colour = int(os.environ["RANK"]), Colour(checkpoint)
    for file in photographs(manifest)[rank::world]:
        colour(file, target(out, file))


def accelerate(manifest: str, checkpoint: str, out: str, world: int) -> None:
    from accelerate import PartialState

    state, colour = PartialState(cpu=True), Colour(checkpoint)
    with state.split_between_processes(photographs(manifest)) as mine:
        for file in mine:
            colour(file, target(out, file))


def lightning(manifest: str, checkpoint: str, out: str, world: int) -> None:
    import lightning
    from torch.utils.data import DataLoader

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.colour = Colour(checkpoint)
            self.network = self.colour.source.colorize

        def predict_step(self, batch: list[str], index: int) -> None:
            self.colour(batch[0], target(out, batch[0]))

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    files = DataLoader(photographs(manifest), batch_size=1)
    trainer.predict(Module(), files, return_predictions=False)


def ray(manifest: str, checkpoint: str, out: str, world: int) -> None:
    import ray as library

    class Actor:
        def __init__(self) -> None:
            self.colour = Colour(checkpoint)

        def __call__(self, batch: dict) -> dict:
            for file in batch["file"]:
                self.colour(str(file), target(out, str(file)))
            return {"done": np.ones(len(batch["file"]))}

    library.init(num_cpus=world + 1, log_to_driver=False)  # one reads
    rows = library.data.from_items([{"file": file} for file in photographs(manifest)])
    work = rows.repartition(4 * world).map_batches(Actor, batch_size=1, concurrency=world)
    work.materialize()


# -- timing --------------------------------------------------------------------------------------


def make_set(folder: Path, kind: str, photos: int, largest: float) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for index in range(photos):
        if kind == "equal":
            width = height = 512
        else:
            pixels = 1e6 * math.exp(rng.uniform(math.log(0.1), math.log(largest)))
            ratio = rng.uniform(0.7, 1.5)
            width, height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = rng.integers(-8, 9, (height, width, 1))
        file = folder / f"p{index}.jpg"
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(file, quality=92)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        rows.append((f"p{index}", file.name, digest, width, height))
    columns = ["content_id", "path", "sha256", "width", "height"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    return bundle.child_environment({"OMP_NUM_THREADS": "1", **(extra or {})})


def time_percept(manifest: Path, checkpoint: Path, out: Path, world: int) -> tuple[float, float]:
    words = ["infer", str(manifest), "--condition", f"net={checkpoint}", "--out", str(out)]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "percept", *words, "--fresh", "--nproc", str(world)],
        env=environment(),
        check=True,
        capture_output=True,
    )
    seconds = time.perf_counter() - start
    ranks = json.loads((out / "run.json").read_text())["sessions"][-1]["ranks"]
    return seconds, max(sum(times.values()) for times in ranks)


def time_peer(peer: str, manifest: Path, checkpoint: Path, out: Path, world: int) -> float:
    out.mkdir(exist_ok=True)
    words = [__file__, "--peer", peer, str(manifest), str(checkpoint), str(out), str(world)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    prefix = torchrun if peer in {"hand", "accelerate"} else []
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *prefix, *words],
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - start


@torch.inference_mode()
def time_bare(manifest: Path, checkpoint: Path) -> float:
    keep_memory()  # as percept does, or it would be slower than percept
    colour = Colour(str(checkpoint))
    tensors = [colour.load(file)[1] for file in photographs(str(manifest))]
    start = time.perf_counter()
    for tensor in tensors:
        colour.source.colorize(tensor)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--peer", nargs=5, help=argparse.SUPPRESS)
    add("--photos", type=int, default=16)
    add("--rounds", type=int, default=3)
    add("--world", type=int, default=2)
    add("--side", type=int, default=512, help="largest side that the network sees")
    add("--width", type=int, default=32, help="of the network")
    add("--largest", type=float, default=50.0, help="megapixels of the largest mixed photograph")
    add("--sets", nargs="+", choices=("equal", "mixed"), default=["equal", "mixed"], help="(both)")
    add("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), help="which (all)")
    add("--json")
    args = parser.parse_args()
    if args.peer:
        peer, manifest, checkpoint, out, world = args.peer
        {"hand": hand, "accelerate": accelerate, "lightning": lightning, "ray": ray}[peer](
            manifest, checkpoint, out, int(world)
        )
        return
    present = []
    for peer in args.peers:
        package = PEERS[peer]
        if package is None or importlib.util.find_spec(package):
            present.append(peer)
        else:
            print(f"{peer}: not installed, left out", file=sys.stderr)
    results: dict[str, object] = {"world": args.world, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        torch.manual_seed(0)
        arguments = {"width": args.width}
        checkpoint = home / "net"
        network = {"name": "unet", "arguments": arguments}
        config = {"network": network, "input": {"max_side": args.side}}
        save_checkpoint(checkpoint, build_network("unet", arguments), config)
        for kind in args.sets:
            manifest = make_set(home / kind, kind, args.photos, args.largest)
            table = pd.read_csv(manifest)
            ratios: dict[str, list[float]] = {peer: [] for peer in present}
            percept_times, overheads = [], []
            for turn in range(args.rounds):
                seconds, _ = time_percept(manifest, checkpoint, home / "run", args.world)
                percept_times.append(seconds)
                for peer in present if turn % 2 == 0 else reversed(present):
                    peer_seconds = time_peer(
                        peer, manifest, checkpoint, home / f"{kind}-{peer}", args.world
                    )
                    ratios[peer].append(peer_seconds / seconds)
                bare = time_bare(manifest, checkpoint)
                _, work = time_percept(manifest, checkpoint, home / "run", 1)
                overheads.append(work / bare - 1)
            results[kind] = {
                "photos": args.photos,
                "megapixels": round(float((table["width"] * table["height"]).sum() / 1e6), 1),
                "percept_seconds": round(float(np.median(percept_times)), 2),
                "percept_is_faster_by": {
                    peer: round(float(np.median(values)), 2) for peer, values in ratios.items()
                },
                "overhead_over_bare_compute": round(float(np.median(overheads)), 3),
            }
    text = json.dumps(results, indent=2)
    print(text)
    if args.json:
        Path(args.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
