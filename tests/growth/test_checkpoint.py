"""Headers and indexes, honest and hostile: what is read is exactly what lies in the folder, or nothing is."""

import json
import os
import random
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hf_bootstrap.errors import BootstrapError, CorruptFileError, GrowthError, StoreError, UnsupportedModelError
from hf_bootstrap.growth.checkpoint import match_tensors, open_checkpoint, read_header

WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.bfloat16), "c": torch.ones(())}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "base"
    path.mkdir()
    save_file(WEIGHTS, path / "model.safetensors", metadata={"format": "pt"})
    return path


def sharded(folder, places=None, **tensors):
    """An index over one file per tensor."""
    os.unlink(folder / "model.safetensors")
    for name, tensor in tensors.items():
        save_file({name: tensor}, folder / f"{name}.safetensors")
    record = {"weight_map": {n: f"{n}.safetensors" for n in tensors} if places is None else places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(record))


def write_header(folder, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def tensor(start, stop, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_entries_are_where_safetensors_finds_them(folder):
    found = open_checkpoint(folder)
    content = (folder / "model.safetensors").read_bytes()
    with safe_open(folder / "model.safetensors", "pt") as oracle:
        assert set(found.entries) == set(oracle.keys())
        for name, entry in found.entries.items():
            assert entry.shape == tuple(oracle.get_tensor(name).shape)
            raw = oracle.get_tensor(name).reshape(-1).view(torch.uint8).numpy().tobytes()
            assert content[entry.start : entry.stop] == raw


def test_shards_are_one_checkpoint(folder):
    sharded(folder, x=torch.ones(2), y=torch.ones(3))
    found = open_checkpoint(folder)
    assert found.files == ("x.safetensors", "y.safetensors")
    assert {name: entry.file for name, entry in found.entries.items()} == {"x": "x.safetensors", "y": "y.safetensors"}


@pytest.mark.parametrize("place", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", "x\0.safetensors"])
def test_an_index_that_points_elsewhere_is_refused(folder, tmp_path, place):
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    sharded(folder, {"x": place}, x=torch.ones(2))
    with pytest.raises((CorruptFileError, StoreError)):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_links_are_not_followed(folder, tmp_path, name):
    if name != "model.safetensors":
        sharded(folder, x=torch.ones(2))
    os.rename(folder / name, tmp_path / "outside")
    os.symlink(tmp_path / "outside", folder / name)
    with pytest.raises(CorruptFileError, match="is a link"):
        open_checkpoint(folder)


def test_a_pipe_is_not_waited_for(folder):
    os.unlink(folder / "model.safetensors")
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(CorruptFileError, match="no regular file"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        ({"x": "x.safetensors", "y": "x.safetensors"}, "does not hold it"),
        ({"x": "x.safetensors", "y": "y.safetensors", "z": "y.safetensors"}, "does not hold it"),
        ({"x": "y.safetensors", "y": "y.safetensors"}, "does not hold it"),
        ({}, "no weight_map"),
        ({"x": 3}, "no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(folder, places, reason):
    sharded(folder, places, x=torch.ones(2), y=torch.ones(3))
    with pytest.raises(CorruptFileError, match=reason):
        open_checkpoint(folder)


def test_a_tensor_the_index_does_not_know_is_refused(folder):
    sharded(folder, {"x": "x.safetensors"}, x=torch.ones(2))
    save_file({"x": torch.ones(2), "y": torch.ones(2)}, folder / "x.safetensors")
    with pytest.raises(CorruptFileError, match=r"y is in 'x\.safetensors'"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"{", b""),
        (b"[]", b""),
        (b"\xff\xfe", b""),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
         b"\0" * 4),
        (b"[" * 100_000, b""),
        (b'{"a": ' + b"9" * 10_000 + b"}", b""),
        ({"a": 3}, b""),
        ({"a": tensor(0, 4, [-1])}, b"\0" * 4),
        ({"a": tensor(0, 4, [1.0])}, b"\0" * 4),
        ({"a": tensor(0, 4, [2])}, b"\0" * 4),
        ({"a": tensor(4, 8, [1])}, b"\0" * 8),
        ({"a": tensor(0, 4, [1]), "b": tensor(0, 4, [1])}, b"\0" * 4),
        ({"a": tensor(0, 4, [1])}, b"\0" * 5),
        ({"a": tensor(0, 4, [1])}, b"\0" * 3),
        ({"a": tensor(0, 2**62, [2**60])}, b""),
        ({"a": tensor(0, 0, [0, 10**18, 10**18])}, b"x"),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"\0" * 4),
    ],
    ids=range(17),
)  # fmt: skip
def test_a_header_that_breaks_the_format_is_refused(folder, header, data):
    write_header(folder, header, data)
    with pytest.raises(CorruptFileError):
        open_checkpoint(folder)


@pytest.mark.parametrize("length", [2**63, 100_000_001, 10**6])
def test_a_header_larger_than_the_file_is_not_read(folder, length):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(CorruptFileError, match="cut short"):
        open_checkpoint(folder)


def test_quantised_dtypes_are_named(folder):
    write_header(folder, {"a": tensor(0, 4, [8], "F4")}, b"\0" * 4)
    with pytest.raises(UnsupportedModelError, match="F4"):
        open_checkpoint(folder)


def test_any_cut_or_flip_gives_our_error_or_a_readable_header(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFileError):
            read_header(path)
    chance = random.Random(0)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[chance.randrange(header)] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            read_header(path)
        except BootstrapError:
            refused += 1
    assert refused > 250  # a flip in a name or in white space leaves a header that can be read


def test_pickles_are_refused_with_the_way_out(folder):
    os.unlink(folder / "model.safetensors")
    torch.save(WEIGHTS, folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="allow_pickle"):
        open_checkpoint(folder)


def test_folders_without_weights_are_named(folder, tmp_path):
    os.unlink(folder / "model.safetensors")
    with pytest.raises(GrowthError, match="no weights"):
        open_checkpoint(folder)
    with pytest.raises(StoreError, match="a name on the Hub"):
        open_checkpoint(tmp_path / "org/name")


SHAPES = {"a.weight": (3, 4), "b": (5,), "c": ()}


def test_every_tensor_is_matched_once(folder):
    checkpoint = open_checkpoint(folder)
    assert set(match_tensors(checkpoint, SHAPES, {}).entries) == set(SHAPES)
    prefixed = {f"model.{name}": shape for name, shape in SHAPES.items()}
    assert set(match_tensors(checkpoint, prefixed, {}, prefix="model").entries) == set(prefixed)
    with pytest.raises(GrowthError, match=r"lacks tensors.*: d "):
        match_tensors(checkpoint, {**SHAPES, "d": (1,)}, {})
    with pytest.raises(GrowthError, match=r"does not know: b "):
        match_tensors(checkpoint, {"a.weight": (3, 4), "c": ()}, {})
    with pytest.raises(GrowthError, match=r"another shape.*b \[5\], not \[6\]"):
        match_tensors(checkpoint, {**SHAPES, "b": (6,)}, {})
    assert match_tensors(checkpoint, {"a.weight": (3, 4), "c": ()}, {}, ignored=["^b$"]).left_out == ("b",)


def test_a_tied_tensor_may_be_stored_under_either_name_or_both(folder):
    save_file({"embed": torch.ones(2), "head": torch.ones(2)}, folder / "model.safetensors")
    match = match_tensors(open_checkpoint(folder), {"embed": (2,)}, {"head": "embed"})
    assert match.entries["embed"].name == "embed"
    assert [(alias.name, first.name) for alias, first in match.aliases] == [("head", "embed")]
    save_file({"head": torch.ones(2)}, folder / "model.safetensors")
    match = match_tensors(open_checkpoint(folder), {"embed": (2,)}, {"head": "embed"})
    assert (match.entries["embed"].name, match.aliases) == ("head", ())
