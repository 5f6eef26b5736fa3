"""Texts as token ids by a Hugging Face tokenizer file; rows that are called together are padded to the longest."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkscore.errors import error
from sparkscore.runtime.tensors import Cells, Tally, mark, read_texts
from sparkscore.spec.scoring import InputPlan, Text

__all__ = ["Padded", "TextEncoder", "load_tokenizer"]

_AT_ONCE = 1000  # texts: the tokenizer's own form of a token takes some 100 bytes, ours 4

# Names of the padding token in tokenizer files that say nothing of padding; without one, 0 pads.
_PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<PAD>")


def load_tokenizer(path: Path, max_tokens: int) -> Any:
    """Load a tokenizer that cuts at `max_tokens`, special tokens included.

    Raises
    ------
    ModelError
        SPS-MODEL-ENCODER: the file is no tokenizer.
    SpecError
        SPS-SPEC-VALUE: `max_tokens` leaves no room beside the special tokens.
    ClusterError
        SPS-ENV-PACKAGE: the package `tokenizers` is not installed.
    """
    # Spark forks its workers, and a task has its cores counted: Rust threads of its own are neither safe nor fair.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from tokenizers import Tokenizer
    except ImportError as cause:
        message = "Expected the package tokenizers for a text input, got none."
        raise error("SPS-ENV-PACKAGE", message, "pip install 'sparkscore[text]' on every node.") from cause
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as cause:  # boundary: the package raises bare Exception for whatever is wrong with a file
        message = f"Expected a Hugging Face tokenizer.json, got {path.name}: {str(cause)[:200]}"
        fix = "Save the tokenizer with tokenizer.save('tokenizer.json'), and name that file."
        raise error("SPS-MODEL-ENCODER", message, fix) from cause
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    if max_tokens <= special:
        message = f"Expected max_tokens above the {special} special tokens of {path.name}, got {max_tokens}."
        raise error("SPS-SPEC-VALUE", message, "Raise max_tokens.")
    tokenizer.enable_truncation(max_length=max_tokens)
    return tokenizer


@dataclass(frozen=True)
class Padded:
    """Token ids, their mask or their types, one list a row; rows that are asked for together are padded to the longest.

    Attributes
    ----------
    flat : ndarray, 1-D
        Row i is ``flat[starts[i] : starts[i] + lengths[i]]``.
    starts, lengths : ndarray of int64, shape (n,)
    texts : ndarray of int64, shape (n,)
        Rows of one number have one text.
    padding : int
    pads_left : bool
    fixed : int, optional
        The graph's own length, for which every row is padded.
    is_counted : bool
        Whether its tokens count: those of several fields of one text do once.
    """

    flat: NDArray[Any]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    texts: NDArray[np.int64]
    padding: int
    pads_left: bool
    fixed: int | None
    is_counted: bool

    def dense(self, rows: NDArray[np.int64], tally: Tally) -> NDArray[Any]:
        """Give rows as one array, (len(rows), longest of them) or (len(rows), `fixed`): a counted copy."""
        lengths = self.lengths[rows]
        longest = self.fixed or max(1, int(lengths.max()))
        places = np.arange(longest) < lengths[:, None]
        block = tally.empty(places.shape, self.flat.dtype)
        block.fill(self.padding)
        tokens = self.flat[(self.starts[rows, None] + np.arange(longest))[places]]
        block[places[:, ::-1] if self.pads_left else places] = tokens
        if self.is_counted:
            tally.tokens += len(tokens)
            tally.tokens_computed += block.size
        return block


class TextEncoder:
    """Gives one field of one tokenised column. Inputs of the same column and tokenizer share the tokens."""

    def __init__(self, part: Text, tensor: InputPlan, folder: Path, shared: dict[object, Any]) -> None:
        self.field = part.field
        self.dtype = np.dtype(tensor.dtype)
        self.length = tensor.row_shape[0]
        key = (part.columns, part.missing, part.tokenizer, part.max_tokens, part.overlong)
        if key not in shared:
            shared[key] = _Tokenized(part, folder)
        self.column: _Tokenized = shared[key]
        self.column.fields.add(part.field)

    def encode(self, cells: Cells) -> Padded:
        """Give token ids, their mask or their types.

        Rows are padded with the tokenizer's padding id, on its side; the mask and the types are padded with its own.
        """
        is_first = self.column not in cells.memo
        if is_first:
            cells.memo[self.column] = self.column.read(cells)
        flat, starts, lengths, texts = cells.memo[self.column]
        values = flat[self.field].astype(self.dtype, copy=False)
        padding = self.column.padding[self.field]
        return Padded(values, starts, lengths, texts, padding, self.column.pads_left, self.length, is_first)


class _Tokenized:
    """One column, tokenised: each text once, however many rows have it."""

    def __init__(self, part: Text, folder: Path) -> None:
        self.part = part
        self.fields: set[str] = set()
        self.tokenizer = load_tokenizer(folder / part.tokenizer, part.max_tokens)
        padding = self.tokenizer.padding or {}
        known = (self.tokenizer.token_to_id(token) for token in _PAD_TOKENS)
        guess = next((i for i in known if i is not None), 0)
        self.padding = {
            "ids": padding.get("pad_id", guess),
            "attention_mask": 0,
            "type_ids": padding.get("pad_type_id", 0),
        }
        self.pads_left = padding.get("direction") == "left"
        self.tokenizer.no_padding()

    def read(self, cells: Cells) -> tuple[dict[str, NDArray[Any]], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Tokenise the column, and mark or count the rows that are too long. Marked rows are read as empty.

        Gives the flat fields, where each row's tokens start, how many they are, and the number of each row's text.
        """
        name = self.part.columns[0]
        values, flaws = read_texts(cells.column(name), self.part.missing, name)
        mark(cells, flaws)
        if cells.faults.any:
            values = np.where(cells.faults.bad, "", values)
        numbered: dict[str, int] = {}
        texts = np.fromiter((numbered.setdefault(t, len(numbered)) for t in values), np.int64, len(values))
        flat, lengths, is_cut = self._tokens(list(numbered))
        cut = is_cut[texts]
        if self.part.overlong == "error":
            message = f"Expected at most {self.part.max_tokens} tokens in column {name!r}, got more"
            cells.faults.add(cut, "SPS-ROW-LENGTH", message)
        else:
            cells.tally.rows_truncated += int(cut.sum())
        starts = np.cumsum(lengths) - lengths
        return flat, starts[texts], lengths[texts], texts

    def _tokens(self, texts: list[str]) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64], NDArray[np.bool_]]:
        """Tokenise texts: the flat fields, and for each text how many tokens it has and whether it was cut."""
        call = getattr(self.tokenizer, "encode_batch_fast", self.tokenizer.encode_batch)  # fast: without offsets
        parts: dict[str, list[NDArray[Any]]] = {field: [] for field in self.fields}
        lengths, is_cut = [], []
        for start in range(0, len(texts), _AT_ONCE):
            found = call(texts[start : start + _AT_ONCE])
            lengths += [len(e) for e in found]
            is_cut += [len(e) >= self.part.max_tokens and bool(e.overflowing) for e in found]
            for field, arrays in parts.items():
                arrays.append(_flat(getattr(e, field) for e in found))
        flat = {field: np.concatenate(arrays) for field, arrays in parts.items()}
        return flat, np.array(lengths, np.int64), np.array(is_cut, np.bool_)


def _flat(lists: Iterable[list[int]]) -> NDArray[np.int32]:
    return np.fromiter(chain.from_iterable(lists), np.int32)
