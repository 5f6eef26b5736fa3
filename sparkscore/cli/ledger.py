"""`sparkscore ledger`: the tables beside the events, brought up to date or made anew."""

from __future__ import annotations

from typing import Annotated

import typer

from sparkscore.cli.options import AsJson, Master
from sparkscore.cli.printing import emit, say
from sparkscore.cli.sessions import answering_session
from sparkscore.errors import error

app = typer.Typer(help="Fold or rebuild the tables of a ledger.", no_args_is_help=True)

Folder = Annotated[str, typer.Argument(metavar="LEDGER", help="The ledger's folder.")]


@app.callback()
def _group() -> None:
    """Fold or rebuild the tables of a ledger."""


@app.command("fold")
def fold(ledger: Folder, *, as_json: AsJson = False, master: Master = None) -> None:
    """Merge what the events say of every run into the tables: runs that were killed, and folds that failed."""
    from sparkscore.ledger.fold import run_ids
    from sparkscore.ledger.store import open_store
    from sparkscore.run.folding import fold_run

    store = open_store(ledger)
    runs = run_ids(store)
    with answering_session(master, (store.root,)) as spark:
        rows = fold_run(spark, store, *runs) if runs else {"runs": 0, "units": 0}
    if not rows:
        raise error(
            "SPS-CLUSTER-LEASE",
            f"Expected the tables of {store.root} to be free. Got other runs that write them.",
            "Fold again later; nothing is lost, since the events are the truth.",
        )
    _tell(store.root, "folded", len(runs), rows, as_json)


@app.command("rebuild")
def rebuild(ledger: Folder, *, as_json: AsJson = False, master: Master = None) -> None:
    """Make the tables anew from the events alone, also where they are damaged or gone. Deletes no file."""
    from sparkscore.ledger.fold import run_ids
    from sparkscore.ledger.store import open_store
    from sparkscore.run.rebuilding import rebuild_tables

    store = open_store(ledger)
    with answering_session(master, (store.root,)) as spark:
        rows = rebuild_tables(spark, store, say)
    _tell(store.root, "rebuilt", len(run_ids(store)), rows, as_json)


def _tell(root: str, done: str, runs: int, rows: dict[str, int], as_json: bool) -> None:
    value = {"ledger": root, "done": done, "runs": runs, "rows": rows}
    told = ", ".join(f"{count} rows in {name}" for name, count in rows.items())
    emit(value, f"ledger {root}: {done} from the events of {runs} runs; {told}", as_json)
