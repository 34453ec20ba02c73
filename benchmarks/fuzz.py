"""Send thousands of nearly valid requests to the HTTP interface, and judge what they leave.

    python benchmarks/fuzz.py --requests 5000 --seed 1

No answer may be 5xx, every error must be told as JSON, and nothing may be stored that a protocol
does not allow. Printed is one JSON object: how often each status was answered.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
from anyio.from_thread import start_blocking_portal  # noqa: E402

from percept.store import open_store  # noqa: E402
from percept.study import create_study  # noqa: E402
from tests.app.hostile import attack, judge  # noqa: E402
from tests.app.test_api import STUDIES, Client  # noqa: E402
from tests.tiny_run import make_run  # noqa: E402

FREE = {"requests_per_second": 1e9, "burst": 10**9, "joins_per_second": 1e9, "joins_burst": 10**9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    names = [name for name, p in STUDIES.items() if not p.invite_only and name != "strict"]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, start_blocking_portal() as portal:
        home = Path(folder)
        run = make_run(home)
        begun = time.monotonic()
        with open_store(home / "study.db", create=True) as store:
            for name in names:
                create_study(run, STUDIES[name], store, name)
            client = Client(portal, store, **FREE)
            statuses = attack(client, names, args.requests, start=args.seed)
            rows = judge(store)
    result = {
        "requests": sum(statuses.values()),
        "seconds": round(time.monotonic() - begun, 1),
        "rows_judged": rows,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
