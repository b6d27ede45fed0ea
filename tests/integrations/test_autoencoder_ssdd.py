"""AutoencoderSSDD by itself: where it comes from, what it promises to diffusers, and that it is the same model."""

import json
import subprocess
import sys

import pytest
import torch

from ssdd import SSDD, AutoencoderSSDD
from ssdd_decoder import CheckpointError
from ssdd_encoder import LatentAccumulator

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A project in the working directory, with a run `mine`: its model and its statistics."""
    torch.manual_seed(0)
    models = tmp_path / "project/data/mine/models"
    models.mkdir(parents=True)
    (tmp_path / "project/pyproject.toml").write_text("[tool.kedro]\n")
    monkeypatch.chdir(tmp_path / "project")
    SSDD("debug", "debug").save_pretrained(models / "distilled.safetensors")
    accumulator = LatentAccumulator(4)
    accumulator.update(torch.randn(8, 4, 4, 4) * 3 + torch.arange(4.0)[:, None, None])
    (models / "latent_stats.json").write_text(json.dumps(accumulator.compute().to_dict()))
    return models / "distilled.safetensors", accumulator.compute()


@pytest.mark.parametrize("form", ["run", "file", "folder"])
def test_a_checkpoint_of_a_run_becomes_the_same_model_with_its_statistics(run, images, form):
    file, statistics = run
    vae = AutoencoderSSDD.from_pretrained({"run": "mine", "file": file, "folder": file.parent}[form])
    model = SSDD.from_pretrained(file)
    assert vae.config.scaling_factor == pytest.approx(1 / statistics.overall_std)
    assert vae.config.shift_factor == pytest.approx(statistics.overall_mean)
    assert vae.config.latents_mean is None
    assert (vae.config.latent_channels, len(vae.config.block_out_channels), vae.training) == (4, 4, False)
    posterior, own = vae.encode(images).latent_dist, model.encode(images)
    assert torch.equal(posterior.mode(), own.mode())
    assert torch.equal(vae.encode(images).latent, own.mode())
    assert torch.equal(posterior.logvar, own.logvar)
    noise = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
    decoded = model.decode(own.mode(), steps=2, noise=noise)
    torch.testing.assert_close(vae.decode(own.mode(), num_inference_steps=2).sample, decoded, **TOLERANCE)


def test_statistics_by_channel_leave_nothing_for_the_others_to_do(run):
    file, statistics = run
    config = AutoencoderSSDD.from_pretrained("mine", normalization="channel").config
    assert config.latents_mean == pytest.approx(statistics.mean.tolist())
    assert config.latents_std == pytest.approx(statistics.std.tolist())
    assert (config.scaling_factor, config.shift_factor) == (1, 0)
    config = AutoencoderSSDD.from_pretrained("mine", normalization="none").config
    assert (config.scaling_factor, config.shift_factor, config.latents_mean) == (1, 0, None)
    other = file.with_name("other.json")
    other.write_text(json.dumps({**statistics.to_dict(), "overall_std": 4.0}))
    assert AutoencoderSSDD.from_pretrained("mine", latent_statistics=other).config.scaling_factor == 0.25
    other.write_text("[]")
    with pytest.raises(ValueError, match=r"expected a table of latent statistics in .*other.json"):
        AutoencoderSSDD.from_pretrained("mine", latent_statistics=other)
    with pytest.raises(ValueError, match="overall, channel or none, got 'each'"):
        AutoencoderSSDD.from_pretrained("mine", normalization="each")


def test_a_model_without_statistics_is_not_scaled_and_says_so(tmp_path, caplog):
    file = SSDD("debug", "debug").save_pretrained(tmp_path)
    assert AutoencoderSSDD.from_pretrained(file).config.scaling_factor == 1
    assert "has no latent statistics" in caplog.text


def test_the_model_that_comes_along_has_its_statistics():
    vae = AutoencoderSSDD.from_pretrained("demo", torch_dtype=torch.bfloat16)
    assert vae.dtype == torch.bfloat16
    assert vae.config.scaling_factor == pytest.approx(1 / 1.386278, rel=1e-5)
    assert vae.config.latent_channels == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_as_diffusers_does(make_vae, images, tmp_path, dtype):
    vae = make_vae(scaling_factor=0.7, num_inference_steps=2).to(dtype)
    vae.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    loaded = AutoencoderSSDD.from_pretrained(tmp_path, torch_dtype=dtype)
    assert loaded.dtype == dtype
    assert not loaded.training
    private = ("_name_or_path", "_diffusers_version", "_class_name", "_use_default_values")
    assert {k: v for k, v in loaded.config.items() if k not in private} == {
        k: v for k, v in vae.config.items() if k not in private
    }
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), loaded.parameters(), strict=True))
    with torch.no_grad():
        torch.testing.assert_close(vae(images).sample, loaded(images).sample, **TOLERANCE)
    vae.save_pretrained(tmp_path / "parts", max_shard_size="100KB", variant="small")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    sharded = AutoencoderSSDD.from_pretrained(tmp_path / "parts", variant="small")
    for saved, read in zip(vae.parameters(), sharded.parameters(), strict=True):
        assert torch.equal(saved.float(), read.float())


def test_a_folder_of_another_class_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(CheckpointError, match="holds diffusers' AutoencoderKL, not an AutoencoderSSDD"):
        AutoencoderSSDD.from_pretrained(tmp_path)


def test_decoding_is_repeatable_and_independent_of_the_batch(make_vae):
    vae = make_vae()
    z = torch.randn(3, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        decoded = vae.decode(z).sample
        assert torch.equal(decoded, vae.decode(z, return_dict=False)[0])
        torch.testing.assert_close(decoded[2:], vae.decode(z[2:]).sample, **TOLERANCE)
        seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)]
        each = vae.decode(z, generator=seeds).sample
        assert (each - decoded).abs().max() > 1e-3
        own = vae.decode(z[1:2], generator=torch.Generator().manual_seed(2)).sample
        torch.testing.assert_close(each[1:2], own, **TOLERANCE)


def test_slices_give_the_same_images_and_latents(make_vae, images):
    vae = make_vae()
    with torch.no_grad():
        whole = vae(images, generator=torch.Generator().manual_seed(0)).sample
        vae.enable_slicing()
        sliced = vae(images, generator=torch.Generator().manual_seed(0)).sample
        torch.testing.assert_close(sliced, whole, **TOLERANCE)
        vae.disable_slicing()
        assert torch.equal(vae(images, generator=torch.Generator().manual_seed(0)).sample, whole)


def test_gradients_reach_every_weight_and_checkpointing_changes_none(make_vae, images):
    vae = make_vae(num_inference_steps=2).train()
    images = images.requires_grad_()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            vae.enable_gradient_checkpointing()
            assert vae.is_gradient_checkpointing
        vae(images, sample_posterior=True, generator=torch.Generator().manual_seed(0)).sample.square().mean().backward()
        gradients.append([images.grad, *(parameter.grad for parameter in vae.parameters())])
        images.grad = None
        vae.zero_grad()
    for name, plain, checkpointed in zip(["images", *dict(vae.named_parameters())], *gradients, strict=True):
        assert plain is not None, name
        assert plain.abs().max() > 0, name
        torch.testing.assert_close(plain, checkpointed, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_a_float32_image_near_the_exact_one(make_vae, images, dtype):
    vae = make_vae()
    with torch.no_grad():
        exact = vae(images).sample
        near = vae.to(dtype)(images).sample
    assert near.dtype == torch.float32
    assert (near - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_accelerate_may_keep_the_weights_elsewhere(make_vae, images):
    from accelerate import cpu_offload

    vae = make_vae()
    with torch.no_grad():
        expected = vae(images).sample
        cpu_offload(vae, torch.device("cpu"))
        assert all(parameter.is_meta for parameter in vae.parameters())
        torch.testing.assert_close(vae(images).sample, expected, **TOLERANCE)
        assert all(parameter.is_meta for parameter in vae.parameters())


def test_a_device_map_splits_neither_encoder_nor_decoder(make_vae, images, tmp_path):
    vae = make_vae()
    assert {type(part).__name__ for part in vae.children()} <= set(vae._no_split_modules)
    vae.save_pretrained(tmp_path / "vae")
    placed = {"encoder": "cpu", "decoder": "disk"}
    loaded = AutoencoderSSDD.from_pretrained(tmp_path / "vae", device_map=placed, offload_folder=tmp_path / "weights")
    assert all(parameter.is_meta for parameter in loaded.decoder.parameters())
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).sample, vae(images).sample, **TOLERANCE)


def test_layers_cast_one_by_one_are_those_that_read_their_own_weights(make_vae, images):
    vae = make_vae()
    with torch.no_grad():
        exact = vae(images).sample
        vae.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        assert vae.decoder.down_blocks[0].resnets[0].conv1.weight.dtype == torch.float8_e4m3fn
        near = vae(images).sample
    assert 0 < (near - exact).abs().mean() < 0.2 * exact.abs().mean()
    with pytest.raises(ValueError, match="does not support group offloading"):
        vae.enable_group_offload(torch.device("cpu"))


def test_one_graph_for_the_compiler_with_the_same_image(make_vae, images):
    vae = make_vae()
    with torch.no_grad():
        compiled = torch.compile(vae, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(images).sample, vae(images).sample, **TOLERANCE)


def test_tiles_give_the_same_pictures_and_latents(make_vae):
    vae, x = make_vae(), torch.rand(2, 3, 96, 64) * 2 - 1
    z = vae.encode(x).latent_dist.mode()
    plain, before = vae.decode(z).sample, z.detach()
    vae.enable_tiling(32)
    tiled, after = vae.decode(z).sample, vae.encode(x).latent_dist.mode()
    assert vae.use_tiling
    assert not tiled.requires_grad
    for each, expected in ((tiled, plain.detach()), (after, before)):
        assert not torch.equal(each, expected)
        torch.testing.assert_close(each, expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="expected tile to be an integer"):
        vae.enable_tiling(1.5)
    vae.disable_tiling()
    assert torch.equal(vae.decode(z).sample, plain)


def test_configurations_that_pipelines_could_not_use_are_refused():
    with pytest.raises(ValueError, match="power of two, got f6c4"):
        AutoencoderSSDD({"patch_size": 3, "multipliers": [1, 2], "base_channels": 32}, "debug")
    with pytest.raises(ValueError, match="expected a decoder of f8c4 latents, got one of f4c4"):
        AutoencoderSSDD("debug", {"base_channels": 16, "multipliers": [1], "transformer_blocks": 0, "downscale": 4})


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import ssdd; print('torch' in sys.modules or 'diffusers' in sys.modules)", "False"),
        ("from ssdd import SSDD; print('diffusers' in sys.modules)", "False"),
        (
            "sys.modules['diffusers'] = None\ntry:\n    from ssdd import AutoencoderSSDD\n"
            "except ImportError as error:\n    print(error)",
            "AutoencoderSSDD needs diffusers: pip install 'ssdd[diffusers]'",
        ),
    ],
)
def test_diffusers_is_imported_for_this_class_alone(code, said):
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said


def test_a_decoder_that_enlarges_is_saved_loaded_and_differentiable(make_vae, images, tmp_path):
    vae = make_vae(upscale=2)
    assert vae.config.upscale == 2
    large = vae(images).sample
    assert large.shape[2:] == torch.Size(2 * side for side in images.shape[2:])
    large.sum().backward()
    assert vae.encoder.conv_in.weight.grad.abs().sum() > 0
    vae.save_pretrained(tmp_path)
    loaded = AutoencoderSSDD.from_pretrained(tmp_path)
    assert loaded.config.upscale == 2
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).sample, large.detach(), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="expected upscale=2, which this decoder was trained for, got 4"):
        AutoencoderSSDD.from_pretrained(tmp_path, upscale=4)
    with pytest.raises(ValueError, match="expected upscale=1"):
        AutoencoderSSDD.from_pretrained("demo", upscale=2)
    assert AutoencoderSSDD.from_pretrained("demo").config.upscale == 1
