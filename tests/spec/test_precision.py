"""`model.precision`: taken where it changes something and is measured, and the one way to choose a number format."""

from __future__ import annotations

import pytest

from tests.spec.test_pipeline import load, refusal

MODEL = {"uri": "/m", "golden": "/g"}


@pytest.mark.parametrize(
    ("precision", "device", "fix"),
    [
        ("tf32", "cpu", "Name the device"),
        ("tf32", "auto", "where auto may end"),
        ("fp16", "cpu", "Write `device: tensorrt`"),
        ("fp16", "auto", "Write `device: tensorrt`"),
        ("fp16", "cuda", "no switch for it on CUDA: there, convert the graph"),
    ],
)
def test_a_precision_that_would_change_nothing_is_refused(precision: str, device: str, fix: str) -> None:
    failure = refusal(model={**MODEL, "precision": precision, "device": device})
    assert (failure.code, failure.context["at"]) == ("SPS-SPEC-VALUE", "model.precision")
    assert f"for precision {precision}, got {device}." in failure.message
    assert fix in failure.fix


@pytest.mark.parametrize(("precision", "device"), [("tf32", "cuda"), ("tf32", "tensorrt"), ("fp16", "tensorrt")])
def test_a_precision_needs_golden_rows(precision: str, device: str) -> None:
    keys = {"precision": precision, "device": device}
    assert load(model={**MODEL, **keys}).model.precision == precision
    failure = refusal(model={"uri": "/m", **keys})
    assert (failure.code, failure.context["at"]) == ("SPS-SPEC-KEY", "model")
    assert f"'golden' is missing beside precision {precision}" in failure.message


@pytest.mark.parametrize("precision", ["as_is", "tf32"])
@pytest.mark.parametrize(
    ("provider", "option"),
    [
        ("cuda", "use_tf32"),
        ("CUDAExecutionProvider", "use_tf32"),
        ("tensorrt", "trt_fp16_enable"),
        ("tensorrt", "trt_bf16_enable"),
        ("tensorrt", "trt_int8_enable"),
    ],
)
def test_no_provider_option_chooses_the_format_of_numbers(precision: str, provider: str, option: str) -> None:
    keys = {"precision": precision, "device": "tensorrt", "providers": {provider: {option: 1}}}
    failure = refusal(model={**MODEL, **keys})
    assert (failure.code, failure.context["at"]) == ("SPS-SPEC-VALUE", f"model.providers.{provider}.{option}")
    assert "precision: tf32" in failure.fix
