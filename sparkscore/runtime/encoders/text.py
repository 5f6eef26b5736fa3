"""Texts as token ids by a Hugging Face tokenizer file: one call a batch, padded to the longest row."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkscore.errors import error
from sparkscore.runtime.tensors import Cells, mark, read_texts
from sparkscore.spec.scoring import InputPlan, Text

__all__ = ["TextEncoder", "load_tokenizer"]

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


class TextEncoder:
    """Gives one field of one tokenised column. Inputs of the same column and tokenizer share the tokens."""

    def __init__(self, part: Text, tensor: InputPlan, folder: Path, shared: dict[object, Any]) -> None:
        self.part = part
        self.dtype = np.dtype(tensor.dtype)
        self.length = tensor.row_shape[0]
        key = (part.columns, part.missing, part.tokenizer, part.max_tokens, part.overlong)
        if key not in shared:
            shared[key] = _Tokens(part, folder)
        self.tokens: _Tokens = shared[key]

    def encode(self, cells: Cells) -> NDArray[Any]:
        """Give token ids, their mask or their types: (n, longest row), or the graph's own fixed length.

        Rows are padded with the tokenizer's padding id, on its side; the mask and the types are padded with its own.
        """
        if self.tokens not in cells.memo:
            cells.memo[self.tokens] = self.tokens.read(cells)
        encodings = cells.memo[self.tokens]
        field = self.part.field
        rows = [getattr(encoding, field) for encoding in encodings]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        longest = self.length or max(1, int(lengths.max()))
        block = np.full((len(rows), longest), self.tokens.padding[field], self.dtype)
        places = np.arange(longest) < lengths[:, None]
        if self.tokens.pads_left:
            places = places[:, ::-1]
        block[places] = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
        cells.tally.copied_bytes += block.nbytes
        return block


class _Tokens:
    """One column, tokenised."""

    def __init__(self, part: Text, folder: Path) -> None:
        self.part = part
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

    def read(self, cells: Cells) -> list[Any]:
        """Tokenise the column, and mark or count the rows that are too long. Marked rows are read as empty."""
        name = self.part.columns[0]
        texts, flaws = read_texts(cells.column(name), self.part.missing, name)
        mark(cells, flaws)
        if cells.faults.any:
            texts = np.where(cells.faults.bad, "", texts)
        call = getattr(self.tokenizer, "encode_batch_fast", self.tokenizer.encode_batch)  # fast: without offsets
        encodings: list[Any] = call(texts.tolist())
        longest = self.part.max_tokens
        cut = np.array([len(e) >= longest and bool(e.overflowing) for e in encodings], dtype=np.bool_)
        if self.part.overlong == "error":
            message = f"Expected at most {longest} tokens in column {name!r}, got more"
            cells.faults.add(cut, "SPS-ROW-LENGTH", message)
        else:
            cells.tally.rows_truncated += int(cut.sum())
        return encodings
