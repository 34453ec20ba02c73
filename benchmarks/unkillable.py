"""Kill `percept infer` with SIGKILL at random moments, and compare what comes out.

    python benchmarks/unkillable.py --kills 20 --seed 0

Every time, two workers are started with the same command and run until a random number of items
is in the journal; then one worker, or all of them, or the command itself is killed. At the end
the run is finished and compared, byte for byte, with one that nothing happened to. Printed is one
JSON object: how many items were computed, and how many of them had been in flight at a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests" / "inference")]
from inference_samples import contents, write_checkpoint, write_manifest  # noqa: E402

from percept import bundle  # noqa: E402

COUNTING = """
import os
import time
from pathlib import Path
from percept.inference.networks import load_checkpoint

def make(device, checkpoint, log):
    network, _ = load_checkpoint(checkpoint)
    network = network.to(device)
    def colorize(luminance):
        with open(log, "ab") as stream:
            stream.write(b"x")
        time.sleep(0.05)  # long enough for the kill to find it at work
        return network(luminance)
    colorize.max_side, colorize.divisor = 96, 4
    return colorize
"""


def workers(command: int) -> list[int]:
    """Child processes of the command."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == command:
            found.append(int(stat.parent.name))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        manifest = write_manifest(
            home / "photos", [(60 + i % 7, 50 + i % 5) for i in range(args.photos)]
        )
        checkpoint = write_checkpoint(home / "net")
        (home / "counting.py").write_text(COUNTING)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")])

        log = home / "calls"
        log.touch()
        spec = f"net=plugin:counting:make?checkpoint={checkpoint}&log={log}"
        words = [sys.executable, "-m", "percept", "infer", str(manifest), "--nproc", "2"]
        words += ["--condition", spec, "gray=gray", "--out"]
        environment = bundle.child_environment({"OMP_NUM_THREADS": "1"})

        def finish(out: Path) -> None:
            subprocess.run([*words, str(out)], env=environment, check=True, capture_output=True)

        def journalled(out: Path) -> int:
            return sum(file.read_bytes().count(b"\n") for file in out.glob("journal/*.jsonl"))

        finish(home / "undisturbed")
        items = 2 * args.photos
        log.write_bytes(b"")
        out = home / "run"
        victims = []
        for kill in range(args.kills):
            moment = min(items - 1, (kill + 1) * items // (args.kills + 1) + rng.randint(-2, 2))
            command = subprocess.Popen([*words, str(out)], env=environment, stderr=subprocess.PIPE)
            while command.poll() is None and journalled(out) < moment:
                time.sleep(0.0005)
            time.sleep(rng.random() * 0.01)
            children, victim = workers(command.pid), rng.choice(["worker", "all", "command"])
            targets = {
                "worker": children[:1] if rng.random() < 0.5 else children[1:],
                "all": [*children, command.pid],
                "command": [command.pid],
            }[victim]
            victims.append(victim if command.poll() is None else "nobody: it was done")
            for pid in targets:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            command.communicate()
        finish(out)
        computed = log.stat().st_size
        equal = contents(out) == contents(home / "undisturbed")
        result = {
            "kills": victims,
            "items": items,
            "identical": equal,
            "photographs": args.photos,
            "colorizer_calls": computed,
            "twice_per_kill": round((computed - args.photos) / args.kills, 2),
        }
        print(json.dumps(result, indent=2))
        sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
