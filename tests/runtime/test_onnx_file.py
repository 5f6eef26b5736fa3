"""What an ONNX file points to, read from its bytes; the `onnx` package writes them, and is the judge."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, SparseTensorProto, TensorProto, helper

from sparkscore.errors import SparkscoreError
from sparkscore.runtime.onnx_file import ExternalData, external_data
from tests.scoring import graphs


def external(location, **more):
    tensor = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model(**parts):
    graph = GraphProto(
        name="g", node=[helper.make_node("Neg", ["x"], ["y"])], output=[helper.make_empty_tensor_value_info("y")]
    )
    return ModelProto(ir_version=8, graph=graph, **parts)


def found(tmp_path, proto):
    path = tmp_path / "m.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return external_data(path)


def code_of(call, *args):
    with pytest.raises(SparkscoreError) as caught:
        call(*args)
    return caught.value.code


def test_a_model_without_external_data_has_none(tmp_path):
    assert found(tmp_path, graphs.linear()) == ()


def test_an_initialiser_gives_location_offset_and_length(tmp_path):
    m = model()
    m.graph.initializer.append(external("w.bin", offset=4096, length=12))
    m.graph.initializer.append(external("w.bin"))
    assert found(tmp_path, m) == (ExternalData("w.bin", 4096, 12), ExternalData("w.bin", 0, None))


def sparse(location):
    return SparseTensorProto(values=external(f"{location}-values"), indices=external(f"{location}-indices"), dims=[4])


def subgraph(location):
    return GraphProto(name="sub", initializer=[external(location)])


ATTRIBUTES = {
    "tensor": AttributeProto(name="a", type=AttributeProto.TENSOR, t=external("t")),
    "tensors": AttributeProto(name="a", type=AttributeProto.TENSORS, tensors=[external("t1"), external("t2")]),
    "graph": AttributeProto(name="a", type=AttributeProto.GRAPH, g=subgraph("g")),
    "graphs": AttributeProto(name="a", type=AttributeProto.GRAPHS, graphs=[subgraph("g1"), subgraph("g2")]),
    "sparse": AttributeProto(name="a", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse("s")),
    "sparses": AttributeProto(name="a", type=AttributeProto.SPARSE_TENSORS, sparse_tensors=[sparse("s1")]),
}


def locations(attribute):
    return sorted(
        set(np.unique([e.value for t in _tensors(attribute) for e in t.external_data if e.key == "location"]))
    )


def _tensors(message):
    """Every TensorProto below a message, found by protobuf's own reflection."""
    if isinstance(message, TensorProto):
        return [message]
    values = [v for field, v in message.ListFields() if field.message_type is not None]
    children = [c for v in values for c in (v if hasattr(v, "append") or hasattr(v, "add") else [v])]
    return [t for child in children for t in _tensors(child)]


@pytest.mark.parametrize("kind", ATTRIBUTES)
@pytest.mark.parametrize("place", ["graph node", "function node", "function default", "nested subgraph"])
def test_external_data_is_found_in_every_attribute_of_every_place(tmp_path, kind, place):
    attribute, m = ATTRIBUTES[kind], model()
    if place == "graph node":
        m.graph.node[0].attribute.append(attribute)
    elif place == "function node":
        m.functions.append(FunctionProto(name="f", node=[m.graph.node[0]]))
        m.functions[0].node[0].attribute.append(attribute)
    elif place == "function default":
        m.functions.append(FunctionProto(name="f", attribute_proto=[attribute]))
    else:
        inner = GraphProto(node=[m.graph.node[0]])
        inner.node[0].attribute.append(attribute)
        m.graph.node[0].attribute.append(AttributeProto(name="b", type=AttributeProto.GRAPH, g=inner))
    assert sorted({d.location for d in found(tmp_path, m)}) == locations(attribute) != []


def test_a_sparse_initialiser_gives_its_values_and_indices(tmp_path):
    m = model()
    m.graph.sparse_initializer.append(sparse("s"))
    assert [d.location for d in found(tmp_path, m)] == ["s-values", "s-indices"]


def test_an_external_tensor_hidden_behind_a_64_bit_enum_is_found(tmp_path):
    tensor = external("w.bin")
    tensor.ClearField("data_location")
    hidden = tensor.SerializeToString() + b"\x70\x81\x80\x80\x80\x10"  # field 14 = 2**32 + 1, which protobuf reads as 1
    assert TensorProto.FromString(hidden).data_location == TensorProto.EXTERNAL
    graph = model().graph.SerializeToString() + b"\x2a" + bytes([len(hidden)]) + hidden
    assert [d.location for d in found(tmp_path, b"\x08\x08\x3a" + bytes([len(graph)]) + graph)] == ["w.bin"]


def test_the_entries_of_an_embedded_tensor_are_no_external_data(tmp_path):
    m, tensor = model(), external("w.bin")
    tensor.data_location = TensorProto.DEFAULT
    m.graph.initializer.append(tensor)
    assert found(tmp_path, m) == ()


def part(number, *messages):
    """A field of messages, each of less than 16 KiB, in protobuf's wire format."""
    return b"".join(two_bytes(number << 3 | 2) + two_bytes(len(m)) + m for m in messages)


def two_bytes(value):
    return bytes([value & 0x7F | 0x80, value >> 7])


def test_a_tensor_in_two_pieces_which_protobuf_would_merge_is_refused(tmp_path):
    marked, located = TensorProto(data_location=TensorProto.EXTERNAL), external("/etc/hostname")
    located.ClearField("data_location")
    pieces = [marked.SerializeToString(), located.SerializeToString()]
    assert AttributeProto.FromString(part(5, *pieces)).t.data_location == TensorProto.EXTERNAL
    harmless = [external("w.bin").SerializeToString(), located.SerializeToString()]
    for attribute in (part(5, *pieces), part(5, *harmless), part(22, part(1, *harmless))):
        data = b"\x08\x08" + part(7, part(1, part(4, b"Constant") + part(5, attribute)))
        assert ModelProto.FromString(data).graph.node[0].attribute
        assert code_of(found, tmp_path, data) == "SPS-MODEL-FORMAT"


NOT_A_MODEL = {
    "empty": b"",
    "text": b"not a model, but a text of some length\n",
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 12345\n",
    "html": b"<!DOCTYPE html><html><body>Not found</body></html>",
    "json": b'{"ir_version": 8}',
    "zip": b"PK\x03\x04" + bytes(26),
    "zeros": bytes(100),
    "no graph": ModelProto(ir_version=8, producer_name="p").SerializeToString(),
    "no ir_version": ModelProto(graph=GraphProto(node=[helper.make_node("Neg", ["x"], ["y"])])).SerializeToString(),
    "empty graph": ModelProto(ir_version=8, graph=GraphProto(name="g")).SerializeToString(),
    "a tensor": external("w").SerializeToString(),
}


@pytest.mark.parametrize("kind", NOT_A_MODEL)
def test_what_is_not_a_model_is_refused(tmp_path, kind):
    assert code_of(found, tmp_path, NOT_A_MODEL[kind]) == "SPS-MODEL-FORMAT"


def test_a_model_cut_anywhere_is_refused(tmp_path):
    whole = ModelProto.FromString(graphs.linear())
    whole.ClearField("opset_import")  # it stands after the graph: a cut between fields would be a message of its own
    data = whole.SerializeToString()
    assert found(tmp_path, data) == ()
    assert {code_of(found, tmp_path, data[:end]) for end in range(len(data))} == {"SPS-MODEL-FORMAT"}


def test_an_offset_that_is_no_number_is_refused(tmp_path):
    m = model()
    m.graph.initializer.append(external("w.bin", offset="four"))
    assert code_of(found, tmp_path, m) == "SPS-MODEL-FORMAT"


def field(number, payload):
    """One length-delimited field in protobuf's wire format; `onnx` itself refuses to build what is below."""
    length = len(payload)
    head = bytes([number << 3 | 2]) if number < 16 else bytes([number << 3 & 0x7F | 0x82, number >> 4])
    while length > 0x7F:
        head, length = head + bytes([length & 0x7F | 0x80]), length >> 7
    return head + bytes([length]) + payload


def test_subgraphs_without_end_are_refused_before_the_stack_is(tmp_path):
    graph = GraphProto(initializer=[external("w")]).SerializeToString()
    for _ in range(2000):
        graph = field(1, field(5, field(6, graph)))  # graph.node.attribute.g
    assert code_of(found, tmp_path, b"\x08\x08" + field(7, graph)) == "SPS-MODEL-FORMAT"


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), at=st.integers(0, 10_000), cut=st.booleans())
def test_damaged_bytes_give_an_answer_or_a_named_error(tmp_path_factory, data, at, cut):
    m = model()
    m.graph.initializer.append(external("w.bin", offset=1))
    whole = m.SerializeToString()
    at %= len(whole)
    damaged = whole[:at] + data + (b"" if cut else whole[at:])
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(damaged)
    try:
        external_data(path)
    except SparkscoreError as refusal:
        if refusal.code != "SPS-MODEL-FORMAT":
            raise


def test_a_forest_of_a_million_numbers_is_read_at_once(tmp_path):
    m = model()
    m.graph.node[0].attribute.append(helper.make_attribute("nodes_values", np.ones(1_000_000, np.float32)))
    path = tmp_path / "m.onnx"
    path.write_bytes(m.SerializeToString())
    started = time.perf_counter()
    assert external_data(path) == ()
    assert time.perf_counter() - started < 0.25  # 0.7 s when each number is looked at
