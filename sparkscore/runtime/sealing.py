"""Payloads of bad rows, encrypted with the key of their run, which itself is kept only wrapped by a key of the user's.

AES-256-GCM throughout: a payload's associated data is its row's `q_id`, a wrapped key's is the run's id, so neither
opens in another's place.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from sparkscore.errors import SparkscoreError, error

__all__ = ["MARK", "Opener", "new_key", "open_sealed", "q_id", "seal", "unwrapped", "user_key", "wrapped"]

MARK = b"SSQ1"  # how a sealed payload begins, which no JSON does
_KEY_BYTES, _NONCE_BYTES = 32, 12  # a fresh random nonce each: safe for 2^32 rows of one run (NIST SP 800-38D, 8.3)


def q_id(run_id: str, unit_id: str, address: str, stage: str) -> str:
    """Name a bad row, as the quarantine's key does: sha256 in hex."""
    return hashlib.sha256("|".join((run_id, unit_id, address, stage)).encode("utf-8", "surrogateescape")).hexdigest()


def user_key(reference: str) -> bytes:
    """Read the key that a pipeline names by `quarantine.key`: 32 bytes in base64.

    Parameters
    ----------
    reference : str
        ``env:NAME`` or ``file:/path``.

    Raises
    ------
    ClusterError
        `SPS-ENV-KEY` when it is not there or is no such key; the message never holds it.
    """
    kind, _, name = reference.partition(":")
    try:
        text = os.environ[name] if kind == "env" else Path(name).read_text(encoding="ascii")
        key = base64.b64decode(text.strip(), validate=True)
    except (KeyError, OSError) as cause:
        raise _no_key(f"the key {reference}", f"none there ({type(cause).__name__})") from None
    except (ValueError, binascii.Error):
        raise _no_key(f"the key {reference} in base64", "another text") from None
    if len(key) != _KEY_BYTES:
        raise _no_key(f"{_KEY_BYTES} bytes at {reference}", f"{len(key)}")
    return key


def new_key() -> bytes:
    """Make the data key of a run."""
    return os.urandom(_KEY_BYTES)


def wrapped(key: bytes, run_id: str, by: bytes) -> str:
    """Encrypt a run's key by the user's, for the ledger; base64."""
    return base64.b64encode(_encrypted(by, key, run_id)).decode("ascii")


def unwrapped(text: str, run_id: str, by: bytes) -> bytes:
    """Take a run's key back.

    Raises
    ------
    ClusterError
        `SPS-ENV-KEY` when the user's key is another one.
    """
    try:
        return _decrypted(by, base64.b64decode(text), run_id)
    except _invalid_tag():
        raise _no_key(f"the key that run {run_id} was started with", "another one") from None


def seal(key: bytes, content: bytes, row: str) -> bytes:
    """Encrypt a payload for the row that has this `q_id`."""
    return MARK + _encrypted(key, content, row)


def open_sealed(key: bytes, sealed: bytes, row: str) -> bytes:
    """Decrypt a payload of the row that has this `q_id`; one that is not sealed is given as it is.

    Raises
    ------
    ClusterError
        `SPS-ENV-KEY` when it was sealed by another key, for another row, or was changed.
    """
    if not sealed.startswith(MARK):
        return sealed
    try:
        return _decrypted(key, sealed[len(MARK) :], row)
    except _invalid_tag():
        raise _no_key(f"a payload of row {row[:12]} sealed by the run's key", "one that it does not open") from None


class Opener:
    """`mapInArrow` function that decrypts the column `payload`; the row's address columns say what it is bound to."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Give each batch with its payloads in clear."""
        for batch in batches:
            found = [self._opened(*row) for row in zip(*(batch.column(n).to_pylist() for n in _ADDRESS), strict=True)]
            position = batch.schema.get_field_index("payload")
            yield batch.set_column(position, batch.schema.field(position), pa.array(found, pa.binary()))

    def _opened(self, payload: bytes | None, *address: str) -> bytes | None:
        return None if payload is None else open_sealed(self._key, payload, q_id(*address))


_ADDRESS = ("payload", "run_id", "unit_id", "source_pointer", "stage")


def _encrypted(key: bytes, content: bytes, bound_to: str) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + bytes(_aes(key).encrypt(nonce, content, bound_to.encode()))


def _decrypted(key: bytes, sealed: bytes, bound_to: str) -> bytes:
    return bytes(_aes(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to.encode()))


def _aes(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as cause:
        raise error(
            "SPS-ENV-PACKAGE",
            f"Expected the package cryptography, for quarantine.payload: encrypted. Got no {cause.name}.",
            "Install sparkscore[encrypted] on the driver and the workers, or choose another quarantine.payload.",
        ) from cause
    return AESGCM(key)


def _invalid_tag() -> type[Exception]:
    _aes(bytes(_KEY_BYTES))  # says which package is missing
    from cryptography.exceptions import InvalidTag

    return InvalidTag


def _no_key(expected: str, got: str) -> SparkscoreError:
    return error(
        "SPS-ENV-KEY",
        f"Expected {expected}. Got {got}.",
        "Give the key that quarantine.key names to this process: 32 bytes in base64, as `openssl rand -base64 32` "
        "makes them. Without it payloads cannot be written or read; rows and reasons can.",
    )
