"""Encoders of diffusers' autoencoders: the same latents, in checkpoints of this project and in an AutoencoderSSDD."""

import json

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from ssdd import SSDD, AutoencoderSSDD
from ssdd.commands.group import cli
from ssdd.diffusers_encoders import DiffusersEncoder
from ssdd.encoders import load_encoder
from ssdd.imported_encoders import import_encoder
from ssdd.integrations.encoder_import import import_to, provided_encoder
from ssdd.parameters import ModelParameters
from ssdd_decoder import CheckpointError
from ssdd_decoder.checkpoint import read, write
from ssdd_encoder import Encoder, EncoderConfig

# name: down-scale, channels, whether it becomes an encoder of this project
KINDS = {
    "sd": (2, 4, True),
    "xl": (2, 4, True),
    "sd3": (4, 16, True),
    "flux": (4, 16, True),
    "uneven": (2, 4, False),
    "tiny": (2, 4, False),
    "dc": (2, 4, False),
    "rae": (8, 64, False),
}


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def latents(autoencoder, images):
    """Mean and logarithm of the variance, as diffusers computes them."""
    if type(autoencoder).__name__ == "AutoencoderRAE":
        images = images / 2 + 0.5  # as in its documentation
    with torch.no_grad():
        found = autoencoder.encode(images)
    if "latent_dist" in found:
        return found.latent_dist.mean, found.latent_dist.logvar
    (mean,) = found.to_tuple()
    return mean, torch.full_like(mean, -30)


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_those_of_diffusers_in_every_file(make_autoencoder, images, tmp_path, kind):
    downscale, channels, own = KINDS[kind]
    autoencoder = make_autoencoder(kind)
    autoencoder.save_pretrained(tmp_path / "vae")
    side = downscale * autoencoder.num_patches**0.5 if kind == "rae" else 32
    images = images[:, :, : int(side), : int(side)]
    mean, logvar = latents(autoencoder, images)

    def check(encoder):
        assert (encoder.config.downscale, encoder.config.latent_channels) == (downscale, channels)
        with torch.no_grad():
            posterior = encoder(images)
        torch.testing.assert_close(posterior.mode(), mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(posterior.logvar, logvar, atol=1e-5, rtol=0)

    found = import_encoder(tmp_path / "vae")
    assert isinstance(found.network, Encoder if own else DiffusersEncoder)
    check(found.network)
    check(load_encoder(import_to(tmp_path / "encoders", str(tmp_path / "vae"))))
    model = SSDD("diffusers", "debug", encoder_checkpoint=tmp_path / "vae")
    check(model.encoder)
    again = SSDD.from_pretrained(model.save_pretrained(tmp_path / "model"))
    check(again.encoder)
    assert again.scaling == model.scaling == found.scaling
    twice = SSDD(again.encoder.config, "debug", encoder_checkpoint=tmp_path / "model")
    check(twice.encoder)
    assert twice.scaling == found.scaling
    vae = AutoencoderSSDD.from_pretrained(tmp_path / "model")
    vae.save_pretrained(tmp_path / "saved")
    for either in (vae, AutoencoderSSDD.from_pretrained(tmp_path / "saved")):
        torch.testing.assert_close(either.encode(images).latent_dist.mode(), mean, atol=1e-5, rtol=0)
        config, of = either.config, autoencoder.config
        assert config.latent_channels == channels
        assert 2 ** (len(config.block_out_channels) - 1) == downscale
        assert config.scaling_factor == of.scaling_factor
        assert config.shift_factor == (of.get("shift_factor") or 0)
        if kind != "rae":  # whose latents are normalised already
            assert config.latents_mean == of.get("latents_mean")
            assert config.latents_std == of.get("latents_std")


def test_a_network_of_one_size_sees_larger_pictures_in_tiles(make_autoencoder, tmp_path):
    autoencoder = make_autoencoder("rae")  # takes 32 x 32
    autoencoder.save_pretrained(tmp_path)
    encoder = import_encoder(tmp_path).network
    images = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        z = encoder(images).mode()
        assert z.shape == (2, 64, 6, 8)
        upper_right = encoder(images[:, :, :32, 32:]).mode()
    torch.testing.assert_close(z[:, :, :4, 4:], upper_right, atol=1e-5, rtol=0)


def test_an_encoder_of_diffusers_stays_as_it_is_in_training(make_autoencoder, images, tmp_path):
    make_autoencoder("tiny").save_pretrained(tmp_path)
    model = SSDD("diffusers", "debug", encoder_checkpoint=tmp_path).train()
    assert not any(part.training for part in model.encoder.modules())
    assert torch.equal(model.encode(images).mode(), model.eval().encode(images).mode())


@pytest.mark.parametrize("kind", ["sd", "flux"])
@pytest.mark.parametrize("layout", ["diffusers", "latent diffusion"])
def test_published_files_load_into_our_own_encoder(make_autoencoder, images, tmp_path, kind, layout):
    """Without a folder or a configuration beside them; those of Flux lack the last convolution."""
    autoencoder = make_autoencoder(kind)
    tensors = autoencoder.state_dict()
    if layout != "diffusers":
        native = import_encoder_keys(tensors)
        tensors = native | {"decoder.up.0.block.0.norm1.weight": torch.ones(8)}
    save_file(tensors, tmp_path / "file.safetensors")
    shape = EncoderConfig(
        base_channels=8,
        multipliers=(1, 2) if kind == "sd" else (1, 2, 2),
        resnets_per_level=autoencoder.config.layers_per_block,
        norm_groups=4,
        latent_channels=autoencoder.config.latent_channels,
    )
    encoder = Encoder.from_pretrained(tmp_path / "file.safetensors", shape)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images).mode(), latents(autoencoder, images)[0], atol=1e-5, rtol=0)


def import_encoder_keys(tensors):
    """The encoder of a KL autoencoder in latent diffusion's layout."""
    from ssdd_encoder.sdvae import to_native

    native = to_native({k.removeprefix("encoder."): v for k, v in tensors.items() if not k.startswith(("dec", "post"))})
    names = {"out_proj": "quant_conv"}
    return {
        names[k.split(".")[0]] + k[8:] if k.split(".")[0] in names else f"encoder.{k}": v for k, v in native.items()
    }


def test_an_encoder_of_ours_without_its_last_convolution_is_damaged(tmp_path):
    encoder = Encoder("debug")
    tensors = {k: v for k, v in encoder.state_dict().items() if not k.startswith("out_proj")}
    save_file(tensors, tmp_path / "encoder.safetensors")
    with pytest.raises(ValueError, match=r"out_proj\.\w+ is missing"):
        Encoder.from_pretrained(tmp_path / "encoder.safetensors", "debug")


@pytest.mark.parametrize("kind", ["tiny", "rae"])
def test_a_file_that_does_not_fit_its_header_is_refused_before_memory_is_taken(make_autoencoder, tmp_path, kind):
    make_autoencoder(kind).save_pretrained(tmp_path / "vae")
    contents = read(import_to(tmp_path, str(tmp_path / "vae")))
    settings = contents.config["encoder"]["settings"]
    key, wide = {"tiny": ("encoder_block_out_channels", [8000, 8000]), "rae": ("encoder_num_hidden_layers", 200)}[kind]
    hostile = {"encoder": contents.config["encoder"] | {"settings": settings | {key: wide}}}
    write(tmp_path / "hostile.safetensors", contents.tensors, hostile)
    with pytest.raises(CheckpointError, match="this file holds another encoder"):
        load_encoder(tmp_path / "hostile.safetensors")
    hostile["encoder"]["settings"][key] = 10**9
    write(tmp_path / "hostile.safetensors", contents.tensors, hostile)
    with pytest.raises(CheckpointError, match=r"expected settings of at most 16,384|has a header that this version"):
        load_encoder(tmp_path / "hostile.safetensors")


def test_the_shell_commands_take_such_a_model(make_autoencoder, tmp_path):
    make_autoencoder("dc").save_pretrained(tmp_path / "vae")
    file = SSDD("diffusers", "debug", encoder_checkpoint=tmp_path / "vae").save_pretrained(
        tmp_path / "model.safetensors"
    )
    (tmp_path / "photos").mkdir()
    Image.radial_gradient("L").convert("RGB").resize((70, 66)).save(tmp_path / "photos/one.png")
    for command in (
        f"info {file}",
        f"encode {tmp_path}/photos -o {tmp_path}/latents.safetensors --model {file}",
        f"decode {tmp_path}/latents.safetensors -o {tmp_path}/decoded --model {file}",
        f"reconstruct {tmp_path}/photos -o {tmp_path}/made --model {file}",
        f"z-stats {tmp_path}/photos -o {tmp_path}/stats.json --model {file} --im-size 32",
        f"card {file}",
    ):
        done = CliRunner().invoke(cli, command.split())
        assert done.exit_code == 0, done.output
    assert Image.open(tmp_path / "made/one.png").size == Image.open(tmp_path / "decoded/one.png").size == (70, 66)


def test_values_outside_the_range_are_refused(make_autoencoder, tmp_path):
    make_autoencoder("tiny").save_pretrained(tmp_path)
    encoder = import_encoder(tmp_path).network
    with pytest.raises(ValueError, match=r"expected images in \[-1, 1\], got values up to 255"):
        encoder(torch.full((1, 3, 8, 8), 255.0))
    with pytest.raises(ValueError, match="multiples of 2"):
        encoder(torch.zeros(1, 3, 9, 8))


def test_the_folder_of_a_pipeline_is_that_of_its_vae(make_autoencoder, tmp_path):
    make_autoencoder("sd").save_pretrained(tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    assert import_encoder(tmp_path).scaling.scaling_factor == 0.18215


def test_other_folders_and_classes_are_named(make_autoencoder, tmp_path):
    with pytest.raises(CheckpointError, match="there is no autoencoder of diffusers in"):
        import_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan"}))
    with pytest.raises(
        CheckpointError, match="holds a AutoencoderKLWan: expected one of AutoencoderKL, AutoencoderTiny"
    ):
        import_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderTiny"}))
    with pytest.raises(CheckpointError, match="has no weights that diffusers can load"):
        import_encoder(tmp_path)
    with pytest.raises(ValueError, match="expected the folder or hub id of the diffusers encoder"):
        SSDD("diffusers", "debug")


def test_the_parameter_means_a_folder_only_with_this_encoder(make_autoencoder, tmp_path):
    make_autoencoder("sd").save_pretrained(tmp_path / "vae")
    ours, other = ({"model": ModelParameters(encoder=name)} for name in ("diffusers", "f8c4"))
    file = provided_encoder("vae", ours, tmp_path)
    assert file == provided_encoder(str(tmp_path / "vae"), ours, tmp_path)
    assert file.parent == tmp_path / "data/.encoders"
    assert load_encoder(file).config.downscale == 2
    assert provided_encoder("vae", other, tmp_path) is None
    assert provided_encoder("some_run", ours, tmp_path) is None
    assert provided_encoder(str(file), ours, tmp_path) is None
