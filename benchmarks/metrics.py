"""Metrics beside their peers: same images, same run, interleaved, CPU time of one thread.

    python benchmarks/metrics.py [--repeats N] [--size HEIGHT WIDTH] [--json FILE]

All start from what a user holds, 8-bit RGB arrays, and end at the same number (or the difference
is shown). "pair" is one output against its reference; "photograph" six outputs of one photograph,
where ours converts the reference once and peers cannot. A peer that is not installed is skipped,
and the output says so: pip install piq torchmetrics. Weights: percept weights fetch.
"""

# ruff: noqa: E402  (threads and the path are set before anything is imported)
from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # statistics.py here hides another

for variable in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{variable}_NUM_THREADS"] = "1"

import argparse
import importlib
import json
import platform
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from percept.metrics.color import Images, Picture
from percept.metrics.registry import METRICS
from percept.metrics.weights import weights_info

Pixels = np.ndarray
Peer = Callable[[Pixels, Pixels], float]
OUTPUTS = 6


def planes(image: Pixels) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def peers() -> dict[str, dict[str, Peer]]:
    """Of each metric, the peers that compute it, those that are there."""
    found: dict[str, dict[str, Peer]] = {}

    def add(module: str, metric: str, make: Callable[[Any], Peer]) -> None:
        try:
            peer = importlib.import_module(module)
        except ImportError:
            print(f"{module} is not there: its {metric} is skipped")
            return
        found.setdefault(metric, {})[module.split(".")[0]] = make(peer)

    def both(function: Callable[..., Any], **settings: Any) -> Peer:
        return lambda x, y: float(function(planes(x), planes(y), **settings))

    scikit = {
        "data_range": 1.0, "channel_axis": -1, "gaussian_weights": True, "sigma": 1.5,
        "use_sample_covariance": False,
    }  # fmt: skip
    add("piq", "psnr", lambda m: both(m.psnr, data_range=1.0))
    add("piq", "ssim", lambda m: both(m.ssim, data_range=1.0, downsample=False))
    add("piq", "ms_ssim", lambda m: both(m.multi_scale_ssim, data_range=1.0))
    tm = "torchmetrics.functional.image"
    add(tm, "psnr", lambda m: both(m.peak_signal_noise_ratio, data_range=1.0))
    add(tm, "ssim", lambda m: both(m.structural_similarity_index_measure, data_range=1.0))
    add(
        tm,
        "ms_ssim",
        lambda m: both(m.multiscale_structural_similarity_index_measure, data_range=1.0),
    )
    ski = "skimage.metrics"
    add(ski, "psnr", lambda m: lambda x, y: float(m.peak_signal_noise_ratio(y, x)))
    add(
        ski,
        "ssim",
        lambda m: lambda x, y: float(m.structural_similarity(x / 255, y / 255, **scikit)),
    )
    add(
        "skimage.color",
        "ciede2000",
        lambda m: lambda x, y: float(m.deltaE_ciede2000(m.rgb2lab(x), m.rgb2lab(y)).mean()),
    )
    for metric, net, backbone in (("lpips_alex", "alex", "alexnet"), ("lpips_vgg", "vgg", "vgg16")):
        if weights_info(backbone) is None:
            print(f"no {backbone} weights: {metric} is skipped")
        else:
            add("lpips", metric, lambda m, n=net, b=backbone: lpips_of(m, n, b))
    return found


def lpips_of(module: Any, net: str, backbone: str) -> Peer:
    from percept.metrics.weights import load_backbone

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = module.LPIPS(net=net, pnet_rand=True, verbose=False)
    state = load_backbone(backbone)
    for key, value in model.net.named_parameters():
        value.data.copy_(state[f"features.{key.split('.', 1)[1]}"])

    def compute(x: Pixels, y: Pixels) -> float:
        with torch.inference_mode():
            return float(model(planes(x) * 2 - 1, planes(y) * 2 - 1))

    return compute


def timed(task: Callable[[], Any]) -> float:
    start = time.process_time()
    task()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640))
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    height, width = args.size
    y, x = np.mgrid[:height, :width] / max(height, width)
    smooth = np.stack([np.sin(9 * (x * a + y * b)) for a, b in ((1, 2), (3, -1), (-2, 1))], -1)
    true = (128 + 80 * smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
    outputs = [
        (true * 0.9 + rng.normal(9, 6, true.shape)).clip(0, 255).astype(np.uint8)
        for _ in range(OUTPUTS)
    ]

    def ours(metric: str, some: list[Pixels]) -> list[float]:
        reference = Picture(true)
        return [METRICS[metric].compute(Images(one, reference=reference)) for one in some]

    rows = []
    there = ("numpy", "torch", "scikit-image", "piq", "torchmetrics", "lpips")
    versions = {}
    for name in there:
        try:
            versions[name] = version(name)
        except ImportError:
            continue
    print(f"{platform.processor() or platform.machine()}, {height}×{width}, one thread, {versions}")
    print(
        f"{'metric':12} {'ours/s':>9} {'photograph/s':>13}  peers/s, ratio of CPU time, difference"
    )
    for metric, others in peers().items():
        value = ours(metric, outputs[:1])[0]
        tasks: dict[str, Callable[[], Any]] = {
            "ours": lambda m=metric: ours(m, outputs[:1]),
            "photograph": lambda m=metric: ours(m, outputs),
            **{name: lambda p=peer: p(outputs[0], true) for name, peer in others.items()},
        }
        slowest = max(timed(task) for task in tasks.values())  # what is built once is built now
        times: dict[str, list[float]] = {name: [] for name in tasks}
        for _ in range(args.repeats if slowest < 2 else 2):
            for name, task in tasks.items():
                times[name].append(timed(task))
        cpu = {name: float(np.median(own)) for name, own in times.items()}
        cpu["photograph"] /= OUTPUTS
        told = []
        for name, peer in others.items():
            gap = abs(peer(outputs[0], true) - value)
            told.append(f"{name} {1 / cpu[name]:.1f} ({cpu[name] / cpu['ours']:.2f}×, {gap:.1e})")
            rows.append({"metric": metric, "peer": name, "ours_s": cpu["ours"],
                         "photograph_s": cpu["photograph"], "peer_s": cpu[name],
                         "difference": gap})  # fmt: skip
        print(
            f"{metric:12} {1 / cpu['ours']:9.1f} {1 / cpu['photograph']:13.1f}  {', '.join(told)}"
        )
    if args.json:
        args.json.write_text(json.dumps({"versions": versions, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
