"""Decoders from files: saved equals loaded bitwise, published layouts load, and misfits are named."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssdd_decoder import CheckpointError, Decoder, DecoderConfig, checkpoint, decoder_config

OWN = DecoderConfig(base_channels=8, multipliers=(1, 2, 2), transformer_blocks=1, heads=2, norm_groups=4, downscale=16)


def equal(a: Decoder, b: Decoder) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(left[k], right[k]) and left[k].dtype == right[k].dtype for k in left
    )


def refused(source, pattern: str | None = None, **options) -> None:
    with pytest.raises(CheckpointError, match=pattern) as caught:
        Decoder.from_pretrained(source, **options)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", ["debug", "quickstart", OWN])
def test_saved_equals_loaded_bitwise(make_decoder, tmp_path, config, dtype):
    decoder = make_decoder(config).to(dtype)
    file = decoder.save_pretrained(tmp_path)
    assert file == tmp_path / "decoder.safetensors"
    loaded = Decoder.from_pretrained(tmp_path)
    assert equal(loaded, decoder)
    assert loaded.config == decoder.config
    assert not loaded.training
    side = decoder.config.downscale
    z, noise = torch.ones(1, decoder.config.latent_channels, 1, 1), torch.ones(1, 3, side, side)
    assert torch.equal(loaded.decode(z, noise=noise), decoder.decode(z, noise=noise))


def test_loaded_decoder_trains(make_decoder, tmp_path):
    loaded = Decoder.from_pretrained(make_decoder().save_pretrained(tmp_path))
    loaded(torch.ones(1, 3, 8, 8), torch.ones(1), torch.ones(1, 4, 1, 1)).mean().backward()
    assert all(p.grad is not None for p in loaded.parameters())


PREFIXES = [
    "",
    "decoder.",
    "module.",
    "_orig_mod.",
    "module.decoder._orig_mod.",
    "decoder.module.",
    "_orig_mod.module.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_published_layout_loads_with_and_without_prefixes(make_decoder, tmp_path, prefix):
    decoder = make_decoder("XS")
    save_file({prefix + k: v.contiguous() for k, v in decoder.state_dict().items()}, tmp_path / "a.safetensors")
    loaded = Decoder.from_pretrained(tmp_path / "a.safetensors")
    assert equal(loaded, decoder)
    assert loaded.config == decoder_config("XS")
    assert equal(Decoder.from_pretrained(tmp_path, "XS"), decoder)


@pytest.mark.parametrize(("levels", "downscale"), [(2, 2), (3, 4), (4, 8), (5, 16), (6, 32)])
def test_downscale_of_a_published_file_follows_from_its_encoder(make_decoder, tmp_path, levels, downscale):
    decoder = make_decoder("XS", latent_channels=16)
    tensors = {f"decoder.{k}": v.contiguous() for k, v in decoder.state_dict().items()}
    tensors |= {f"encoder.down.{i}.block.0.conv1.bias": torch.zeros(1) for i in range(levels)}
    save_file(tensors, tmp_path / "a.safetensors")
    assert Decoder.from_pretrained(tmp_path).config == decoder_config("XS", latent_channels=16, downscale=downscale)


def test_downscale_of_a_decoder_alone_can_be_told(make_decoder, tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({k: v.contiguous() for k, v in make_decoder("XS").state_dict().items()}, file)
    assert Decoder.from_pretrained(file, downscale=16).config == decoder_config("XS", downscale=16)
    assert Decoder.from_pretrained(file, "XS", downscale=4).config == decoder_config("XS", downscale=4)
    make_decoder("XS").save_pretrained(file)
    refused(file, r"holds decoder XS \(.*\); decoder XS for f16c4 latents was asked for", downscale=16)


def test_other_size_is_named(make_decoder, tmp_path):
    file = make_decoder("XS").save_pretrained(tmp_path)
    refused(file, r"this file holds decoder XS \(4,996,611 parameters\); decoder M was asked for", config="M")
    save_file({f"decoder.{k}": v for k, v in load_file(file).items()}, file)  # published: no configuration
    refused(file, r"this file holds decoder XS \(4,996,611 parameters\); decoder M was asked for", config="M")


@pytest.mark.parametrize(
    "changes", [{"prediction": "sample"}, {"downscale": 4}, {"norm_groups": 4}, {"heads": 4}, {"latent_channels": 8}]
)
def test_same_or_other_shapes_with_another_meaning_are_refused(make_decoder, tmp_path, changes):
    decoder = make_decoder()
    refused(decoder.save_pretrained(tmp_path), "was asked for", config=replace(decoder.config, **changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv_out.bias"), r"conv_out\.bias is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra is left over"),
        (lambda s: s.update({"conv_out.bias": torch.zeros(4)}), r"conv_out\.bias is \(4,\), not \(3,\)"),
        (lambda s: s.update({"conv_out.bias": torch.zeros(3).bool()}), r"conv_out\.bias is torch\.bool"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "decoder."])
def test_misfits_are_named(make_decoder, tmp_path, change, message, prefix):
    state = {key: value.contiguous() for key, value in make_decoder("XS").state_dict().items()}
    change(state)
    save_file({prefix + key: value for key, value in state.items()}, tmp_path / "a.safetensors")
    refused(tmp_path, rf"does not fit decoder XS: {message}")


def test_tensors_of_neither_part_are_refused(make_decoder, tmp_path):
    state = {f"decoder.{key}": value.contiguous() for key, value in make_decoder().state_dict().items()}
    save_file(state | {"optimizer.step": torch.zeros(1)}, tmp_path / "a.safetensors")
    refused(tmp_path, "belong to neither encoder nor decoder, such as optimizer.step", config="debug")


@pytest.mark.parametrize("keys", [["encoder.conv_in.weight"], ["conv_in.weight", "down.0.block.0.conv1.bias"], []])
def test_file_without_a_decoder_is_named(tmp_path, keys):
    save_file({key: torch.zeros(1) for key in keys}, tmp_path / "a.safetensors")
    refused(tmp_path, "no decoder: give a file with one")


def test_decoder_of_another_kind_is_not_guessed(tmp_path):
    save_file({"decoder.conv_in.weight": torch.zeros(8, 4, 3, 3)}, tmp_path / "a.safetensors")
    refused(tmp_path, "no decoder that is known here: pass its config")
    refused(tmp_path, "does not fit decoder debug", config="debug")


@pytest.mark.parametrize("shape", [(), (8,), (0,), (2, 3)])
def test_scalars_where_kernels_belong(make_decoder, tmp_path, shape):
    state = {key: value.contiguous() for key, value in make_decoder("XS").state_dict().items()}
    save_file(state | {"conv_in.weight": torch.zeros(shape)}, tmp_path / "a.safetensors")
    refused(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"transformer_blocks": 10**9},
        {"resnets_per_level": 10**9},
        {"base_channels": 10**9},
        {"multipliers": [1] * 10**6},
        {"multipliers": [4096] * 4},
        {"latent_channels": 10**9},
        {"downscale": 10**9},
        {"heads": -1},
        {"prediction": "noise"},
        {"surprise": 1},
    ],
    ids=str,
)
def test_hostile_configurations_are_refused_before_a_network_is_built(make_decoder, tmp_path, monkeypatch, changes):
    config = asdict(decoder_config("debug")) | changes
    save_file(
        {"ada_ctx_proj.0.bias": torch.zeros(1)}, tmp_path / "a.safetensors", {"ssdd": json.dumps({"decoder": config})}
    )
    monkeypatch.setattr(Decoder, "__init__", lambda *_: pytest.fail("a network was built"))
    refused(tmp_path, "header that this version cannot read")


def test_pickle_and_truncation_are_refused(make_decoder, tmp_path):
    file = make_decoder().save_pretrained(tmp_path)
    whole = file.read_bytes()
    for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        refused(file, "not a whole safetensors file")
    torch.save(make_decoder().state_dict(), file)
    refused(file, "is a pickle")


def test_flipped_bits_are_found(make_decoder, tmp_path):
    file = make_decoder().save_pretrained(tmp_path)
    whole = bytearray(file.read_bytes())
    for at in range(len(whole) - 1, 20_000, -len(whole) // 20):
        whole[at] ^= 1
        file.write_bytes(whole)
        refused(file, "is damaged: its content does not match its hash")
        whole[at] ^= 1
    file.write_bytes(whole)
    Decoder.from_pretrained(file)


def test_metadata_of_the_writer_comes_back(make_decoder, tmp_path):
    decoder = make_decoder()
    config = {"decoder": asdict(decoder.config)}
    checkpoint.write(tmp_path / "a.safetensors", decoder.state_dict(), config, {"run": "α", "step": "3"})
    contents = checkpoint.read(tmp_path / "a.safetensors")
    assert contents.metadata == {"run": "α", "step": "3"}
    assert contents.parts == ("decoder",)
    assert equal(Decoder.from_contents(contents), decoder)


def test_configuration_is_read_from_the_header_or_the_shapes(make_decoder, tmp_path):
    decoder = make_decoder("XS", latent_channels=16, downscale=16)
    file = decoder.save_pretrained(tmp_path)
    assert Decoder.config_in(checkpoint.read_header(file)) == decoder.config
    tensors = {f"decoder.{key}": value.contiguous() for key, value in decoder.state_dict().items()}
    tensors |= {f"encoder.down.{i}.block.0.conv1.bias": torch.zeros(1) for i in range(5)}
    save_file(tensors, file)
    assert Decoder.config_in(checkpoint.read_header(file)) == decoder.config
    for keys in (["decoder.conv_in.weight"], ["encoder.conv_in.weight"], ["a"], []):
        save_file({key: torch.zeros(1) for key in keys}, file)
        assert Decoder.config_in(checkpoint.read_header(file)) is None
    save_file({"up_blocks.a": torch.zeros(1), "x": torch.zeros(1)}, file, {"ssdd": '{"decoder": {"heads": -1}}'})
    with pytest.raises(CheckpointError, match="header that this version cannot read"):
        Decoder.config_in(checkpoint.read_header(file))


def test_loading_does_not_import_the_compiler(tmp_path):
    Decoder("debug").save_pretrained(tmp_path / "decoder.safetensors")
    code = f"import sys; from ssdd_decoder import Decoder; Decoder.from_pretrained({str(tmp_path)!r}); "
    code += "sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0
