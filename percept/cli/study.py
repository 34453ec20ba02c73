"""``percept study``: create a study, run it, take its votes out or in."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Literal

DB_HELP = "database: sqlite:///FILE, a file name, or postgresql://USER@HOST/NAME"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    create = actions.add_parser(
        "create",
        help="render the display images of a run and create a study",
        description="Render one display image per photograph and condition, and create a study "
        "that shows them. Photographs that a condition was trained on are refused.",
    )
    create.add_argument("run_dir", metavar="RUN", help="run directory made by percept infer")
    create.add_argument(
        "--protocol",
        required=True,
        metavar="FILE",
        help="protocol: a TOML file, or a bundled one by name (pairwise, artifact, rating-acr, "
        "rating-dcr, real-or-fake, review)",
    )
    create.add_argument("--db", required=True, metavar="URL", help=f"{DB_HELP}; made if missing")
    create.add_argument(
        "--name", required=True, help="name of the study; part of the observers' link"
    )
    create.add_argument(
        "--condition",
        dest="conditions",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="compare only these conditions of the run (default: all)",
    )
    create.add_argument(
        "--content",
        dest="contents",
        nargs="+",
        action="extend",
        metavar="ID",
        help="show only these photographs of the run (default: all)",
    )
    create.add_argument(
        "--seed", type=int, default=1, help="seed of all trial lists (default: %(default)s)"
    )
    create.add_argument(
        "--stimuli",
        type=Path,
        metavar="DIR",
        help="folder for the display images (default: beside an SQLite database); with "
        "PostgreSQL, one that every server can read",
    )

    listing = actions.add_parser(
        "list", help="list the studies of a database", description="List the studies of a database."
    )
    listing.add_argument("--db", required=True, metavar="URL", help=DB_HELP)

    status = actions.add_parser(
        "status",
        help="show how far a study is",
        description="Show how far a study is, without telling what people prefer.",
    )
    status.add_argument("--db", required=True, metavar="URL", help=DB_HELP)
    status.add_argument("--study", metavar="NAME", help="name of the study (default: all)")

    for action, told, more in (
        ("open", "let observers join and answer", "Let observers join and answer again."),
        (
            "pause",
            "let nobody join for now",
            "Let nobody join for now; observers who began can finish.",
        ),
        (
            "close",
            "let nobody join or answer",
            "Let nobody join or answer any more; results can be looked at.",
        ),
    ):
        state = actions.add_parser(action, help=told, description=more)
        state.add_argument("--db", required=True, metavar="URL", help=DB_HELP)
        state.add_argument("--study", required=True, metavar="NAME", help="name of the study")

    invite = actions.add_parser(
        "invite",
        help="make, list or revoke invitations",
        description="Make invitations, and print what to add to the observers' link; without "
        "--label, list the invitations of a study.",
    )
    invite.add_argument("--db", required=True, metavar="URL", help=DB_HELP)
    invite.add_argument("--study", required=True, metavar="NAME", help="name of the study")
    invite.add_argument(
        "--label", metavar="TEXT", help="who it is for; stored with the observers who use it"
    )
    invite.add_argument(
        "--group", metavar="NAME", help="group of everyone who uses it (default: observers say)"
    )
    invite.add_argument(
        "--uses",
        type=int,
        default=1,
        metavar="N",
        help="how many people may use it, 0 for any number (default: %(default)s)",
    )
    invite.add_argument(
        "--count",
        type=int,
        default=1,
        metavar="N",
        help="make this many invitations, with numbered labels (default: %(default)s)",
    )
    invite.add_argument("--revoke", metavar="CODE", help="let nobody join by this invitation")

    simulate = actions.add_parser(
        "simulate",
        help="let simulated observers answer a study",
        description="Let simulated observers answer a study that nobody else has joined. They "
        "have tastes of their own, not the metrics, and are marked as simulated everywhere.",
    )
    simulate.add_argument("--db", required=True, metavar="URL", help=DB_HELP)
    simulate.add_argument("--study", required=True, metavar="NAME", help="name of the study")
    simulate.add_argument(
        "--observers", type=int, required=True, metavar="N", help="number of simulated observers"
    )
    simulate.add_argument(
        "--seed", type=int, default=1, help="seed of the observers (default: %(default)s)"
    )
    simulate.add_argument(
        "--types",
        metavar="NAME=SHARE,…",
        help="shares of careful, careless, side (prefers one side or end of the scale) and "
        "colour_blind observers, adding up to 1, such as careful=0.8,careless=0.2; recorded in "
        "the screening facts as simulated_type (default: all careful)",
    )

    export = actions.add_parser(
        "export",
        help="write a study's ratings and all that explains them",
        description="Write a study's ratings, observers, conditions, photographs and protocol, "
        "with a README of the columns.",
    )
    export.add_argument("--db", required=True, metavar="URL", help=DB_HELP)
    export.add_argument("--study", required=True, metavar="NAME", help="name of the study")
    export.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="new or empty folder to write to"
    )
    export.add_argument(
        "--format",
        choices=("csv", "parquet", "json"),
        default="csv",
        help="file format of the tables (default: %(default)s)",
    )

    importing = actions.add_parser(
        "import",
        help="take in votes that were made elsewhere",
        description="Take in votes that were made elsewhere, by a mapping of columns "
        "(docs/import.md). A study that does not exist is made, closed and without images. The "
        "same file twice changes nothing; if any row is wrong, all wrong rows are listed and "
        "nothing is written.",
    )
    importing.add_argument("--db", required=True, metavar="URL", help=f"{DB_HELP}; made if missing")
    importing.add_argument("--study", required=True, metavar="NAME", help="name of the study")
    importing.add_argument(
        "--votes", type=Path, required=True, metavar="FILE", help="CSV or Parquet, a row a vote"
    )
    importing.add_argument(
        "--mapping", type=Path, required=True, metavar="FILE", help="TOML: columns to ours"
    )

    backup = actions.add_parser(
        "backup",
        help="copy a database while it is in use",
        description="Copy an SQLite database while it is in use. The display images lie beside "
        "it and are not in the copy; PostgreSQL has pg_dump.",
    )
    backup.add_argument("--db", required=True, metavar="URL", help=DB_HELP)
    backup.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="new file to write to"
    )

    withdraw = actions.add_parser(
        "withdraw",
        help="erase an observer's answers and personal fields",
        description="Erase an observer's answers and personal fields; the observer's name and the "
        "times of joining and withdrawing stay. Backups and exports made before still hold them: "
        "delete those, or withdraw again after restoring one.",
    )
    withdraw.add_argument("--db", required=True, metavar="URL", help=DB_HELP)
    withdraw.add_argument("--study", required=True, metavar="NAME", help="name of the study")
    withdraw.add_argument(
        "--observer", required=True, metavar="NAME", help="name of the observer, as exported"
    )

    plan = actions.add_parser(
        "plan",
        help="find how many observers a study needs",
        description="Find how many observers a pairwise study needs, by simulating studies that "
        "draw new observers and new photographs and are analysed as the real one will be.",
    )
    plan.add_argument(
        "--protocol",
        required=True,
        metavar="FILE",
        help="pairwise protocol: a TOML file, or a bundled one by name; gives the trials of each "
        "observer and whether there are ties",
    )
    plan.add_argument(
        "--effect",
        type=float,
        metavar="JOD",
        help="difference between the best two conditions that matters, in JOD (1 JOD: 75 %% "
        "prefer the better); default: that of the pilot",
    )
    plan.add_argument(
        "--pilot",
        metavar="URL",
        help="database of a pilot, whose votes give the effect, the deviations and the ties that "
        "are not given here",
    )
    plan.add_argument("--study", metavar="NAME", help="name of the pilot in that database")
    plan.add_argument(
        "--attribute", metavar="NAME", help="question of the pilot (default: its only one)"
    )
    plan.add_argument(
        "--conditions", type=int, default=3, metavar="N", help="conditions (default: %(default)s)"
    )
    plan.add_argument(
        "--contents", type=int, default=20, metavar="N", help="photographs (default: %(default)s)"
    )
    goal = plan.add_mutually_exclusive_group()
    goal.add_argument(
        "--power",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="wanted share of studies that find the effect (default: %(default)s)",
    )
    goal.add_argument(
        "--half-width",
        type=float,
        metavar="JOD",
        help="wanted half-width of the interval of the difference, instead of a power",
    )
    plan.add_argument(
        "--observers",
        type=int,
        nargs=2,
        default=(4, 400),
        metavar=("MIN", "MAX"),
        help="fewest and most observers to try (default: 4 400)",
    )
    plan.add_argument(
        "--ties",
        type=float,
        metavar="SHARE",
        help="share of ties between equals (default: the pilot's, or 0.15 where there are ties)",
    )
    plan.add_argument(
        "--observer-sd",
        type=float,
        metavar="JOD",
        help="standard deviation of the observers' tastes (default: the pilot's, or 0.3)",
    )
    plan.add_argument(
        "--content-sd",
        type=float,
        metavar="JOD",
        help="standard deviation of the photographs' quirks (default: the pilot's, or 0.5)",
    )
    plan.add_argument(
        "--confidence",
        type=float,
        default=0.95,
        metavar="LEVEL",
        help="coverage of the intervals (default: %(default)s)",
    )
    plan.add_argument(
        "--simulations",
        type=int,
        default=200,
        metavar="N",
        help="studies simulated for each number of observers (default: %(default)s)",
    )
    plan.add_argument(
        "--seed", type=int, default=1, help="seed of the simulations (default: %(default)s)"
    )
    plan.add_argument("--out", type=Path, metavar="FILE.svg", help="draw the numbers tried, too")


def run(args: argparse.Namespace) -> int:
    return {
        "create": _create,
        "list": _list,
        "status": _status,
        "open": _state,
        "pause": _state,
        "close": _state,
        "invite": _invite,
        "import": _import,
        "backup": _backup,
        "withdraw": _withdraw,
        "simulate": _simulate,
        "export": _export,
        "plan": _plan,
    }[args.action](args)


def _create(args: argparse.Namespace) -> int:
    from percept.errors import InputError
    from percept.inference.run import open_run
    from percept.protocol import load_protocol
    from percept.store import open_store
    from percept.study import create_study, protocol_of, session_length

    if args.stimuli is None and args.db.startswith("postgres"):
        raise InputError(
            "PostgreSQL has no folder beside it for the display images",
            key="--stimuli",
            remedy="Give --stimuli DIR, a folder that every server can read",
        )
    protocol = load_protocol(args.protocol)
    inference = open_run(args.run_dir)
    store = open_store(args.db, create=True)
    try:
        with _Bar("Rendering") as bar:
            study = create_study(
                inference,
                protocol,
                store,
                args.name,
                seed=args.seed,
                conditions=args.conditions,
                contents=args.contents,
                stimuli=args.stimuli,
                progress=bar,
            )
    except BaseException:
        store.discard()
        raise
    with store:
        for content, reason in study.info["left_out"].items():
            print(f"left out {content}: {reason}")
        conditions = store.conditions(study)["condition"]
        print(
            f"study {study.name} ({study.method}): {len(store.contents(study))} photographs, "
            f"{len(conditions)} conditions ({', '.join(conditions)})"
        )
        length, wanted = session_length(store, study), protocol_of(study).length
        print(
            f"each session has {length} trials"
            + (f" ({wanted} asked for; there are no more different ones)" * (length < wanted))
        )
        print(f"display images: {store.stimuli_folder(study)}")
        print(f"serve it with: percept app --db {args.db}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from percept.store import open_store

    with open_store(args.db) as store:
        rows: list[tuple[str, ...]] = []
        for study in store.studies():
            progress = store.progress(study)
            rows.append(
                (
                    study.name,
                    study.method,
                    study.state,
                    f"{study.created_at:%Y-%m-%d %H:%M}",
                    str(progress.observers) + " (simulated)" * bool(progress.simulated),
                    str(progress.ratings),
                )
            )
    _table(("study", "method", "state", "created (UTC)", "observers", "ratings"), rows)
    return 0


def _status(args: argparse.Namespace) -> int:
    from percept.design import passes
    from percept.store import open_store

    with open_store(args.db) as store:
        studies = [store.study(args.study)] if args.study else store.studies()
        for index, study in enumerate(studies):
            progress = store.progress(study)
            print("\n" * bool(index) + f"{study.name} ({study.method}, {study.state})")
            lines = {
                "observers": f"{progress.observers}, of them {progress.simulated} simulated"
                + f", {progress.withdrawn} withdrawn" * bool(progress.withdrawn)
                + f"; {progress.screened_out} screened out" * bool(progress.screened_out),
                "sessions": f"{progress.finished} of {progress.sessions} finished, "
                f"{progress.active} active now",
                "trials": f"{progress.rated_trials} of {progress.trials} assigned ones rated",
                "ratings": f"{progress.ratings}, of them {progress.skips} skips",
                "repeats": f"{progress.repeats_alike} of {progress.repeats} answered alike",
            }
            if progress.golds:
                passed = sum(n for told, n in progress.golds.items() if passes(*told))
                total = sum(progress.golds.values())
                lines["golds"] = f"{passed} of {total} answered as expected"
            if progress.median_response_time_ms is not None:
                lines["median time"] = f"{progress.median_response_time_ms / 1000:.1f} s"
            if progress.last_rating_at is not None:
                lines["last rating"] = f"{progress.last_rating_at:%Y-%m-%d %H:%M:%S} UTC"
            for name, text in lines.items():
                print(f"  {name:12} {text}")
            units = [tuple(map(str, row)) for row in progress.by_unit.itertuples(index=False)]
            if units:
                print()
                _table(tuple(progress.by_unit.columns), units)
    return 0


def _state(args: argparse.Namespace) -> int:
    from percept.store import open_store

    states: dict[str, Literal["open", "paused", "closed"]] = {
        "open": "open",
        "pause": "paused",
        "close": "closed",
    }
    with open_store(args.db) as store:
        study = store.set_state(args.study, states[args.action])
    print(f"study {study.name} is {study.state}")
    return 0


def _invite(args: argparse.Namespace) -> int:
    from urllib.parse import quote

    from percept.errors import InputError
    from percept.store import open_store
    from percept.store.store import NotFound
    from percept.study import invite_observers

    if not 1 <= args.count <= 10_000:
        raise InputError("must be 1 to 10000", key="--count", value=args.count)
    with open_store(args.db) as store:
        study = store.study(args.study)
        if args.revoke is not None:
            try:
                store.revoke_invite(study, args.revoke)
            except NotFound as error:
                raise InputError(str(error), key="--revoke", value=args.revoke) from None
            print(f"nobody joins {study.name} by {args.revoke} any more")
        elif args.label is None:
            invites = store.invites(study).astype(object)
            rows: list[tuple[str, ...]] = [
                (
                    str(one["code"]),
                    str(one["label"]),
                    str(one["group"] or "–"),
                    f"{one['uses']} of {one['max_uses'] or 'any'}",
                    "revoked" if str(one["revoked_at"]) != "NaT" else "valid",
                )
                for one in invites.where(invites.notna(), None).to_dict("records")
            ]
            _table(("code", "label", "group", "used", "state"), rows)
        else:
            with store.batch():  # all of them or none
                for number in range(1, args.count + 1):
                    label = f"{args.label} {number}" if args.count > 1 else args.label
                    uses = args.uses or None
                    made = invite_observers(store, study, label, group=args.group, max_uses=uses)
                    print(f"/?study={quote(study.name)}&invite={made.code}  {made.label}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from percept.store import open_store
    from percept.votes import import_votes

    store = open_store(args.db, create=True)
    try:
        study, new, left_out = import_votes(store, args.study, args.votes, args.mapping)
    except BaseException:
        store.discard()
        raise
    with store:
        print(
            f"study {study.name} ({study.method}): {new} votes of "
            f"{store.progress(study).observers} observers"
            if new
            else f"{args.votes} was imported into {study.name} before; nothing was changed"
        )
        if left_out:
            print(f"left out: {left_out} rows that show other conditions")
    return 0


def _backup(args: argparse.Namespace) -> int:
    from percept.files import check_place
    from percept.store import open_store

    check_place(args.out)
    with open_store(args.db) as store:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        store.backup(args.out)
        folders = {store.stimuli_folder(study) for study in store.studies() if not study.imported}
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")
    for folder in sorted(folders):
        print(f"copy the display images, too: {folder}")
    return 0


def _withdraw(args: argparse.Namespace) -> int:
    from percept.store import open_store

    with open_store(args.db) as store:
        store.withdraw(store.observer_id(store.study(args.study), args.observer))
    print(f"{args.observer} has withdrawn; backups and exports made before still hold the answers")
    return 0


def _simulate(args: argparse.Namespace) -> int:
    from percept.errors import InputError
    from percept.store import open_store
    from percept.study import simulate

    if args.observers < 1:
        raise InputError("must be at least 1", key="--observers", value=args.observers)
    with open_store(args.db) as store, _Bar("Simulating") as bar:
        study = store.study(args.study)
        types = _shares(args.types) if args.types is not None else None
        joined = simulate(store, study, args.observers, seed=args.seed, types=types, progress=bar)
        ratings = store.progress(study).ratings
    print(f"{joined} simulated observers joined {args.study}; it has {ratings} ratings now")
    return 0


def _shares(text: str) -> dict[str, float]:
    from percept.errors import InputError

    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(share) for name, share in pairs}
    except ValueError:
        raise InputError(
            "not of the form NAME=SHARE,NAME=SHARE", key="--types", value=text
        ) from None


def _export(args: argparse.Namespace) -> int:
    from percept.store import open_store
    from percept.study import export_study

    with open_store(args.db) as store:
        files = export_study(store, store.study(args.study), args.out, args.format)
    for file in files:
        print(file)
    return 0


def _plan(args: argparse.Namespace) -> int:
    import numpy as np

    from percept.errors import InputError
    from percept.files import check_place, write_bytes_atomic
    from percept.protocol import load_protocol
    from percept.report.figures import planning
    from percept.study import pilot_of, plan_study

    if args.out is not None:
        if args.out.suffix != ".svg":
            raise InputError("must be an SVG file", key="--out", value=str(args.out))
        check_place(args.out)
    if args.seed < 0:
        raise InputError("must not be negative", key="--seed", value=args.seed)
    protocol = load_protocol(args.protocol)
    effect, ties = args.effect, args.ties
    deviations = {"observer_sd": args.observer_sd, "content_sd": args.content_sd}
    if args.pilot is not None:
        from percept.store import open_store

        if args.study is None:
            raise InputError("a pilot needs its name", key="--study")
        with open_store(args.pilot) as store:
            pilot = pilot_of(store, store.study(args.study), args.attribute)
        print(
            f"pilot ({pilot.n} votes): effect {pilot.effect:.2f} JOD, "
            f"tastes {pilot.observer_sd:.2f}, quirks {pilot.content_sd:.2f}, "
            f"ties {pilot.tie_share:.0%}"
        )
        effect = pilot.effect if effect is None else effect
        ties = pilot.tie_share if ties is None and protocol.tie else ties
        deviations = {key: getattr(pilot, key) if given is None else given
                      for key, given in deviations.items()}  # fmt: skip
    if effect is None:
        raise InputError("give the difference that matters, or a pilot", key="--effect")
    for key, usual in {"observer_sd": 0.3, "content_sd": 0.5}.items():
        if deviations[key] is None or math.isnan(deviations[key]):
            deviations[key] = usual
    precision = args.half_width is not None
    found = plan_study(
        protocol,
        effect,
        conditions=args.conditions,
        contents=args.contents,
        tie_share=ties,
        goal="half_width" if precision else "power",
        target=args.half_width if precision else args.power,
        **deviations,
        min_observers=args.observers[0],
        max_observers=args.observers[1],
        n_simulations=args.simulations,
        confidence=args.confidence,
        rng=np.random.default_rng(args.seed),
    )
    assumed = found.assumptions
    print(
        f"{args.conditions} conditions, {args.contents} photographs, "
        f"{assumed['trials_per_observer']} trials each, {assumed['tie_share']:.0%} ties; "
        f"the best is {effect:.3g} JOD above the second"
    )
    rows: list[tuple[str, ...]] = [
        (f"{row.observers}", f"{row.trials}", f"{row.power:.0%}", f"±{row.half_width_jod:.2f}",
         f"{row.covered:.0%}")
        for row in found.curve.itertuples()
    ]  # fmt: skip
    _table(("observers", "trials", "power", "interval (JOD)", "holds the truth"), rows)
    wanted = f"±{args.half_width:g} JOD" if precision else f"a power of {args.power:.0%}"
    if found.observers is None:
        print(f"not reached: {wanted}")
    else:
        print(f"{found.observers} observers ({found.trials} trials) reach {wanted}")
    for warning in found.warnings:
        print(f"note: {warning}")
    if args.out is not None:
        write_bytes_atomic(args.out, (planning(found).svg + "\n").encode())
        print(args.out)
    return 0


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  " + "  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())


class _Bar:
    """A progress bar with the remaining time, on the error stream."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task(title, total=None)

    def __enter__(self) -> _Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, done: int, total: int) -> None:
        self.bar.update(self.task, completed=done, total=total)
