"""Texts become padded token ids: tokenised once a batch, cut and counted, or refused when too long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from sparkscore.errors import ModelError, SpecError
from sparkscore.runtime.encoders import text as text_module
from sparkscore.runtime.faults import Faults
from sparkscore.runtime.tensors import Tally
from sparkscore.spec.scoring import Missing, Text
from tests.runtime.plans import batch, codes, encode, encoder, message, tensor

WORDS = {"[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "good": 4, "bad": 5, "film": 6, "[PAD]": 7}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a small word tokenizer, without padding and with a padding of its own."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_padding(direction="left", pad_id=9, pad_type_id=1, length=64)
    tokenizer.save(str(tmp_path / "left.json"))
    bare = Tokenizer(models.WordLevel({"good": 4, "[UNK]": 1}, unk_token="[UNK]"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    bare.save(str(tmp_path / "bare.json"))
    return tmp_path


def text(field: str = "ids", length: int | None = None, dtype: str = "int64", name: str = "x", **settings: object):
    part = Text(("t",), **{"tokenizer": "tokenizer.json", "max_tokens": 5, "field": field, **settings})  # type: ignore[arg-type]
    return tensor(dtype, (length,), part, name=name)


def texts(*values: str | None) -> pa.RecordBatch:
    return batch(t=pa.array(values, pa.string()))


def test_rows_are_padded_to_the_longest_of_the_batch_with_the_tokenizers_pad_id(folder):
    groups, faults = encode(texts("good film", "", "bad"), text(), folder=folder)
    assert groups[0].feeds["x"].tolist() == [[2, 4, 6, 3], [2, 3, 7, 7], [2, 5, 3, 7]]
    assert not faults.any


def test_the_files_own_padding_decides_id_side_and_type_but_not_the_length(folder):
    fields = [text(f, name=f, tokenizer="left.json") for f in ("ids", "attention_mask", "type_ids")]
    feeds = encode(texts("good film", "bad"), *fields, folder=folder)[0][0].feeds
    assert feeds["ids"].tolist() == [[2, 4, 6, 3], [9, 2, 5, 3]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert feeds["type_ids"].tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]


def test_a_graph_with_a_fixed_length_is_padded_to_it(folder):
    groups, _ = encode(texts("good"), text("attention_mask", length=6, dtype="int32"), folder=folder)
    assert groups[0].feeds["x"].tolist() == [[1, 1, 1, 0, 0, 0]]
    assert groups[0].feeds["x"].dtype == np.int32


def test_over_long_texts_are_cut_and_counted_once(folder):
    one = encoder(text(name="a"), text("attention_mask", name="b"), folder=folder)

    groups = one.encode(texts("good good good", "good good good bad", "film"), Faults(3), tally := Tally())

    assert groups[0].feeds["a"].tolist() == [[2, 4, 4, 4, 3], [2, 4, 4, 4, 3], [2, 6, 3, 7, 7]]
    assert tally.rows_truncated == 1


def test_over_long_texts_can_be_refused(folder):
    one = encoder(text(overlong="error"), folder=folder)
    faults = Faults(2)

    groups = one.encode(texts("good good good good", "bad"), faults, tally := Tally())

    assert codes(faults) == {0: "SPS-ROW-LENGTH"}
    assert message(faults, 0) == "Expected at most 5 tokens in column 't', got more"
    assert groups[0].rows.tolist() == [1]
    assert tally.rows_truncated == 0


def test_several_inputs_of_one_column_and_tokenizer_are_tokenised_once(folder, monkeypatch):
    read = text_module._Tokenized.read
    calls: list[int] = []
    monkeypatch.setattr(text_module._Tokenized, "read", lambda self, cells: calls.append(1) or read(self, cells))
    one = encoder(*(text(f, name=f) for f in ("ids", "attention_mask", "type_ids")), folder=folder)

    one.encode(texts("good"), Faults(1), Tally())
    one.encode(texts("bad"), Faults(1), Tally())

    assert len(calls) == 2


def test_the_next_batch_gets_tokens_of_its_own(folder):
    one = encoder(text(), folder=folder)
    assert one.encode(texts("good"), Faults(1), Tally())[0].feeds["x"].tolist() == [[2, 4, 3]]
    assert one.encode(texts("bad"), Faults(1), Tally())[0].feeds["x"].tolist() == [[2, 5, 3]]


def test_null_is_an_error_or_filled_and_bad_rows_do_not_lengthen_the_batch(folder):
    assert codes(encode(texts(None, "good"), text(), folder=folder)[1]) == {0: "SPS-ROW-NULL"}
    groups, _ = encode(texts(None, "good"), text(missing=Missing(null="fill", fill="bad")), folder=folder)
    assert groups[0].feeds["x"].tolist() == [[2, 5, 3], [2, 4, 3]]
    groups, faults = encode(texts("bad bad bad", "good"), text(missing=Missing(max_bytes=5)), folder=folder)
    assert codes(faults) == {0: "SPS-ROW-BYTES"}
    assert groups[0].feeds["x"].tolist() == [[2, 4, 3]]


def test_an_empty_text_without_special_tokens_is_one_place_of_padding(folder):
    fields = [text(f, name=f, tokenizer="bare.json") for f in ("ids", "attention_mask")]
    feeds = encode(texts(""), *fields, folder=folder)[0][0].feeds
    assert feeds["ids"].tolist() == [[0]]
    assert feeds["attention_mask"].tolist() == [[0]]


def test_a_row_gets_the_tokens_that_it_gets_alone(folder):
    rows = ["good", "", "bad film", "good good good good"]
    together = encode(texts(*rows), text(), folder=folder)[0][0].feeds["x"]
    for i, row in enumerate(rows):
        alone = encode(texts(row), text(), folder=folder)[0][0].feeds["x"][0]
        assert together[i][: len(alone)].tolist() == alone.tolist()


def test_a_file_that_is_no_tokenizer_is_the_models_error(folder):
    (folder / "broken.json").write_text("{}")
    with pytest.raises(ModelError, match=r"Expected a Hugging Face tokenizer\.json, got broken\.json") as caught:
        encoder(text(tokenizer="broken.json"), folder=folder)
    assert caught.value.code == "SPS-MODEL-ENCODER"


def test_max_tokens_must_leave_room_beside_the_special_tokens(folder):
    with pytest.raises(SpecError, match=r"above the 2 special tokens of tokenizer\.json, got 2") as caught:
        encoder(text(max_tokens=2), folder=folder)
    assert caught.value.code == "SPS-SPEC-VALUE"
