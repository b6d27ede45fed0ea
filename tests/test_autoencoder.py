"""`from ssdd import SSDD`: encode, decode, reconstruct, and every way to load and save."""

import json
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ssdd import SSDD
from ssdd_decoder import CheckpointError, Decoder, DecoderConfig, decoder_config
from ssdd_encoder import Encoder, EncoderConfig, encoder_config

OWN_ENCODER = EncoderConfig(base_channels=8, multipliers=(1, 2), latent_channels=6, patch_size=2, norm_groups=4)
OWN_DECODER = DecoderConfig(
    base_channels=8,
    multipliers=(1, 2),
    transformer_blocks=1,
    heads=1,
    latent_channels=6,
    downscale=4,
    patch_size=2,
    norm_groups=4,
    prediction="sample",
)
PAIRS = [("debug", "debug"), ("quickstart", "quickstart"), (OWN_ENCODER, OWN_DECODER), ("f2c4", "debug")]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(encoder="debug", decoder="debug", seed: int = 0) -> SSDD:
    """A model whose weights are all random: zeros and ones, as initialised, would hide mistakes."""
    model = SSDD(encoder, decoder).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        fan = parameter.numel() / parameter.shape[0] if parameter.ndim > 1 else 10
        parameter.data = torch.randn(parameter.shape, generator=generator) / fan**0.5
    return model


def images(batch: int = 2, height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_reconstruct_is_decode_of_the_posteriors_mode(encoder, decoder):
    model, x = make(encoder, decoder), images()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    posterior = model.encode(x)
    out = model.reconstruct(x, steps=3, noise=noise)
    assert out.shape == x.shape
    assert torch.equal(out, model.decode(posterior.mode(), steps=3, noise=noise))
    assert torch.equal(out, model.decoder.decode(model.encoder(x).mean, steps=3, noise=noise))
    assert not out.requires_grad
    assert not posterior.mean.requires_grad


def test_default_step_counts_and_keys():
    model = make()
    assert {key.split(".")[0] for key in model.state_dict()} == {"encoder", "decoder"}
    generator = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    z = model.encode(images()).mode()
    assert torch.equal(model.decode(z, generator=generator()), model.decode(z, steps=1, generator=generator()))
    assert torch.equal(model.reconstruct(images(), generator=generator()), model.decode(z, generator=generator()))


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(1, 3), rows=st.integers(1, 3), columns=st.integers(1, 3))
def test_split_batches_reconstruct_alike(cut, rows, columns):
    model, x = make().double(), images(4, 8 * rows, 8 * columns).double()
    seeded = lambda seeds: [torch.Generator().manual_seed(seed) for seed in seeds]  # noqa: E731
    whole = model.reconstruct(x, steps=2, generator=seeded(range(4)))
    parts = [model.reconstruct(x[:cut], 2, generator=seeded(range(cut)))]
    parts.append(model.reconstruct(x[cut:], 2, generator=seeded(range(cut, 4))))
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-8, rtol=0)


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_saved_equals_loaded_whatever_the_source(tmp_path, encoder, decoder, monkeypatch):
    model = make(encoder, decoder)
    file = model.save_pretrained(tmp_path / "here" / "it")
    assert file == tmp_path / "here" / "it" / "ssdd.safetensors"
    monkeypatch.chdir(tmp_path)
    for source in (file, str(file), file.parent, "here/it"):
        loaded = SSDD.from_pretrained(source)
        assert equal(loaded, model)
        assert (loaded.encoder.config, loaded.decoder.config) == (model.encoder.config, model.decoder.config)
        assert not loaded.training
    assert equal(SSDD(encoder, decoder, checkpoint=file), model)
    assert equal(Encoder.from_pretrained(file), model.encoder)
    assert equal(Decoder.from_pretrained(file.parent), model.decoder)


@pytest.mark.parametrize("name", ["ssdd.safetensors", "model.safetensors"])
def test_hub_id_is_read_from_the_cache(tmp_path, monkeypatch, name):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo, revision = tmp_path / "models--some--model", "b" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(revision)
    model = make()
    model.save_pretrained(repo / "snapshots" / revision / name)
    assert equal(SSDD.from_pretrained("some/model"), model)
    assert equal(SSDD("debug", "debug", checkpoint="some/model"), model)
    assert equal(Encoder.from_pretrained("some/model"), model.encoder)
    assert equal(Decoder.from_pretrained("some/model"), model.decoder)
    with pytest.raises(CheckpointError, match="no checkpoint of that name in the hub's cache"):
        SSDD.from_pretrained("some/other")


def test_metadata_travels_in_the_header(tmp_path):
    from ssdd_decoder import checkpoint

    file = make().save_pretrained(tmp_path, {"run": "a"})
    contents = checkpoint.read(file)
    assert contents.metadata == {"run": "a"}
    assert contents.config == json.loads(
        json.dumps({"encoder": asdict(encoder_config("debug")), "decoder": asdict(decoder_config("debug"))})
    )


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_configurations_are_read_without_the_weights(tmp_path, monkeypatch, encoder, decoder):
    model = make(encoder, decoder)
    model.save_pretrained(tmp_path / "both")
    model.encoder.save_pretrained(tmp_path / "parts")
    model.decoder.save_pretrained(tmp_path / "decoder")
    monkeypatch.setattr("ssdd_decoder.header._digest", lambda *_: pytest.fail("the whole file was read"))
    shapes = (model.encoder.config, model.decoder.config)
    assert SSDD.config_of(tmp_path / "both") == SSDD.config_of(str(tmp_path / "both" / "ssdd.safetensors")) == shapes
    assert SSDD.config_of(tmp_path / "decoder") == (None, shapes[1])
    model.decoder.save_pretrained(tmp_path / "parts")
    assert SSDD.encoder_config_of(tmp_path / "parts") == shapes[0]
    with pytest.raises(CheckpointError, match="no file or folder"):
        SSDD.config_of(tmp_path / "nowhere")


def test_errors_of_either_part_are_one(tmp_path):
    """An encoder in a file of its own included, although the encoder package has a CheckpointError of its own."""
    file = make().encoder.save_pretrained(tmp_path / "a.safetensors")
    for source in (file, tmp_path / "nowhere.safetensors"):
        with pytest.raises(CheckpointError):
            SSDD("quickstart", "quickstart", encoder_checkpoint=source)


def test_parts_from_two_files(tmp_path):
    model = make()
    encoder = model.encoder.save_pretrained(tmp_path / "encoder")
    decoder = model.decoder.save_pretrained(tmp_path / "decoder")
    assert equal(SSDD("debug", "debug", checkpoint=decoder, encoder_checkpoint=encoder), model)
    fresh = SSDD("debug", "debug", encoder_checkpoint=tmp_path / "encoder")
    assert equal(fresh.encoder, model.encoder)
    assert not equal(fresh.decoder, model.decoder)


def test_encoder_of_its_own_file_comes_before_the_checkpoints(tmp_path):
    whole, other = make(seed=0).save_pretrained(tmp_path), make(seed=1)
    model = SSDD("debug", "debug", whole, other.encoder.save_pretrained(tmp_path / "other"))
    assert equal(model.encoder, other.encoder)
    assert equal(model.decoder, make(seed=0).decoder)


def test_sdvae_takes_the_checkpoints_encoder_before_the_hubs(tmp_path, monkeypatch):
    import ssdd_decoder.sources as sources

    model = make("f8c4", "debug")
    monkeypatch.setattr(sources, "_from_hub", lambda *_: pytest.fail("the hub was asked"))
    loaded = SSDD("sdvae", "debug", checkpoint=model.save_pretrained(tmp_path))
    assert equal(loaded, model)
    alone = model.decoder.save_pretrained(tmp_path / "decoder")
    encoder = model.encoder.save_pretrained(tmp_path / "encoder")
    assert equal(SSDD("sdvae", "debug", checkpoint=alone, encoder_checkpoint=encoder), model)
    monkeypatch.setattr(sources, "_from_hub", lambda repository, _: encoder if "sd-vae" in repository else None)
    assert equal(SSDD("sdvae", "debug", checkpoint=alone), model)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_training_checkpoints_load_whole(tmp_path, prefix):
    model = make()
    header = {"ssdd": json.dumps({"encoder": asdict(model.encoder.config), "decoder": asdict(model.decoder.config)})}
    state = {prefix + key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors", metadata=header)
    assert equal(SSDD.from_pretrained(tmp_path), model)


MISFITS = {
    "missing": (lambda s: s.pop("decoder.conv_out.bias"), "conv_out.bias is missing"),
    "missing in encoder": (lambda s: s.pop("encoder.conv_out.bias"), "conv_out.bias is missing"),
    "surplus in part": (lambda s: s.update({"decoder.x": torch.zeros(1)}), "x is left over"),
    "surplus beside": (lambda s: s.update({"x.y": torch.zeros(1)}), "neither encoder nor decoder, such as x.y"),
    "no encoder": (lambda s: [s.pop(k) for k in list(s) if k.startswith("encoder.")], "holds decoder, no encoder"),
    "no decoder": (lambda s: [s.pop(k) for k in list(s) if k.startswith("decoder.")], "holds encoder, no decoder"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_files_that_do_not_fit_are_named(tmp_path, name):
    change, message = MISFITS[name]
    file = make().save_pretrained(tmp_path)
    header = {
        "ssdd": json.dumps({"encoder": asdict(encoder_config("debug")), "decoder": asdict(decoder_config("debug"))})
    }
    state = load_file(file)
    change(state)
    save_file(state, file, metadata=header)
    for load in (lambda: SSDD.from_pretrained(file), lambda: SSDD("debug", "debug", checkpoint=file)):
        with pytest.raises(CheckpointError, match=message.replace(".", r"\.")):
            load()


def test_parts_of_different_latent_spaces_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a decoder of f8c4 latents, got one of f4c6: choose"):
        SSDD("f8c4", OWN_DECODER)
    model = make()
    config = {"encoder": asdict(model.encoder.config), "decoder": asdict(decoder_config("debug", downscale=16))}
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors", metadata={"ssdd": json.dumps(config)})
    with pytest.raises(CheckpointError, match="two parts that do not fit: expected a decoder of f8c4 latents"):
        SSDD.from_pretrained(tmp_path)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="encoder named"):
        SSDD("f9c4", "M")
    with pytest.raises(ValueError, match="decoder size among"):
        SSDD("f8c4", "XXS")
    with pytest.raises(CheckpointError, match="no file or folder"):
        SSDD("debug", "debug", checkpoint="nowhere.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(1, 3, 12, 8)}, "multiples of 8"),
        ({"x": torch.full((1, 3, 8, 8), 200.0)}, r"in \[-1, 1\], got"),
        ({"x": torch.zeros(1, 3, 8, 8).byte()}, "torch.uint8"),
        ({"x": torch.zeros(1, 1, 8, 8)}, r"\(1, 1, 8, 8\)"),
        ({"steps": 0}, "steps"),
        ({"noise": torch.zeros(1, 3, 8, 16)}, "noise of shape"),
        ({"x": torch.full((1, 3, 8, 8), torch.nan), "check_finite": True}, "finite images"),
    ],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=f"expected .*{message}"):
        make().reconstruct(**({"x": torch.zeros(1, 3, 8, 8)} | arguments))


def test_import_of_the_package_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, ssdd; assert 'torch' not in sys.modules; from ssdd import SSDD; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_readme_runs_as_written(tmp_path, monkeypatch):
    import re
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    save_generator(tmp_path / "my-generator")
    names = {}
    exec(compile("\n".join(blocks), "README.md", "exec"), names)
    assert names["picture"].size == (32, 32)


def save_generator(folder):
    """A tiny pipeline of random weights, with another autoencoder of 16 channels and F = 8."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    network = DiTTransformer2DModel(
        sample_size=4,
        num_layers=1,
        patch_size=2,
        attention_head_dim=4,
        num_attention_heads=2,
        in_channels=16,
        out_channels=32,
        num_embeds_ada_norm=1000,
        norm_elementwise_affine=False,
    )
    kinds = {
        f"{way}_block_types": (f"{way.title()}{part}Block2D",) * 4
        for way, part in (("down", "Encoder"), ("up", "Decoder"))
    }
    other = AutoencoderKL(**kinds, block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=16)
    DiTPipeline(transformer=network, vae=other, scheduler=DDIMScheduler()).save_pretrained(folder)
