"""Additions for small decoders: linear shortcut to the clean image, overlapping patches, refinement at full size."""

import copy
import json
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F

from ssdd_decoder import SIZES, CheckpointError, Decoder, DecoderConfig, checkpoint, decoder_config
from ssdd_decoder.flow import predict_clean
from ssdd_decoder.patches import join
from ssdd_decoder.unet import UNet

SMALL = DecoderConfig(
    base_channels=16,
    multipliers=(1, 2),
    transformer_blocks=1,
    heads=2,
    downscale=4,
    resnets_per_level=1,
    patch_size=2,
    norm_groups=8,
    prediction="sample",
)
SHORTCUT = replace(SMALL, shortcut=True)
REFINED = replace(SMALL, refinement_channels=8, refinement_layers=3)
OVERLAPPING = replace(SMALL, overlap=True)
CONFIG = replace(SMALL, shortcut=True, overlap=True, refinement_channels=8, refinement_layers=3)
ADDED = ("shortcut", "overlap", "refinement_channels", "refinement_layers")


def inputs(draw, rows=2, columns=3):
    z = draw(2, 4, rows, columns, seed=1, dtype=torch.float64)
    return draw(2, 3, 4 * rows, 4 * columns, dtype=torch.float64), torch.tensor([0.3, 1.0], dtype=torch.float64), z


def clean_image(decoder, x_t, t, z):
    return predict_clean(x_t, decoder(x_t, t, z), t)


def with_header(decoder: Decoder, file, **header) -> Decoder:
    fields = {key: value for key, value in asdict(decoder.config).items() if key not in ADDED}
    return Decoder.from_pretrained(checkpoint.write(file, decoder.state_dict(), {"decoder": fields | header}))


@pytest.mark.parametrize("size", [size for size in SIZES if size not in ("quickstart", "demo")])
def test_additions_are_off_in_published_sizes(size):
    config = decoder_config(size)
    assert (config.shortcut, config.overlap, config.refinement_channels) == (False, False, 0)
    with torch.device("meta"):
        keys = Decoder(config).state_dict().keys()
    assert not [key for key in keys if key.startswith(("shortcut", "refinement"))]


@pytest.mark.parametrize("config", [SHORTCUT, replace(SHORTCUT, refinement_channels=8)])
def test_starts_as_an_orthogonal_map_of_the_latent(draw, config):
    torch.manual_seed(0)
    decoder = Decoder(config).double()
    x_t, t, z = inputs(draw)
    kernel = decoder.shortcut.weight.flatten(1)  # (3 F^2, C)
    torch.testing.assert_close(kernel.T @ kernel, torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0)
    clean = clean_image(decoder, x_t, t, z)
    for row, column in [(0, 0), (1, 2)]:
        patch = clean[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
        torch.testing.assert_close(patch, z[:, :, row, column] @ kernel.T, atol=1e-12, rtol=0)


@pytest.mark.parametrize("steps", [1, 4])  # with more, the last step starts below flow.SMALLEST_TIME
def test_decodes_to_that_map_whatever_the_noise(draw, steps):
    torch.manual_seed(0)
    decoder, z = Decoder(CONFIG).double(), inputs(draw)[2]
    expected = join(decoder.shortcut(z), 4, overlap=True)
    torch.testing.assert_close(decoder.decode(z, steps=steps), expected, atol=1e-12, rtol=0)


def test_shortcut_is_added_to_the_clean_image(make_decoder, draw):
    decoder = make_decoder(SHORTCUT).double()
    x_t, t, z = inputs(draw)
    linear = F.pixel_shuffle(decoder.shortcut(z), 4)
    together = clean_image(decoder, x_t, t, z)
    torch.nn.init.zeros_(decoder.shortcut.weight)
    torch.nn.init.zeros_(decoder.shortcut.bias)
    torch.testing.assert_close(together, clean_image(decoder, x_t, t, z) + linear, atol=1e-10, rtol=0)


def overlapped(patches, side):
    """Sum of patches of 2 s x 2 s under triangular windows over the sum of the windows, one patch at a time."""
    batch, _, h, w = patches.shape
    ramp = 1 - (torch.arange(2 * side) + 0.5 - side).abs() / side
    window = ramp[:, None] * ramp[None, :]
    total = torch.zeros(batch, 3, (h + 1) * side, (w + 1) * side, dtype=torch.float64)
    weight = torch.zeros_like(total)
    for row in range(h):
        for column in range(w):
            there = (..., slice(row * side, (row + 2) * side), slice(column * side, (column + 2) * side))
            total[there] += patches[:, :, row, column].view(batch, 3, 2 * side, 2 * side) * window
            weight[there] += window
    half = side // 2
    return (total / weight)[:, :, half : half + h * side, half : half + w * side]


@pytest.mark.parametrize(("side", "h", "w"), [(2, 3, 2), (4, 1, 1), (4, 2, 5), (6, 1, 3)])
def test_overlapping_patches_are_averaged_under_their_windows(draw, side, h, w):
    patches = draw(2, 12 * side**2, h, w, dtype=torch.float64)
    torch.testing.assert_close(join(patches, side, overlap=True), overlapped(patches, side), atol=1e-6, rtol=0)


@pytest.mark.parametrize("overlap", [False, True])
def test_constant_patches_make_a_constant_image(overlap):
    image = join(torch.full((1, 3 * 16 * (4 if overlap else 1), 3, 2), 0.7, dtype=torch.float64), 4, overlap)
    torch.testing.assert_close(image, torch.full((1, 3, 12, 8), 0.7, dtype=torch.float64), atol=1e-12, rtol=0)


def test_overlapping_patches_do_not_jump_at_their_borders(draw):
    """Independent patches that are constant: meeting ones jump at their borders only, overlapping ones rise evenly."""
    levels = draw(8, 3, 1, 16, 16, dtype=torch.float64)

    def border(overlap: bool) -> float:
        fill = 64 if overlap else 16
        change = join(levels.expand(-1, -1, fill, -1, -1).reshape(8, 3 * fill, 16, 16), 4, overlap).diff(dim=3).abs()
        at_border = torch.arange(change.shape[3]) % 4 == 3
        return (change[..., at_border].mean() / change[..., ~at_border].mean()).item()

    assert border(False) > 1e6
    assert border(True) < 1.3  # not 1: a straight line bends at the middle of each patch


def test_meeting_patches_of_one_pixel_are_the_image(draw):
    image = draw(1, 3, 4, 5)
    assert join(image, 1, overlap=False) is image


def test_refinement_is_a_residual_of_the_clean_image_and_the_noisy_one(make_decoder, draw):
    decoder = make_decoder(REFINED).double()
    x_t, t, z = inputs(draw)
    refined = clean_image(decoder, x_t, t, z)
    first, second, last = copy.deepcopy(decoder.refinement.convs)
    torch.nn.init.zeros_(decoder.refinement.convs[-1].weight)
    torch.nn.init.zeros_(decoder.refinement.convs[-1].bias)
    clean = clean_image(decoder, x_t, t, z)
    residual = last(F.silu(second(F.silu(first(torch.cat([clean, x_t], dim=1))))))
    torch.testing.assert_close(refined, clean + residual, atol=1e-10, rtol=0)


@pytest.mark.parametrize("config", [SHORTCUT, REFINED, OVERLAPPING, CONFIG])
def test_every_parameter_gets_a_gradient(make_decoder, draw, config):
    decoder = make_decoder(config).double()
    decoder(*inputs(draw)).square().mean().backward()
    assert [key for key, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_training_starts_although_the_last_convolutions_are_zero(draw):
    torch.manual_seed(0)
    decoder = Decoder(CONFIG).double()
    decoder(*inputs(draw)).square().mean().backward()
    for parameter in (decoder.conv_out.weight, decoder.shortcut.weight, decoder.refinement.convs[-1].weight):
        assert parameter.grad.abs().sum() > 0


def test_shortcut_is_computed_once_for_all_steps(make_decoder, draw, monkeypatch):
    decoder, calls = make_decoder(CONFIG), []
    decoder.shortcut.register_forward_hook(lambda *_: calls.append(1))
    decoder.decode(draw(1, 4, 2, 2), steps=5)
    assert len(calls) == 1


def test_batch_equals_singles(make_decoder, draw):
    decoder = make_decoder(CONFIG).double()
    x_t, t, z = inputs(draw)
    together = decoder(x_t, t, z)
    for i in range(2):
        alone = decoder(x_t[i : i + 1], t[i : i + 1], z[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_equals_loaded_bitwise(make_decoder, tmp_path, dtype):
    decoder = make_decoder(CONFIG).to(dtype)
    loaded = Decoder.from_pretrained(decoder.save_pretrained(tmp_path))
    assert loaded.config == CONFIG
    left, right = decoder.state_dict(), loaded.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)
    z, noise = torch.ones(1, 4, 2, 2), torch.ones(1, 3, 8, 8)
    assert torch.equal(loaded.decode(z, noise=noise), decoder.decode(z, noise=noise))


def test_a_file_from_before_the_additions_loads_as_before(make_decoder, tmp_path):
    decoder = make_decoder(SMALL)
    loaded = with_header(decoder, tmp_path / "old.safetensors")
    assert loaded.config == SMALL
    z, noise = torch.ones(1, 4, 2, 2), torch.ones(1, 3, 8, 8)
    assert torch.equal(loaded.decode(z, noise=noise), decoder.decode(z, noise=noise))


@pytest.mark.parametrize("space", [(4, 4), (8, 8)])
def test_a_quickstart_file_from_before_the_additions_goes_by_its_name(make_decoder, tmp_path, space):
    earlier = DecoderConfig(
        base_channels=48,
        multipliers=(1, 2),
        transformer_blocks=2,
        latent_channels=space[0],
        downscale=space[1],
        resnets_per_level=1,
        patch_size=4,
        norm_groups=16,
        prediction="sample",
    )
    with_header(make_decoder(earlier), tmp_path / "old.safetensors")
    for asked in (None, "quickstart", earlier):
        assert Decoder.from_pretrained(tmp_path / "old.safetensors", asked).config == earlier
    with pytest.raises(CheckpointError, match="this file holds decoder of"):
        Decoder.from_pretrained(tmp_path / "old.safetensors", "debug")
    make_decoder("quickstart").save_pretrained(tmp_path / "new.safetensors")
    loaded = Decoder.from_pretrained(tmp_path / "new.safetensors", "quickstart").config
    assert (loaded.shortcut, loaded.overlap, loaded.refinement_channels) == (True, True, 16)


def test_a_quickstart_file_of_the_earlier_latents_goes_by_its_name(make_decoder, tmp_path):
    earlier = decoder_config("quickstart", latent_channels=4, downscale=4)
    make_decoder(earlier).save_pretrained(tmp_path / "old.safetensors")
    for asked in (None, "quickstart", earlier):
        assert Decoder.from_pretrained(tmp_path / "old.safetensors", asked).config == earlier


@pytest.mark.parametrize(
    "header",
    [
        {"shortcut": True},  # the weights hold none
        {"refinement_channels": 8},
        {"overlap": True},
        {"overlap": 2},
        {"shortcut": "true"},
        {"shortcut": 1},
        {"refinement_channels": 10**9},
        {"refinement_channels": -1},
        {"refinement_layers": 1},
        {"refinement_layers": [3]},
        {"refinement_depth": 3},
        {"shortcut": True, "prediction": "velocity"},
    ],
)
def test_absurd_headers_are_refused(make_decoder, tmp_path, header):
    with pytest.raises(CheckpointError) as caught:
        with_header(make_decoder(SMALL), tmp_path / "odd.safetensors", **header)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "fields",
    [
        {"shortcut": 1},
        {"shortcut": None},
        {"overlap": 1},
        {"overlap": True, "patch_size": 1},
        {"refinement_channels": -1},
        {"refinement_channels": 8.0},
        {"refinement_channels": True},
        {"refinement_channels": 10**6},
        {"refinement_layers": 1},
        {"refinement_layers": 33},
        {"refinement_channels": 16_384, "refinement_layers": 32},
    ],
)
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=r"expected .* got"):
        replace(SMALL, **fields)


@pytest.mark.parametrize("addition", [{"shortcut": True}, {"refinement_channels": 8}])
def test_additions_need_the_clean_image(addition):
    with pytest.raises(ValueError, match=r"expected prediction 'sample' .*, got 'velocity': change prediction"):
        replace(SMALL, prediction="velocity", **addition)


def test_configuration_survives_json_and_counts_its_parameters():
    assert DecoderConfig(**json.loads(json.dumps(asdict(CONFIG)))) == CONFIG
    grown = sum(p.numel() for p in UNet(CONFIG).parameters()) - sum(p.numel() for p in UNet(SMALL).parameters())
    biases = 4 * 3 * 16 + 3 * 3 * 4 + 8 + 8 + 3
    assert CONFIG.approximate_parameters - SMALL.approximate_parameters == grown - biases


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_compiles_without_a_graph_break(make_decoder, draw, train):
    decoder = make_decoder(CONFIG)
    arguments = tuple(each.float() for each in inputs(draw))
    torch._dynamo.reset()
    compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(train):
        torch.testing.assert_close(compiled(*arguments), decoder(*arguments), atol=1e-4, rtol=1e-4)
