"""Faults of the stores: F21, S3 behind a faulty proxy, and F26, a ledger that takes no writes any more."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparkscore.errors import SparkscoreError
from sparkscore.runtime import files
from tests.chaos.inputs import mounted
from tests.chaos.stage import Seen, Stage
from tests.faults import Fault, faulty_proxy
from tests.servers import s3_server

__all__ = ["faulty_s3", "proxied_s3", "read_only_ledger"]


def read_only_ledger(stage: Stage) -> Seen:
    """The ledger's disk is read-only before the plan, or from a unit on: the data stays safe, and the run goes on when
    the ledger takes writes again.
    """
    stage.data()
    place = stage.folder / "ledger"
    turn_at = stage.seed % 3  # before the plan, after the first unit, after the last
    with mounted(place, "16m"):
        if turn_at == 0:
            _remount(place, "ro")
            ended = stage.ends(codes=["SPS-ENV-LEDGER"])
            stage.holds(not stage.sink.exists(), "rows were written")
        else:
            stage.data()
            ended = _ends_read_only(stage, turn_at)
        _remount(place, "rw")
        stage.balanced(stage.run())
        return stage.seen(
            f"read-only {('before the plan', 'after unit 0', 'after unit 1')[turn_at]}: {ended}, then ok", "-"
        )


def _ends_read_only(stage: Stage, after: int) -> str:
    try:
        stage.run(progress=lambda done, *_: _remount(stage.folder / "ledger", "ro") if done == after else None)
    except SparkscoreError as failure:
        named = ("SPS-ENV-LEDGER", "SPS-CLUSTER-STORAGE")
        stage.holds(failure.code in named, f"ended {failure}"[:300])
        return failure.code
    except Exception as failure:  # boundary: an error without a name is a promise that did not hold
        stage.failures.append(f"ended with {type(failure).__name__}: {str(failure)[:200]}")
        return type(failure).__name__
    stage.failures.append("a run ended well though its ledger took no writes")
    return "ok"


def _remount(place: object, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


_S3: dict[str, Any] = {}  # the server and the proxy of this process, which its session is made for


@contextmanager
def proxied_s3(folder: Path) -> Iterator[None]:
    """Run an S3-compatible server and a faulty proxy before it; this process and its children go through the proxy."""
    with s3_server(folder) as server, faulty_proxy(server.endpoint) as proxy:
        os.environ.update({**server.environment, "AWS_ENDPOINT_URL": proxy.endpoint})
        server.bucket("lake")
        _S3.update(server=server, proxy=proxy)
        yield


_MAY_END = ("SPS-CLUSTER-STORAGE", "SPS-FENCED")
_STALE = ("SPS-ENV-SOURCE", "SPS-DATA-GONE", "SPS-CLUSTER-CONFLICT")  # Delta itself rests on listings
# By the seed: what falls upon which share of the requests, how a run under it may end, and whether it begins late.
_KINDS: tuple[tuple[dict[Fault, float], tuple[str, ...], bool], ...] = (
    ({"503": 0.3}, _MAY_END, False),
    ({"broken": 0.1}, _MAY_END, False),
    ({"slow": 0.1}, _MAY_END, False),
    ({"403": 1.0}, ("SPS-ENV-ACCESS",), True),
    ({"stale": 0.3}, (*_MAY_END, *_STALE), False),
    ({"lost": 0.1}, _MAY_END, False),
)


def faulty_s3(stage: Stage) -> Seen:
    """Source, sink and ledger are on S3; a run under faults ends well or by name, and the next one ends it well."""
    proxy, bucket = _S3["proxy"], _S3["server"].folder / "lake"
    stage.data()
    stage.expected()
    lake = bucket / stage.folder.name  # where the server keeps the objects, for the second reader
    stage.root = f"s3a://lake/{lake.name}"
    for path in (*(stage.folder / "in").iterdir(), stage.folder / "linear.onnx"):
        files.write_bytes(f"{stage.root}/{path.relative_to(stage.folder)}", path.read_bytes())
    stage.folder = lake
    rates, named, is_late = _KINDS[stage.seed % len(_KINDS)]
    proxy.rng, proxy.spoilt = stage.rng, 0

    def spoil(done: int, *_: object) -> None:
        proxy.rates = rates if done == 1 else proxy.rates  # 403 comes when the run is under way

    proxy.rates = {} if is_late else rates
    ended = ""
    for _ in range(5):
        try:
            stage.run(progress=spoil if is_late and not ended else None)
        except SparkscoreError as failure:
            ended += f"{failure.code}, then "
            stage.holds(failure.code in named, f"ended {failure}"[:300])
            proxy.rates = {} if is_late else rates
        else:
            break
    spoilt = proxy.spoilt
    proxy.rates = {}
    proxy.faults.clear()
    stage.holds(spoilt > 0, "no request was spoilt")
    stage.balanced(stage.run())
    kind = ", ".join(f"{share:.0%} {name}" for name, share in rates.items())
    return stage.seen(f"{kind} ({spoilt} spoilt): {ended}ok", _one_try(stage, proxy, rates))


def _one_try(stage: Stage, proxy: Any, rates: dict[Fault, float]) -> str:
    """What the same faults do to a client that asks once, as a share of 50 requests."""
    import urllib.error
    import urllib.request

    proxy.rates, failed = rates, 0
    for _ in range(50):
        try:
            with urllib.request.urlopen(f"{proxy.endpoint}/", timeout=5) as answer:
                answer.read()
        except urllib.error.HTTPError as refusal:
            failed += refusal.code == 503
        except OSError:
            failed += 1
    proxy.rates = {}
    proxy.faults.clear()
    return f"{failed} of 50 requests fail" if failed else "-"
