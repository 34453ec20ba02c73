"""The command line: argument parsing and printing only.

One module per command. Each has ``add_arguments(parser)`` and ``run(args) -> int`` (the exit
code); heavy imports happen inside ``run``. Only the module of the command that was asked for
is imported, so that ``percept --help`` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

# name: one line of help. The module is percept.cli.<name>.
COMMANDS: dict[str, str] = {
    "demo": "one study end to end on bundled photographs, then the rating app",
    "manifest": "scan, check, sample or age a collection of photographs",
    "train": "train a colorizer from a TOML config with DistributedDataParallel",
    "infer": "colorize a manifest with every competing condition",
    "metrics": "compute metrics of a run",
    "palette": "make palettes of reference photographs",
    "weights": "fetch or check the weights that LPIPS needs",
    "study": "create, inspect, simulate and export studies",
    "calibrate": "fit a metric to a panel's votes",
    "predict": "stretch a panel over unrated photographs",
    "gallery": "write a contact sheet of a run with its metrics",
    "app": "serve the rating app",
    "scaling": "measure speedup and efficiency on this machine",
    "doctor": "check this machine and measure its fastest thread setting",
    "report": "write the report of one or more studies",
}

# What no command can foresee: the disk is full, or the place may not be written or read.
_DISK = {errno.ENOSPC, errno.EDQUOT}
_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}

#: Exit code of a crash (EX_SOFTWARE of sysexits.h).
CRASHED = 70


def build_parser(argv: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Build the parser; only the command named first in ``argv`` gets its arguments.

    With ``argv=None`` every command is loaded (documentation and its tests need this).
    """
    from percept import __version__

    parser = argparse.ArgumentParser(
        prog="percept",
        description="Human perceptual evaluation of photo colorization.",
        epilog="percept COMMAND --help tells more. Exit codes: 0 done, 1 some items failed, "
        "2 bad input, 3 stopped midway (the same command resumes), 4 regression found.",
    )
    parser.add_argument("--version", action="version", version=f"percept {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((word for word in argv if not word.startswith("-")), "") if argv else ""
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:])
        if argv is None or name == wanted:
            module = importlib.import_module(f"percept.cli.{name}")
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the ``percept`` command; returns the exit code."""
    code = _run(list(sys.argv[1:] if argv is None else argv))
    if argv is None and "torch.distributed" in sys.modules:
        from percept import distributed

        if distributed.in_world():
            distributed.leave(code)
    return code


def _run(argv: list[str]) -> int:
    from percept.errors import PerceptError

    args = build_parser(argv).parse_args(argv)
    try:
        return int(args.run(args))
    except PerceptError as error:
        print(f"percept {args.command}: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as left:  # of a worker whose main process says why: it still has to leave
        return int(left.code or 0)
    except KeyboardInterrupt:
        print(f"percept {args.command}: interrupted; the same command resumes", file=sys.stderr)
        return 3
    except BrokenPipeError:  # `percept … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _DISK | _PLACE:
            return _crashed()
        full = error.errno in _DISK
        remedy = "Make room; the same command resumes" if full else "Check the path and its owner"
        where = f"{error.filename}: " if error.filename else ""
        print(f"percept {args.command}: {where}{error.strerror}. {remedy}", file=sys.stderr)
        return 3 if full else 2
    except Exception:  # a bug of ours
        return _crashed()


def _crashed() -> int:
    """Show what happened; Python's own exit code would say that only some items failed."""
    import traceback

    traceback.print_exc()
    return CRASHED
