"""SD-VAE's encoder, loaded from its published layouts, has the posterior of diffusers."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssdd_encoder import CheckpointError, Encoder, encoder_config

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def autoencoder():
    """Diffusers' AutoencoderKL in SD-VAE's shape, with random weights, to compare with."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=2,
    )
    for name, parameter in model.encoder.named_parameters():  # biases and norms too
        if parameter.ndim == 1:
            parameter.data = 0.1 * torch.randn_like(parameter) + ("norm" in name and name.endswith("weight"))
    return model.eval()


@pytest.fixture(scope="module")
def folder(autoencoder, tmp_path_factory):
    """A folder written by `AutoencoderKL.save_pretrained`."""
    folder = tmp_path_factory.mktemp("diffusers")
    autoencoder.save_pretrained(folder)
    return folder


def to_ldm(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames diffusers' encoder keys to latent diffusion's, independently of our own table."""
    renamed = {}
    for key, tensor in tensors.items():
        parts = key.split(".")
        if parts[:2] == ["encoder", "down_blocks"]:
            kind = {"resnets": f"block.{parts[4]}", "downsamplers": "downsample"}[parts[3]]
            rest = ".".join(parts[5:]).replace("conv_shortcut", "nin_shortcut")
            key = f"encoder.down.{parts[2]}.{kind}.{rest}"
        elif parts[:3] == ["encoder", "mid_block", "resnets"]:
            key = f"encoder.mid.block_{int(parts[3]) + 1}.{'.'.join(parts[4:])}"
        elif parts[:3] == ["encoder", "mid_block", "attentions"]:
            name = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}[parts[4]]
            key = f"encoder.mid.attn_1.{name}.{parts[-1]}"
            tensor = tensor[:, :, None, None].clone() if tensor.ndim == 2 else tensor
        elif key.startswith("encoder.conv_norm_out"):
            key = key.replace("conv_norm_out", "norm_out")
        renamed[key] = tensor
    return renamed


def agrees(encoder: Encoder, autoencoder, images) -> bool:
    x = images(2, 32, 48)
    with torch.no_grad():
        ours, theirs = encoder(x), autoencoder.encode(x).latent_dist
    torch.testing.assert_close(ours.mean, theirs.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.logvar, theirs.logvar, atol=1e-5, rtol=0)
    return encoder.config == encoder_config("f8c4")


def test_diffusers_layout(autoencoder, folder, images):
    assert agrees(Encoder.from_pretrained(folder), autoencoder, images)
    assert agrees(Encoder.from_pretrained(folder / "diffusion_pytorch_model.safetensors", "sdvae"), autoencoder, images)


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_latent_diffusion_layout(autoencoder, folder, images, tmp_path, prefix):
    tensors = to_ldm(load_file(folder / "diffusion_pytorch_model.safetensors"))
    tensors = {prefix + key: value for key, value in tensors.items()}
    tensors["model.diffusion_model.out.2.bias"] = torch.zeros(4)  # a whole model's file holds more
    save_file(tensors, tmp_path / "ldm.safetensors")
    assert agrees(Encoder.from_pretrained(tmp_path / "ldm.safetensors", "sdvae"), autoencoder, images)
    assert agrees(Encoder.from_pretrained(tmp_path / "ldm.safetensors"), autoencoder, images)


def test_attention_names_of_older_files(autoencoder, folder, images, tmp_path):
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    for new, old in older.items():
        tensors = {key.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): t for key, t in tensors.items()}
    save_file(tensors, tmp_path / "older.safetensors")
    assert agrees(Encoder.from_pretrained(tmp_path / "older.safetensors", "sdvae"), autoencoder, images)


def test_name_alone_is_the_hubs(autoencoder, folder, images, tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    repo = tmp_path / "models--stabilityai--sd-vae-ft-mse"
    snapshot = repo / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    (snapshot / "diffusion_pytorch_model.safetensors").symlink_to(folder / "diffusion_pytorch_model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert agrees(Encoder.from_pretrained("sdvae"), autoencoder, images)
    assert agrees(Encoder.from_pretrained("stabilityai/sd-vae-ft-mse"), autoencoder, images)


def test_file_without_quant_conv_is_refused(folder, tmp_path):
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    tensors = {key: value for key, value in tensors.items() if "quant_conv" not in key}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"out_proj\.weight is missing"):
        Encoder.from_pretrained(tmp_path, "sdvae")


def test_asking_for_another_encoder_names_both(folder):
    with pytest.raises(CheckpointError, match=r"holds encoder f8c4 \(34,163,664 parameters\); encoder f16c4 was asked"):
        Encoder.from_pretrained(folder, "f16c4")
