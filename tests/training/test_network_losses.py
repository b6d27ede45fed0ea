"""REPA and LPIPS with real networks of random weights in the published formats, against the networks written out."""

from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from ssdd import noise as draws
from ssdd.files import sha256_file
from ssdd.parameters import LossWeights, PretrainedNetworks, StageParameters
from ssdd.training.loss_networks import load_loss_networks, perceptual_distance
from ssdd.training.steps import AutoencoderStep
from ssdd_decoder import Decoder, DecoderConfig
from ssdd_encoder import Encoder, EncoderConfig

HEADS, DEPTH, WIDTH, PATCH = 2, 3, 24, 14
DECODER = DecoderConfig(
    base_channels=16, multipliers=(1, 2), transformer_blocks=2, heads=2, resnets_per_level=1, norm_groups=8, downscale=2
)


@pytest.fixture
def small_dinov2(monkeypatch, tmp_path):
    """The file of a DINOv2-base that is narrow and shallow, and timm building such a one."""
    build = timm.create_model
    small = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    monkeypatch.setattr(timm, "create_model", lambda name, **options: build(name, **options, **small))
    torch.manual_seed(0)
    network = timm.create_model("vit_base_patch14_dinov2.lvd142m", pretrained=False, num_classes=0)
    weights = {name: 0.3 * torch.randn_like(value) for name, value in network.state_dict().items()}
    file = tmp_path / "model.safetensors"
    save_file(weights, file)
    return file, weights


def dinov2_tokens(weights: dict, images: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Patch tokens of a DINOv2 vision transformer, from its weights alone."""
    w = weights
    size = (grid[0] * PATCH, grid[1] * PATCH)
    x = F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH)
    x = x.flatten(2).transpose(1, 2)
    side = int((w["pos_embed"].shape[1] - 1) ** 0.5)
    cls_place, places = w["pos_embed"][:, :1], w["pos_embed"][:, 1:]
    places = places.view(1, side, side, WIDTH).permute(0, 3, 1, 2)
    places = F.interpolate(places, size=grid, mode="bicubic", antialias=True, align_corners=False)
    x = torch.cat([(w["cls_token"] + cls_place).expand(len(x), -1, -1), x + places.flatten(2).transpose(1, 2)], 1)
    for number in range(DEPTH):
        block = {k.removeprefix(f"blocks.{number}."): v for k, v in w.items() if k.startswith(f"blocks.{number}.")}
        h = F.layer_norm(x, (WIDTH,), block["norm1.weight"], block["norm1.bias"], 1e-6)
        qkv = F.linear(h, block["attn.qkv.weight"], block["attn.qkv.bias"])
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
        weight = (q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        h = F.linear((weight @ v).transpose(1, 2).flatten(2), block["attn.proj.weight"], block["attn.proj.bias"])
        x = x + block["ls1.gamma"] * h
        h = F.layer_norm(x, (WIDTH,), block["norm2.weight"], block["norm2.bias"], 1e-6)
        h = F.gelu(F.linear(h, block["mlp.fc1.weight"], block["mlp.fc1.bias"]))
        x = x + block["ls2.gamma"] * F.linear(h, block["mlp.fc2.weight"], block["mlp.fc2.bias"])
    return F.layer_norm(x, (WIDTH,), w["norm.weight"], w["norm.bias"], 1e-6)[:, 1:]


def test_repa_is_the_formula_on_a_real_network(small_dinov2):
    file, weights = small_dinov2
    files = PretrainedNetworks.model_validate({"dinov2": {"file": str(file), "sha256": sha256_file(file)}})
    loss = LossWeights(perceptual="none", repa=0.25)
    pretrained_networks = load_loss_networks(loss, files)
    torch.manual_seed(1)
    decoder = Decoder(DECODER)
    for parameter in decoder.parameters():  # also what starts at zero
        nn.init.normal_(parameter, std=0.1)
    encoder = Encoder(EncoderConfig(base_channels=8, multipliers=(1, 1), resnets_per_level=1, norm_groups=4))
    step = AutoencoderStep(
        SimpleNamespace(encoder=encoder, decoder=decoder),
        StageParameters(loss=loss, precision="no", seed=5, latent="mode"),
        pretrained_networks,
    )
    x = draws.sample_noise(draws.sample_seeds(3, "x", 0, range(2)), (3, 8, 12)).clamp(-1, 1)
    index = [4, 9]
    found = step({"image": x, "index": torch.tensor(index)}, 7).terms["repa"]
    trained = [*decoder.parameters(), *step.alignment_head.parameters()]
    gradients = torch.autograd.grad(found, trained, allow_unused=True)

    eps = draws.sample_noise(draws.sample_seeds(5, "noise", 7, index), x.shape[1:])
    t = torch.sigmoid(draws.sample_noise(draws.sample_seeds(5, "time", 7, index), ()))
    w = t[:, None, None, None]
    condition = decoder.condition(encoder(x).mode().detach())
    tokens = decoder.predict((1 - w) * x + w * eps, t, condition, 1).tokens
    rows, columns = tokens.shape[1:3]
    assert (rows, columns) == (4, 6)
    wanted = dinov2_tokens(weights, (x + 1) / 2, (rows, columns))
    ours = step.alignment_head.layers(tokens.flatten(1, 2))
    assert ours.shape == wanted.shape == (2, 24, WIDTH)
    cosine = (ours * wanted).sum(-1) / (ours.norm(dim=-1) * wanted.norm(dim=-1))
    expected = 1 - cosine.mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    reached = 0
    for a, b in zip(gradients, torch.autograd.grad(expected, trained, allow_unused=True), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            reached += 1
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)
    assert reached > len(list(step.alignment_head.parameters()))
    assert all(
        parameter.grad is None and not parameter.requires_grad for parameter in pretrained_networks.vision.parameters()
    )


def test_lpips_is_the_formula_on_a_real_network(tmp_path):
    import lpips
    import torchvision

    generator = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        shapes = torchvision.models.vgg16(weights=None).features.state_dict()
    weights = {
        name: torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        if value.ndim > 1
        else 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in shapes.items()
    }
    file = tmp_path / "vgg16.pth"
    torch.save({f"features.{name}": value for name, value in weights.items()}, file)
    files = PretrainedNetworks.model_validate({"lpips_vgg": {"file": str(file), "sha256": sha256_file(file)}})
    loss = LossWeights(repa=0)
    distance = perceptual_distance(loss, load_loss_networks(loss, files).lpips)

    lins = torch.load(next(iter(lpips.__path__)) + "/weights/v0.1/vgg.pth", map_location="cpu", weights_only=True)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    ends = {3: 0, 8: 1, 15: 2, 22: 3, 29: 4}  # the last activation before each pooling, and its calibration

    def features(x):
        h, found = (x - shift.view(3, 1, 1)) / scale.view(3, 1, 1), []
        for number in range(30):
            if f"{number}.weight" in weights:
                h = F.conv2d(h, weights[f"{number}.weight"], weights[f"{number}.bias"], padding=1)
            elif number in (4, 9, 16, 23):
                h = F.max_pool2d(h, 2)
            else:
                h = F.relu(h)
            if number in ends:
                found.append(h / (h.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return found

    a = draws.sample_noise([1, 2], (3, 32, 48)).clamp(-1, 1)
    b = draws.sample_noise([3, 4], (3, 32, 48)).clamp(-1, 1).requires_grad_()
    expected = torch.zeros(2)
    for number, (one, other) in enumerate(zip(features(a), features(b), strict=True)):
        squares = (one - other).square() * lins[f"lin{number}.model.1.weight"]
        expected = expected + squares.sum(1).mean((1, 2))
    found = distance(a, b)
    assert found.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(value, b)[0] for value in (found, expected.mean()))
    assert (ours - theirs).norm() < 1e-2 * theirs.norm()  # a few pixels differ: activations at their kink
