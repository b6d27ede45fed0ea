"""Networks loaded from randomly filled files in the published formats, against the libraries they come from."""

import dataclasses
import io
import os
import pickle
import sys

import lpips
import pytest
import timm
import torch
import torch_fidelity.feature_extractor_inceptionv3 as fidelity
from safetensors.torch import save_file

import ssdd_metrics.networks as networks
from ssdd_metrics import (
    NetworkUnavailable,
    convert_to_safetensors,
    load_dinov2,
    load_dreamsim,
    load_inception,
    load_lpips,
)
from ssdd_metrics.files import sha256_file
from ssdd_metrics.networks import Lpips
from ssdd_metrics.weights import INCEPTION, read_pth_weights

SMALL_DINO = "vit_small_patch14_dinov2.lvd142m"


@pytest.fixture(scope="module")
def inception(inception_pth):
    return load_inception(inception_pth, sha256=sha256_file(inception_pth))


def packaged_lpips(net, state):
    """The package's own network with the same trunk, filled by walking torchvision's layer numbers."""
    network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    with torch.no_grad():
        for layers in (getattr(network.net, f"slice{k}") for k in range(1, 6)):
            for number, layer in layers.named_children():
                if isinstance(layer, torch.nn.Conv2d):
                    layer.weight.copy_(state[f"features.{number}.weight"])
                    layer.bias.copy_(state[f"features.{number}.bias"])
    return network


@pytest.mark.parametrize("size", [(96, 96), (33, 70), (320, 310)])
def test_inception_equals_torch_fidelity_bit_for_bit(inception, inception_pth, size):
    theirs = fidelity.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(inception_pth)
    )
    generator = torch.Generator().manual_seed(sum(size))
    images = torch.randint(0, 256, (2, 3, *size), generator=generator, dtype=torch.uint8)
    features = inception(images)
    assert features.shape == (2, 2048)
    assert features.std() > 0.01
    assert torch.equal(features, theirs(images)[0])


@pytest.fixture(scope="module", params=["vgg", "alex"])
def lpips_pair(request, trunk_pths):
    """Ours and the package's, of the same file."""
    path = trunk_pths[request.param]
    ours = load_lpips(request.param, path, sha256=sha256_file(path))
    return ours, packaged_lpips(request.param, read_pth_weights(path))


@pytest.mark.parametrize("kind", ["random", "blurred photographs", "noisy photographs"])
def test_lpips_agrees_with_the_package(lpips_pair, pairs, kind):
    ours, theirs = lpips_pair
    reference, reconstruction = (side.float() / 255 for side in pairs[kind])
    with torch.no_grad():
        expected = theirs(reference, reconstruction, normalize=True).flatten()
        assert expected.min() > 1e-3
        torch.testing.assert_close(ours(reference, reconstruction), expected, atol=1e-5, rtol=0)


def test_lpips_of_the_smallest_and_of_smaller_images(lpips_pair):
    ours, theirs = lpips_pair
    smallest = 16 if ours.name.endswith("vgg") else 31
    a, b = torch.rand(2, 1, 3, smallest, 40)
    with torch.no_grad():
        torch.testing.assert_close(ours(a, b), theirs(a, b, normalize=True).flatten(), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=f"at least {smallest} pixels"):
        ours(a[..., 1:, :], b[..., 1:, :])
    with pytest.raises(ValueError, match="at least"):
        ours(a[..., :1], b[..., :1])


def test_smooth_lpips_stays_close(lpips_pair, pairs):
    exact, _ = lpips_pair
    smooth = Lpips(exact.name, exact.sha256, exact.network, smooth=True)
    images = [side.float() / 255 for side in pairs["noisy photographs"]]
    torch.testing.assert_close(smooth(*images), exact(*images), atol=1e-4, rtol=0)


def test_smooth_lpips_has_a_gradient_where_the_package_has_nan(trunk_pths):
    """Features so small that their squares vanish: the slope of the root at zero is infinite."""
    path = trunk_pths["alex"]
    exact = load_lpips("alex", path, sha256=sha256_file(path))
    with torch.no_grad():
        for name, parameter in exact.network.net.named_parameters():
            parameter.copy_(torch.full_like(parameter, 1e-25) if name.endswith("bias") else parameter * 1e-30)
    gradients = []
    for smooth in (False, True):
        image = torch.rand(1, 3, 64, 64).requires_grad_()
        network = Lpips(exact.name, exact.sha256, exact.network, smooth)
        network(image, torch.rand(1, 3, 64, 64)).sum().backward()
        gradients.append(image.grad)
    assert torch.isnan(gradients[0]).any()
    assert torch.isfinite(gradients[1]).all()


def test_dinov2_agrees_with_timm_and_its_own_preprocessing(tmp_path):
    network = timm.create_model(SMALL_DINO, pretrained=False, num_classes=0, dynamic_img_size=True).eval()
    save_file({**network.state_dict(), "mask_token": torch.zeros(1, 384)}, tmp_path / "dino.safetensors")
    ours = load_dinov2(tmp_path / "dino.safetensors", model=SMALL_DINO)
    images = torch.rand(2, 3, 112, 84)  # 8 x 6 patches of 14: no resize
    mean, std = torch.tensor(network.pretrained_cfg["mean"]), torch.tensor(network.pretrained_cfg["std"])
    with torch.no_grad():
        expected = network.forward_features((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        torch.testing.assert_close(ours.patch_tokens(images, (8, 6)), expected[:, 1:])
        assert ours(images).shape == (2, ours.features) == (2, 384)
        assert ours.patch_tokens(torch.rand(1, 3, 64, 96), (4, 6)).shape == (1, 24, 384)
    images.requires_grad_()
    ours.patch_tokens(images, (3, 5)).sum().backward()
    assert torch.isfinite(images.grad).all()
    assert images.grad.abs().sum() > 0


def test_networks_are_frozen_and_stay_in_eval_mode(inception, trunk_pths):
    path = trunk_pths["vgg"]
    for network in (inception, load_lpips("vgg", path, sha256=sha256_file(path))):
        holder = torch.nn.ModuleDict({"network": network}).train()
        assert not any(module.training for module in holder["network"].modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_loading_leaves_the_random_state_alone(trunk_pths):
    state = torch.get_rng_state()
    load_lpips("alex", trunk_pths["alex"], sha256=sha256_file(trunk_pths["alex"]))
    assert torch.equal(torch.get_rng_state(), state)


def test_unavailable_names_the_file_its_hash_and_the_place(hub):
    for load, words in (
        (
            load_inception,
            ["weights-inception-2015-12-05-6726825d.pth", "SHA-256 6726825d", "github.com/toshas"],
        ),
        (lambda: load_lpips("vgg"), ["vgg16-397923af.pth", "SHA-256 397923af", "download.pytorch.org"]),
        (lambda: load_lpips("alex"), ["alexnet-owt-7be5be79.pth", "SHA-256 7be5be79"]),
        (load_dinov2, ["vit_base_patch14_dinov2.lvd142m.safetensors", "huggingface.co/timm"]),
    ):
        with pytest.raises(NetworkUnavailable) as caught:
            load()
        for word in [*words, str(hub), "no network in tests", 'metrics="offline"']:
            assert word in str(caught.value)
    assert not hub.exists()


def test_a_missing_local_file_is_not_replaced_by_a_download(tmp_path):
    with pytest.raises(NetworkUnavailable, match="found no file"):
        load_inception(tmp_path / "nowhere.pth")


def test_another_file_than_the_published_one_is_refused(inception_pth, tmp_path):
    with pytest.raises(ValueError, match=r"SHA-256 6726825d\.\.\., .* it is damaged or another file"):
        load_inception(inception_pth)
    with pytest.raises(ValueError, match=r"SHA-256 abc\.\.\."):
        load_inception(inception_pth, sha256="abc")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"SHA-256 397923af"):
        load_lpips("vgg", tmp_path / "other.safetensors")


def test_conversion_is_recognised_by_its_source(inception, inception_pth, tmp_path, monkeypatch):
    """With a published hash like the random file's, file, conversion and cache all load."""
    published = dataclasses.replace(INCEPTION, sha256=sha256_file(inception_pth)[:8])
    monkeypatch.setattr(networks, "INCEPTION", published)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    name = published.names[0].replace(".pth", ".safetensors")
    cached = tmp_path / "torch" / "hub" / "checkpoints" / name
    convert_to_safetensors(published, inception_pth, cached)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    for loaded in (load_inception(inception_pth), load_inception(cached), load_inception()):
        assert torch.equal(loaded(images), inception(images))
    assert load_inception().sha256 == sha256_file(cached)


def test_download_is_kept_only_with_the_right_hash(hub, trunk_pths, monkeypatch):
    content = trunk_pths["alex"].read_bytes()
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(content))
    with pytest.raises(ValueError, match="damaged"):
        load_lpips("alex")
    assert not list(hub.iterdir())
    right = dataclasses.replace(networks.ALEXNET, sha256=sha256_file(trunk_pths["alex"])[:8])
    monkeypatch.setattr(networks, "ALEXNET", right)
    load_lpips("alex")
    assert [path.name for path in hub.iterdir()] == ["alexnet-owt-7be5be79.pth"]


def test_dinov2_is_found_in_the_hugging_face_cache_and_checked(hub, tmp_path):
    folder = tmp_path / "hf" / f"models--timm--{SMALL_DINO}"
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "0"
    for place in (blobs, snapshot, folder / "refs"):
        place.mkdir(parents=True)
    (folder / "refs" / "main").write_text("0")
    network = timm.create_model(SMALL_DINO, pretrained=False, num_classes=0)
    save_file(network.state_dict(), tmp_path / "dino.safetensors")
    digest = sha256_file(tmp_path / "dino.safetensors")
    (tmp_path / "dino.safetensors").rename(blobs / digest)
    (snapshot / "model.safetensors").symlink_to(blobs / digest)
    assert load_dinov2(model=SMALL_DINO).sha256 == digest
    with open(blobs / digest, "ab") as blob:
        blob.write(b"x")
    with pytest.raises(ValueError, match="damaged"):
        load_dinov2(model=SMALL_DINO)


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return (os.mkdir, (str(self.proof),))


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path):
    proof = tmp_path / "executed"
    torch.save({"weight": Malicious(proof)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"weight": Malicious(proof)}))
    for name in ("zip.pth", "plain.pth"):
        path = tmp_path / name
        with pytest.raises(ValueError, match="named tensors"):
            load_lpips("vgg", path, sha256=sha256_file(path))
    assert not proof.exists()


def test_weights_that_do_not_fit_are_an_error_that_names_the_file(tmp_path, trunk_pths):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    digest = sha256_file(tmp_path / "other.safetensors")
    for load in (
        lambda path: load_inception(path, sha256=digest),
        lambda path: load_lpips("vgg", path, sha256=digest),
        lambda path: load_dinov2(path, model=SMALL_DINO),
    ):
        with pytest.raises(ValueError, match=r"weights that fit this network, .*other\.safetensors"):
            load(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match='net "vgg" or "alex"'):
        load_lpips("squeeze")


def test_a_missing_extra_is_named(monkeypatch, dreamsim_folder):
    for module, extra, load in (
        ("lpips", "perceptual", load_lpips),
        ("timm", "perceptual", load_dinov2),
        ("torch_fidelity.feature_extractor_inceptionv3", "fid", load_inception),
        ("dreamsim", "dreamsim", lambda: load_dreamsim(dreamsim_folder)),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=rf"ssdd-metrics\[{extra}\]"):
            load()


@pytest.fixture
def dreamsim_folder(tmp_path):
    """Files under DreamSim's names, which only a stand-in for the package can read."""
    folder = tmp_path / "dreamsim"
    (folder / "ensemble_lora").mkdir(parents=True)
    names = ("dino_vitb16_pretrain.pth", "clip_vitb16_pretrain.pth.tar", "open_clip_vitb16_pretrain.pth.tar")
    for name in (*names, "ensemble_lora/adapter_config.json", "ensemble_lora/adapter_model.safetensors"):
        (folder / name).write_bytes(name.encode())
    torch.save({"weight": torch.full((1, 1), 3.0), "bias": torch.zeros(1)}, folder / "dino_vitbase16_pretrain.pth")
    return folder


@pytest.fixture
def dreamsim_package(monkeypatch):
    """Stands in for the package: loads DINO from torch hub as the package does, and compares means."""

    class Sees(torch.nn.Module):
        def __init__(self, trunk):
            super().__init__()
            self.trunk = trunk

        def forward(self, a, b):
            assert a.shape[-2:] == b.shape[-2:] == (224, 224)
            assert a.min() >= 0
            assert a.max() <= 1
            return self.trunk((a - b).abs().mean((1, 2, 3))[:, None])

    def build(pretrained, cache_dir, device):
        torch.hub.set_dir(cache_dir)
        return Sees(torch.hub.load("facebookresearch/dino:main", "dino_vitb16")), None

    package, vision = type(sys)("dreamsim"), type(sys)("dreamsim.feature_extraction.vision_transformer")
    package.dreamsim = build
    vision.vit_base = lambda patch_size, num_classes: torch.nn.Linear(1, 1)
    monkeypatch.setitem(sys.modules, "dreamsim", package)
    monkeypatch.setitem(sys.modules, vision.__name__, vision)


def test_dreamsim_is_built_from_local_files_alone(dreamsim_folder, dreamsim_package):
    before = (torch.hub.get_dir(), torch.hub.load)
    network = load_dreamsim(dreamsim_folder)
    assert (torch.hub.get_dir(), torch.hub.load) == before
    a = torch.rand(2, 3, 40, 50)
    assert network(a, a).tolist() == [0, 0]
    torch.testing.assert_close(network(torch.zeros_like(a), torch.ones_like(a)), torch.tensor([3.0, 3.0]))
    assert not any(parameter.requires_grad for parameter in network.parameters())
    load_dreamsim(dreamsim_folder, sha256=network.sha256[:10])
    (dreamsim_folder / "clip_vitb16_pretrain.pth.tar").write_bytes(b"other")
    assert load_dreamsim(dreamsim_folder).sha256 != network.sha256
    with pytest.raises(ValueError, match=rf"SHA-256 {network.sha256[:10]}"):
        load_dreamsim(dreamsim_folder, sha256=network.sha256[:10])


def test_dreamsim_names_the_file_that_is_missing(dreamsim_folder, dreamsim_package):
    trunk = dreamsim_folder / "dino_vitbase16_pretrain.pth"
    (dreamsim_folder / "checkpoints").mkdir()
    trunk.rename(dreamsim_folder / "checkpoints" / trunk.name)  # where torch hub puts it
    load_dreamsim(dreamsim_folder)
    sources = {
        "checkpoints/dino_vitbase16_pretrain.pth": "dl.fbaipublicfiles.com",
        "clip_vitb16_pretrain.pth.tar": "dreamsim_ensemble_checkpoint.zip",
        "ensemble_lora/adapter_model.safetensors": "dreamsim_ensemble_checkpoint.zip",
    }
    for name, source in sources.items():
        (dreamsim_folder / name).rename(dreamsim_folder / "away")
        with pytest.raises(NetworkUnavailable, match=source):
            load_dreamsim(dreamsim_folder)
        (dreamsim_folder / "away").rename(dreamsim_folder / name)


def test_dreamsim_of_a_pickle_with_code_is_refused(dreamsim_folder, dreamsim_package, tmp_path):
    (dreamsim_folder / "ensemble_lora" / "adapter_model.safetensors").unlink()
    torch.save({"weight": Malicious(tmp_path / "executed")}, dreamsim_folder / "ensemble_lora" / "adapter_model.bin")
    with pytest.raises(ValueError, match="named tensors"):
        load_dreamsim(dreamsim_folder)
    assert not (tmp_path / "executed").exists()
