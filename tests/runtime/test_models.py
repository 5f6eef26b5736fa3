"""From a URI to a pinned model: what is found, what is refused, what is copied, and what the digest covers."""

from __future__ import annotations

import io
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from sparkscore.errors import SparkscoreError
from sparkscore.runtime import cache, registry
from sparkscore.runtime.loading import read_signature
from sparkscore.runtime.models import pin
from sparkscore.runtime.session import open_session
from sparkscore.spec.scoring import SessionPlan
from tests.scoring import graphs


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKSCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "models" / "fraud"
    folder.mkdir(parents=True)
    return folder


def plain(folder, name="m.onnx"):
    (folder / name).write_bytes(graphs.linear())
    return folder / name


def with_weights(folder, location="w.bin", name="m.onnx", **entries):
    """y = x + w, with w = (1, 2) in a file beside the model, padded by 8 bytes on both sides."""
    node = helper.make_node("Add", ["x", "w"], ["y"])
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in "xy"]
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": location, "offset": 8, "length": 8} | entries).items():
        weights.external_data.add(key=key, value=str(value))
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weights])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(proto.SerializeToString())
    return folder / name


def write_weights(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(8) + np.array([1, 2], np.float32).tobytes() + bytes(8))


def refusal(call, *args, **kwargs):
    with pytest.raises(SparkscoreError) as caught:
        call(*args, **kwargs)
    return caught.value


def code_of(call, *args, **kwargs):
    return refusal(call, *args, **kwargs).code


def score(model, x):
    session = open_session(model.ref, SessionPlan(), model.folder)
    return session.run({"x": np.array([x], np.float32)}, ["y"])[0].tolist()


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_a_file_is_pinned_to_its_bytes(place, form):
    uri = form.format(plain(place))
    model = pin(uri)
    (file,) = model.ref.files
    assert (file.path, file.size_bytes, model.ref.main) == ("m.onnx", len(graphs.linear()), "m.onnx")
    assert model.ref.sha256 == cache.manifest_sha256(model.ref.files)
    assert model.ref.version == model.ref.sha256[:12]
    assert (model.ref.uri, model.ref.location) == (uri, str(place))
    assert score(model, (1, 1)) == [[3.5]]


def test_a_relative_path_is_pinned_to_an_absolute_place(place, monkeypatch):
    plain(place)
    monkeypatch.chdir(place)
    assert {pin(uri).ref.location for uri in ("m.onnx", "./m.onnx", "../fraud")} <= {
        str(place),
        f"{place}/../fraud",
    }
    monkeypatch.chdir("/")
    assert pin(str(place)).ref.files == pin(f"{place}/m.onnx").ref.files


def test_a_folder_is_its_only_onnx_file_and_nothing_else_of_it_counts(place):
    plain(place)
    before = pin(str(place)).ref.sha256
    (place / "README").write_bytes(b"text")
    (place / "more").mkdir()
    plain(place / "more", "older.onnx")
    model = pin(f"{place}/")
    assert model.ref.sha256 == before
    assert [p.name for p in model.folder.iterdir()] == ["m.onnx"]


def test_a_folder_with_two_models_names_both(place):
    plain(place, "a.onnx")
    plain(place, "b.onnx")
    said = refusal(pin, str(place))
    assert said.code == "SPS-MODEL-MISSING"
    assert "a.onnx, b.onnx" in said.message


@pytest.mark.parametrize("name", ["none.onnx", "none/m.onnx", "m.onnx/below", ""])
def test_a_model_that_is_not_there_is_missing(place, name):
    (place / "m.onnx").mkdir() if name == "" else plain(place)
    assert code_of(pin, f"{place}/{name}") == "SPS-MODEL-MISSING"


@pytest.mark.parametrize("data", [b"", b"text", graphs.linear()[:-20]], ids=["empty", "not ONNX", "truncated"])
def test_a_file_that_is_no_model_is_refused_and_not_cached(place, root, data):
    (place / "m.onnx").write_bytes(data)
    said = refusal(pin, str(place))
    assert said.code == "SPS-MODEL-FORMAT"
    assert f"m.onnx of {len(data)} bytes" in said.message
    assert said.context["model"] == str(place)
    assert list((root / "models").iterdir()) == []


def zipped(data):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("m.onnx", data)
    return packed.getvalue()


def picture():
    png = io.BytesIO()
    Image.new("RGB", (2, 2)).save(png, "PNG")
    return png.getvalue()


@pytest.mark.parametrize("data", [zipped(graphs.linear()), picture()], ids=["zip", "png"])
def test_a_file_of_another_format_is_no_model(place, data):
    (place / "m.onnx").write_bytes(data)
    assert code_of(pin, str(place)) == "SPS-MODEL-FORMAT"


def test_a_model_cut_at_any_place_is_refused_or_another_model_that_does_not_load(place):
    whole, codes = graphs.linear(), set()
    digest = pin(str(plain(place))).ref.sha256
    for end in range(0, len(whole), 7):
        (place / "m.onnx").write_bytes(whole[:end])
        try:
            cut = pin(str(place))
            assert cut.ref.sha256 != digest
            read_signature(cut.folder, cut.ref.main)
        except SparkscoreError as refused:
            codes.add(refused.code)
    assert codes == {"SPS-MODEL-FORMAT"}


@pytest.mark.parametrize("uri", ["dbfs:/Volumes/c/s/v/m", "/Volumes/c/s/v/m", "dbfs:/m/m.onnx"])
def test_a_volume_that_is_not_mounted_is_a_missing_model_named_as_written(uri):
    said = refusal(pin, uri)
    assert (said.code, said.context["model"]) == ("SPS-MODEL-MISSING", uri)


@pytest.mark.parametrize("uri", ["gs://b/m.onnx", "http://h/m.onnx", "s3:m.onnx"])
def test_a_scheme_that_nothing_reads_is_named(uri):
    assert code_of(pin, uri) == "SPS-ENV-SOURCE"


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "weights/part 1/w.bin", "weights//w.bin"])
def test_external_data_is_part_of_the_model_and_loads_from_the_copy(place, location):
    uri = with_weights(place, location)
    write_weights(place / location)
    model = pin(str(uri))
    assert [f.path for f in model.ref.files] == ["m.onnx", str(Path(location))]
    uri.unlink()
    assert score(model, (10, 20)) == [[11, 22]]


def test_external_data_is_relative_to_the_onnx_file(place):
    with_weights(place, "w.bin", "data/m.onnx")
    write_weights(place / "data" / "w.bin")
    (place / "MLmodel").write_text("flavors: {onnx: {data: data/m.onnx}}")
    model = pin(str(place))
    assert [f.path for f in model.ref.files] == ["data/m.onnx", "data/w.bin"]
    assert score(model, (10, 20)) == [[11, 22]]


def test_external_data_of_a_subgraph_is_part_of_the_model(place):
    weights = onnx.load(with_weights(place), load_external_data=False).graph.initializer
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "b", [], [out], weights)
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    ends = [helper.make_tensor_value_info(*end) for end in (("c", TensorProto.BOOL, []), ("y", TensorProto.FLOAT, [2]))]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    (place / "m.onnx").write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    assert code_of(pin, str(place)) == "SPS-MODEL-EXTERNAL"
    write_weights(place / "w.bin")
    assert [f.path for f in pin(str(place)).ref.files] == ["m.onnx", "w.bin"]


def test_a_byte_of_the_external_data_changes_the_digest(place):
    uri = str(with_weights(place))
    write_weights(place / "w.bin")
    before = pin(uri).ref
    (place / "w.bin").write_bytes(bytes(24))
    after = pin(uri).ref
    assert before.files[0] == after.files[0]
    assert before.sha256 != after.sha256


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "a/../../secret",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a\\..\\..\\secret",
        "w\0.bin",
        "*/_ORT_MEM_ADDR_/*",
    ],
)
def test_external_data_outside_the_folder_is_refused(place, location):
    write_weights(place.parent / "secret")
    write_weights(place / "*" / "_ORT_MEM_ADDR_" / "*")
    uri = str(with_weights(place, location))
    assert code_of(pin, uri) == code_of(pin, uri, allow_links=True) == "SPS-MODEL-EXTERNAL"


@pytest.mark.parametrize(
    "entries", [{"length": 17}, {"offset": 25}, {"offset": -1}, {"length": -1}, {"offset": 1 << 80}]
)
def test_external_data_longer_than_its_file_is_refused(place, entries):
    write_weights(place / "w.bin")
    assert code_of(pin, str(with_weights(place, **entries))) == "SPS-MODEL-EXTERNAL"


def test_external_data_that_is_missing_or_no_file_is_refused(place):
    uri = str(with_weights(place))
    assert code_of(pin, uri) == "SPS-MODEL-EXTERNAL"
    (place / "w.bin").mkdir()
    assert code_of(pin, uri) == "SPS-MODEL-EXTERNAL"
    (place / "w.bin").rmdir()
    os.mkfifo(place / "w.bin")
    assert code_of(pin, uri) == "SPS-MODEL-EXTERNAL"


def test_a_link_inside_the_folder_is_copied_as_a_file(place):
    (place / "v7").mkdir()
    plain(place / "v7", "real")
    (place / "m.onnx").symlink_to("v7/real")
    model = pin(str(place))
    assert not (model.folder / "m.onnx").is_symlink()
    assert (model.folder / "m.onnx").read_bytes() == graphs.linear()


def test_the_folder_itself_may_be_a_link(place):
    plain(place)
    (place.parent / "current").symlink_to(place)
    assert pin(f"{place.parent}/current").ref.sha256 == pin(str(place)).ref.sha256


def linked_out(place, kind):
    outside = place.parent / "outside"
    outside.mkdir()
    if kind == "model":
        (place / "m.onnx").symlink_to(plain(outside))
        return
    with_weights(place, "d/w.bin")
    write_weights(outside / "w.bin")
    if kind == "weights":
        (place / "d").mkdir()
        (place / "d" / "w.bin").symlink_to(outside / "w.bin")
    else:
        (place / "d").symlink_to(outside)


@pytest.mark.parametrize("kind", ["model", "weights", "folder of the weights"])
def test_a_link_that_leaves_the_folder_is_refused_unless_allowed(place, kind):
    linked_out(place, kind)
    said = refusal(pin, str(place))
    assert said.code == "SPS-MODEL-LINK"
    assert "allow_links" in said.fix
    model = pin(str(place), allow_links=True)
    assert all((model.folder / f.path).is_file() and not (model.folder / f.path).is_symlink() for f in model.ref.files)


def test_a_folder_whose_name_only_begins_like_the_models_is_outside(place):
    (place.parent / "fraud-secret").mkdir()
    (place / "m.onnx").symlink_to(plain(place.parent / "fraud-secret"))
    assert code_of(pin, str(place)) == "SPS-MODEL-LINK"


def test_a_link_in_a_circle_is_missing(place):
    (place / "m.onnx").symlink_to("m.onnx")
    assert code_of(pin, f"{place}/m.onnx") == "SPS-MODEL-MISSING"


def test_a_hard_link_is_an_ordinary_file(place):
    os.link(plain(place.parent, "first"), place / "m.onnx")
    assert pin(str(place)).ref.files[0].size_bytes == len(graphs.linear())


def test_encoders_files_are_part_of_the_identity_and_stand_beside_the_model(place, tmp_path):
    plain(place)
    for name, text in (("a", "1"), ("b", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocabulary.txt").write_text(text)
    written = {"x/vocabulary.txt": f"{tmp_path}/a/vocabulary.txt", "y": f"file:{tmp_path}/b/vocabulary.txt"}
    model = pin(str(place), encoder_files=written)
    assert model.encoder_paths == {
        "x/vocabulary.txt": "encoders/0-vocabulary.txt",
        "y": "encoders/1-vocabulary.txt",
    }
    assert [(model.folder / path).read_text() for path in model.encoder_paths.values()] == ["1", "2"]
    assert [f.source for f in model.ref.files[1:]] == [f"{tmp_path}/a/vocabulary.txt", f"{tmp_path}/b/vocabulary.txt"]
    (tmp_path / "b" / "vocabulary.txt").write_text("3")
    assert pin(str(place), encoder_files=written).ref.sha256 != model.ref.sha256


def test_a_node_fetches_encoders_files_from_their_own_places_and_refuses_changed_ones(place, tmp_path, monkeypatch):
    plain(place)
    (tmp_path / "v.txt").write_text("AA")
    model = pin(str(place), encoder_files={"v.txt": str(tmp_path / "v.txt")})
    monkeypatch.setenv("SPARKSCORE_CACHE", str(tmp_path / "another node"))
    assert (cache.local_folder(model.ref) / "encoders" / "0-v.txt").read_text() == "AA"
    monkeypatch.setenv("SPARKSCORE_CACHE", str(tmp_path / "a third node"))
    (tmp_path / "v.txt").write_text("AB")
    assert code_of(cache.local_folder, model.ref) == "SPS-MODEL-DIGEST"


def test_external_data_cannot_stand_in_for_an_encoders_file(place, tmp_path):
    write_weights(place / "encoders" / "0-v.txt")
    (tmp_path / "v.txt").write_text("AA")
    uri = str(with_weights(place, "encoders/0-v.txt"))
    assert code_of(pin, uri, encoder_files={"v.txt": str(tmp_path / "v.txt")}) == "SPS-MODEL-ENCODER"


def test_only_what_workers_read_with_pyarrow_is_left_for_them_to_fetch():
    assert all(registry.workers_read(uri) for uri in ("/m", "file:/m", "s3://b/m", "s3a://b/m", "dbfs:/Volumes/m"))
    assert not any(registry.workers_read(uri) for uri in ("hdfs://namenode/m", "HDFS://namenode/m"))


def test_an_encoders_file_that_is_missing_or_a_folder_is_named_as_it_was_written(place, tmp_path):
    plain(place)
    for at in (tmp_path / "none", tmp_path):
        said = refusal(pin, str(place), encoder_files={"as written": str(at)})
        assert said.code == "SPS-MODEL-ENCODER"
        assert "as written" in said.message


def test_pinning_again_takes_the_cached_copy_and_mends_a_damaged_one(place):
    plain(place)
    model = pin(str(place))
    inode = (model.folder / "m.onnx").stat().st_ino
    assert (pin(str(place)).folder / "m.onnx").stat().st_ino == inode
    (model.folder / "m.onnx").write_bytes(b"damaged")
    assert (pin(str(place)).folder / "m.onnx").read_bytes() == graphs.linear()


def test_a_model_that_changed_after_pinning_is_refused_where_it_is_fetched(place, tmp_path, monkeypatch):
    model = pin(str(plain(place)))
    (place / "m.onnx").write_bytes(graphs.linear(width=3))
    assert cache.local_folder(model.ref) == model.folder  # this node holds the pinned bytes
    monkeypatch.setenv("SPARKSCORE_CACHE", str(tmp_path / "another node"))
    said = refusal(cache.local_folder, model.ref)
    assert (said.code, said.exit_code) == ("SPS-MODEL-DIGEST", 5)


def test_a_model_exported_with_external_data_by_onnx_itself_is_pinned_whole(place):
    proto = onnx.load_model_from_string(graphs.linear())
    onnx.save_model(proto, str(place / "m.onnx"), save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    model = pin(str(place))
    assert [f.path for f in model.ref.files] == ["m.onnx", "m.onnx.data"]
    assert score(model, (1, 1)) == [[3.5]]


@pytest.mark.s3
@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_a_model_on_s3_is_pinned_and_fetched_by_a_node_that_never_saw_it(s3, tmp_path, monkeypatch, scheme):
    base = f"{s3.bucket('models').replace('s3', scheme)}/fraud v7"
    folder = s3.folder / "models" / "fraud v7"
    folder.mkdir(exist_ok=True)
    with_weights(folder)
    write_weights(folder / "w.bin")
    model = pin(base)
    assert model.ref.location == base
    assert model.ref.files == pin(f"{base}/m.onnx").ref.files
    monkeypatch.setenv("SPARKSCORE_CACHE", str(tmp_path / "another node"))
    assert cache.local_folder(model.ref).is_relative_to(tmp_path / "another node")
    assert score(model, (10, 20)) == [[11, 22]]


@pytest.mark.s3
def test_what_s3_lacks_or_refuses_has_its_own_code(s3, monkeypatch):
    bucket = s3.bucket("lacking")
    assert code_of(pin, f"{bucket}/none") == "SPS-MODEL-MISSING"
    assert code_of(pin, "s3://nobucket/m.onnx") == "SPS-MODEL-MISSING"
    with_weights(s3.folder / "lacking")
    assert code_of(pin, bucket) == "SPS-MODEL-EXTERNAL"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-nobody-may-read")
    said = refusal(pin, bucket)
    assert said.code == "SPS-ENV-ACCESS"
    assert "nobody-may-read" not in f"{said} {said.__cause__}"


@pytest.mark.parametrize(
    "uri", ["models:/fraud", "models:/fraud/Production", "models:/m-4f2", "models:fraud/7", "runs:/x"]
)
def test_a_registrys_uri_of_another_form_is_refused_before_mlflow_is_asked(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert re.search(r"Expected (models|runs):/<", refusal(pin, uri).message)
