"""The command line: arguments in, one run or one answer out, and an exit code that a scheduler can act on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Carry out one command line.

    Returns on success, as a wheel task of Databricks needs it; otherwise raises `SystemExit` with a code of
    `sparkscore.errors.Exit`, or 128 + n after signal n.

    Parameters
    ----------
    args : sequence of str, optional
        Default: the process's own arguments.
    """
    from sparkscore.cli.app import exit_code

    code = exit_code(list(sys.argv[1:] if args is None else args))
    if code:
        raise SystemExit(code)
