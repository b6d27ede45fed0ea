"""Checkpoints: saved weights come back bitwise, and all other files are refused with a clear error."""

import contextlib
import io
import json
import pickle
import random
import re
import struct
import sys
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ssdd_encoder import CheckpointError, Encoder, EncoderConfig, checkpoint, encoder_config

WIDE = EncoderConfig(base_channels=16, multipliers=(1, 2, 2, 2), resnets_per_level=1, norm_groups=8)


def equal(a: Encoder, b: Encoder) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(left[k], right[k]) and left[k].dtype == right[k].dtype for k in left
    )


def raw(header: dict | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def refused(file, pattern: str | None = None, config=None) -> None:
    with pytest.raises(CheckpointError, match=pattern) as caught:
        Encoder.from_pretrained(file, config)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["debug", "quickstart"])
def test_saved_equals_loaded_bitwise(make_encoder, tmp_path, name, dtype):
    encoder = make_encoder(name).to(dtype)
    file = encoder.save_pretrained(tmp_path / "model.safetensors")
    loaded = Encoder.from_pretrained(file)
    assert equal(encoder, loaded)
    assert loaded.config == encoder.config
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())


def test_file_is_plain_safetensors(make_encoder, tmp_path):
    encoder = make_encoder()
    file = encoder.save_pretrained(tmp_path)
    assert file == tmp_path / "encoder.safetensors"
    assert [f.name for f in tmp_path.iterdir()] == ["encoder.safetensors"]
    tensors = load_file(file)
    assert tensors.keys() == encoder.state_dict().keys()
    assert all(torch.equal(tensors[key], value) for key, value in encoder.state_dict().items())
    with safe_open(file, framework="pt") as opened:
        config = json.loads(opened.metadata()["ssdd"])
    assert EncoderConfig(**config["encoder"]) == encoder.config


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=6),
    dtypes=st.lists(st.sampled_from(list(checkpoint.DTYPES)), min_size=6, max_size=6),
    metadata=st.dictionaries(st.text(max_size=3), st.text(max_size=70), max_size=3),
)
def test_any_tensors_and_metadata_come_back(tmp_path_factory, shapes, dtypes, metadata):
    file = tmp_path_factory.mktemp("any") / "a.safetensors"
    tensors = {f"k{i} ü": torch.randint(0, 2, s).to(d) for i, (s, d) in enumerate(zip(shapes, dtypes, strict=False))}
    checkpoint.write(file, tensors, {"encoder": {"a": [1, "ü"]}}, {**metadata, "zeros": "0" * 64})
    contents = checkpoint.read(file)
    assert contents.config == {"encoder": {"a": [1, "ü"]}}
    assert contents.metadata == {**metadata, "zeros": "0" * 64}
    assert contents.tensors.keys() == tensors.keys() == load_file(file).keys()
    for key, tensor in tensors.items():
        assert contents.tensors[key].dtype == tensor.dtype
        assert torch.equal(contents.tensors[key], tensor)


def test_views_and_shared_tensors_are_written_whole(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    tensors = {"a": base.T, "b": base[1], "c": base}
    contents = checkpoint.read(checkpoint.write(tmp_path / "a.safetensors", tensors, {}))
    assert all(torch.equal(contents.tensors[key], value) for key, value in tensors.items())


def test_numpy_is_not_needed(make_encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    encoder = make_encoder()
    assert equal(Encoder.from_pretrained(encoder.save_pretrained(tmp_path)), encoder)


@pytest.mark.parametrize("name", ["debug", "quickstart"])
@pytest.mark.parametrize("published", [False, True])
def test_a_header_is_read_without_the_tensors(make_encoder, tmp_path, monkeypatch, name, published):
    """Even if the data after the header is damaged, since only the header is read."""
    encoder = make_encoder(encoder_config("f2c2") if published else name)
    file = encoder.save_pretrained(tmp_path)
    if published:
        save_file(encoder.state_dict(), file)
    whole = checkpoint.read(file)
    data = bytearray(file.read_bytes())
    data[-100:] = bytes(100)
    file.write_bytes(data)
    monkeypatch.setattr("ssdd_encoder.header._digest", lambda *_: pytest.fail("the whole file was read"))
    header = checkpoint.read_header(file)
    assert {key: value.shape for key, value in header.tensors.items()} == {k: v.shape for k, v in whole.tensors.items()}
    assert all(value.is_meta for value in header.tensors.values())
    assert (header.config, header.metadata, header.checked) == (whole.config, whole.metadata, False)
    assert Encoder.config_in(header) == Encoder.config_in(whole) == encoder.config


def test_dtype_that_files_do_not_hold_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(ValueError, match="expected a to have a dtype"):
        checkpoint.write(tmp_path / "a.safetensors", {"a": torch.zeros(1, dtype=torch.complex64)}, {})
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_previous_file(make_encoder, tmp_path, monkeypatch):
    file = make_encoder().save_pretrained(tmp_path)
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        make_encoder(seed=1).save_pretrained(tmp_path)
    assert file.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    "prefix", ["", "encoder.", "module.", "_orig_mod.", "module.encoder._orig_mod.", "encoder.module."]
)
def test_published_layout_loads_with_and_without_prefixes(make_encoder, tmp_path, prefix):
    encoder = make_encoder(encoder_config("f2c2"))
    save_file({prefix + key: value for key, value in encoder.state_dict().items()}, tmp_path / "a.safetensors")
    loaded = Encoder.from_pretrained(tmp_path / "a.safetensors")
    assert loaded.config == encoder_config("f2c2")
    assert equal(loaded, encoder)


def test_decoder_beside_the_encoder_is_left_aside(make_encoder, tmp_path):
    encoder = make_encoder()
    tensors = {f"encoder.{k}": v for k, v in encoder.state_dict().items()} | {"decoder.conv_in.weight": torch.zeros(2)}
    checkpoint.write(tmp_path / "a.safetensors", tensors, {"encoder": asdict(encoder.config), "decoder": {}})
    assert equal(Encoder.from_pretrained(tmp_path), encoder)


def test_tensors_of_neither_part_are_refused(make_encoder, tmp_path):
    tensors = {f"encoder.{k}": v for k, v in make_encoder().state_dict().items()} | {"ema.step": torch.zeros(1)}
    save_file(tensors, tmp_path / "a.safetensors")
    refused(tmp_path, r"1 tensors that belong to neither encoder nor decoder, such as ema\.step", "debug")


@pytest.mark.parametrize("key", ["decoder.conv_in.weight", "ada_ctx_proj.0.weight", "time_embedding.linear_1.bias"])
@pytest.mark.parametrize("header", [{}, {"ssdd": '{"decoder": {}}'}])
def test_decoder_alone_holds_no_encoder(tmp_path, key, header):
    """Without a prefix or a header, the error cannot name the network of keys that are not an encoder's."""
    save_file({key: torch.zeros(4)}, tmp_path / "a.safetensors", header)
    named = header or key.startswith("decoder.")
    refused(tmp_path, f"holds {'decoder, ' if named else ''}no encoder: give a file with one", "debug")


def test_names_that_differ_by_a_wrapper_only_are_refused(make_encoder, tmp_path):
    state = make_encoder().state_dict()
    save_file(state | {"module.conv_in.bias": torch.zeros(8)}, tmp_path / "a.safetensors")
    refused(tmp_path, "differ only by a wrapper's prefix")


def test_mixed_dtypes_become_the_one_that_holds_them_all(make_encoder, tmp_path):
    encoder = make_encoder()
    state = {k: v.bfloat16() if "norm" in k else v for k, v in encoder.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    loaded = Encoder.from_pretrained(tmp_path, encoder.config)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.norm_out.weight, encoder.norm_out.weight.bfloat16().float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("mid.block_1.conv1.bias"), "mid.block_1.conv1.bias is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra is left over"),
        (lambda s: s.update({"conv_in.bias": torch.zeros(9)}), r"conv_in.bias is \(9,\), not \(8,\)"),
        (lambda s: s.update({"conv_in.bias": torch.zeros(8, dtype=torch.int32)}), "conv_in.bias is torch.int32"),
        (lambda s: s.update({"conv_in.bias": torch.zeros(8).to(torch.float8_e4m3fn)}), "conv_in.bias is torch.float8"),
        (lambda s: s.clear(), "and .* more"),
    ],
)
def test_misfits_are_named(make_encoder, tmp_path, change, message):
    encoder = make_encoder()
    state = encoder.state_dict()
    change(state)
    save_file(state, tmp_path / "a.safetensors", metadata={"ssdd": json.dumps({"encoder": asdict(encoder.config)})})
    refused(tmp_path, rf"does not fit encoder debug: .*{message}")


@pytest.mark.parametrize("asked", [WIDE, "f8c4", "quickstart"])
def test_another_network_than_asked_for_is_named(make_encoder, tmp_path, asked):
    file = make_encoder().save_pretrained(tmp_path)
    refused(file, r"this file holds encoder debug \(31,528 parameters\); encoder .* was asked for", asked)


def test_same_shapes_with_other_meaning_are_refused(make_encoder, tmp_path):
    encoder = make_encoder()
    other = EncoderConfig(**asdict(encoder.config) | {"norm_groups": 4})
    refused(encoder.save_pretrained(tmp_path), "was asked for", other)


def test_fill_leaves_a_module_alone_when_anything_is_wrong(make_encoder, tmp_path):
    encoder, before = make_encoder(seed=1), make_encoder(seed=1)
    state = make_encoder(seed=2).state_dict()
    state.popitem()
    with pytest.raises(CheckpointError, match="missing"):
        checkpoint.Contents(tmp_path, {}, state, {}).fill(encoder, state, asked="encoder debug", held=None)
    assert equal(encoder, before)


def test_single_mutations_of_a_file_are_all_refused(make_encoder, tmp_path):
    good = make_encoder().save_pretrained(tmp_path / "good.safetensors").read_bytes()
    file = tmp_path / "bad.safetensors"
    rng = random.Random(0)
    for case in range(200):
        bad = bytearray(good)
        at = rng.randrange(len(bad)) if case % 2 else rng.randrange(4000)  # half of them in the header
        kind = case % 5
        if kind == 0:
            del bad[at:]
        elif kind == 1:
            bad[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            bad[at : at + 64] = bytes(len(bad[at : at + 64]))
        elif kind == 3:
            other = rng.randrange(len(bad))
            bad[at], bad[other] = bad[other], bad[at]
        else:
            bad[at:at] = bytes([rng.randrange(256)])
        if bytes(bad) == good:
            continue
        file.write_bytes(bad)
        refused(file)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200), length=st.none() | st.integers(0, 2**64 - 1))
def test_arbitrary_bytes_are_refused(tmp_path_factory, data, length):
    file = tmp_path_factory.getbasetemp() / "arbitrary.safetensors"
    file.write_bytes(data if length is None else struct.pack("<Q", length) + data)
    refused(file)


def _pickle(weights: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
SCALAR = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
HOSTILE = {
    "empty": b"",
    "length only": struct.pack("<Q", 8),
    "oversized header": struct.pack("<Q", 2**63) + b"{}",
    "header past the end": struct.pack("<Q", 1000) + b"{}",
    "200 MB header": struct.pack("<Q", 200_000_000) + b"{}",
    "not JSON": raw(b"{{{{"),
    "deep JSON": raw(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "overlapping offsets": raw({"a": F32, "b": F32}, bytes(8)),
    "hole": raw({"a": {**F32, "data_offsets": [8, 16]}}, bytes(16)),
    "offsets past the end": raw({"a": {**F32, "data_offsets": [0, 2**40]}}, bytes(8)),
    "negative offsets": raw({"a": {**F32, "data_offsets": [-8, 0]}}, bytes(8)),
    "backward offsets": raw({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8)),
    "absurd shape": raw({"a": {**F32, "shape": [2**62, 2**62]}}, bytes(8)),
    "absurd shape of nothing": raw({"a": {**F32, "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}),
    "negative shape": raw({"a": {**F32, "shape": [-2]}}, bytes(8)),
    "unknown dtype": raw({"a": {**F32, "dtype": "F7"}}, bytes(8)),
    "dtype torch has not": raw({"a": {**F32, "dtype": "F4", "shape": [16]}}, bytes(8)),
    "surplus data": raw({"a": F32}, bytes(16)),
    "metadata of numbers": raw({"__metadata__": {"ssdd": 3}, "a": F32}, bytes(8)),
    "scalars for vectors": raw({"out_proj.bias": SCALAR, "down.": {**SCALAR, "data_offsets": [4, 8]}}, bytes(8)),
    "wrong hash": raw({"__metadata__": {"ssdd_sha256": ""}, "a": F32}, bytes(8)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    file = tmp_path / "a.safetensors"
    file.write_bytes(HOSTILE[name])
    refused(file)
    refused(file, config="debug")
    with contextlib.suppress(CheckpointError):  # a header may be whole
        assert Encoder.config_in(checkpoint.read_header(file)) is None


@pytest.mark.parametrize(
    "content", [_pickle({"a": torch.zeros(2)}), *(pickle.dumps([1], protocol=p) for p in (2, 4, 5))]
)
def test_pickles_are_named_and_never_loaded(tmp_path, content):
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    refused(file, "is a pickle")


def test_header_length_may_begin_like_a_pickle(make_encoder, tmp_path):
    encoder = make_encoder()
    text = json.dumps({"encoder": asdict(encoder.config)})
    for padding in range(256):
        save_file(encoder.state_dict(), tmp_path / "a.safetensors", {"ssdd": text, "x": " " * padding})
        if (tmp_path / "a.safetensors").read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail("no padding gave such a header")
    assert equal(Encoder.from_pretrained(tmp_path), encoder)


@pytest.mark.parametrize(
    "config",
    [
        {"resnets_per_level": 10**9},
        {"base_channels": 10**12},
        {"multipliers": [1] * 10**6},
        {"multipliers": [[1]]},
        {"latent_channels": 10**9},
        {"patch_size": 10**9},
        {"no_such_field": 1},
        {"attention": "yes"},
        {"multipliers": {"a": 1}},
        ["f8c4"],
        "f8c4",
        None,
        10**5000,
    ],
    ids=lambda config: str(type(config).__name__) if not isinstance(config, dict) else next(iter(config)),
)
def test_hostile_configurations_are_refused_before_a_network_is_built(tmp_path, monkeypatch, config):
    monkeypatch.setattr(Encoder, "__init__", lambda *_: pytest.fail("a network was built"))
    sys.set_int_max_str_digits(0)
    text = json.dumps({"encoder": config})
    sys.set_int_max_str_digits(4300)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"ssdd": text})
    refused(tmp_path)


@pytest.mark.parametrize("text", ["[1]", "3", "{", '{"a":' * 100_000, "NaN"])
def test_header_entries_that_are_no_table_are_refused(tmp_path, text):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"ssdd": text})
    refused(tmp_path)


def test_network_of_too_many_levels_is_not_guessed(tmp_path):
    tensors = {f"down.{i}.block.0.conv1.bias": torch.zeros(1) for i in range(5000)}
    save_file(tensors | {"out_proj.bias": torch.zeros(8)}, tmp_path / "a.safetensors")
    refused(tmp_path, "no encoder that is known")


def test_no_hash_of_others_is_taken_for_ours(make_encoder, tmp_path):
    encoder = make_encoder()
    metadata = {"ssdd": json.dumps({"encoder": asdict(encoder.config)}), "sha256": "abc", "hash": "0" * 64}
    save_file(encoder.state_dict(), tmp_path / "a.safetensors", metadata)
    assert equal(Encoder.from_pretrained(tmp_path), encoder)


def test_message_of_a_large_misfit_stays_short(tmp_path):
    save_file({f"{'k' * 3000}{i}": torch.zeros(1) for i in range(50)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError) as caught:
        Encoder.from_pretrained(tmp_path, "debug")
    assert len(re.sub(re.escape(str(tmp_path)), "", str(caught.value))) < 1000
