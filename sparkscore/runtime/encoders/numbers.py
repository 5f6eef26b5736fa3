"""Scalar columns as the columns of a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkscore.runtime.tensors import Cells, pack, pack_texts
from sparkscore.spec.scoring import InputPlan, Numbers

__all__ = ["NumbersEncoder"]


class NumbersEncoder:
    """Packs number or bool columns, or string columns for a string tensor, to (n, len(columns))."""

    def __init__(self, part: Numbers, tensor: InputPlan) -> None:
        self.part = part
        self.dtype = None if tensor.dtype == "str" else np.dtype(tensor.dtype)

    def encode(self, cells: Cells) -> NDArray[Any]:
        """Give the columns of a batch as an array of the tensor's dtype, shape (n, len(columns))."""
        if self.dtype is None:
            return pack_texts(cells, self.part.columns, self.part.missing)
        return pack(cells, self.part.columns, self.dtype, self.part.missing)
