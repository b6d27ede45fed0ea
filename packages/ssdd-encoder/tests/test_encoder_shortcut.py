"""Additions for small encoders: the linear shortcut to the mean, and attention within windows."""

import json
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdd_encoder import CheckpointError, Encoder, EncoderConfig, blocks, checkpoint, encoder_config
from ssdd_encoder.blocks import AttnBlock

SMALL = EncoderConfig(base_channels=8, multipliers=(1, 2), patch_size=2, norm_groups=8, resnets_per_level=1)
CONFIG = replace(SMALL, shortcut=True, attention_window=3)
ADDED = ("shortcut", "attention_window")


def state(encoder: Encoder) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in encoder.state_dict().items()}


def with_header(encoder: Encoder, file, **header) -> Encoder:
    fields = {key: value for key, value in asdict(encoder.config).items() if key not in ADDED}
    return Encoder.from_pretrained(checkpoint.write(file, encoder.state_dict(), {"encoder": fields | header}))


@pytest.mark.parametrize("name", ["f8c4", "f16c4", "debug"])
def test_additions_are_off_in_published_encoders(name):
    config = encoder_config(name)
    assert (config.shortcut, config.attention_window) == (False, None)
    with torch.device("meta"):
        assert not [key for key in Encoder(config).state_dict() if "shortcut" in key and "nin_shortcut" not in key]


def test_starts_as_an_orthogonal_map_of_each_patch(images):
    torch.manual_seed(0)
    encoder, x = Encoder(CONFIG).double(), images(2, 12, 8).double()
    posterior = encoder(x)
    matrix = encoder.shortcut.weight.flatten(1)  # (C, 3 F^2)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0)
    for row, column in [(0, 0), (2, 1)]:
        patch = x[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
        torch.testing.assert_close(posterior.mean[:, :, row, column], patch @ matrix.T, atol=1e-12, rtol=0)
    assert not posterior.logvar.any()


def test_shortcut_is_added_to_the_mean_alone(make_encoder, images):
    encoder, x = make_encoder(CONFIG).double(), images(2, 8, 12).double()
    with_shortcut = encoder(x)
    linear = encoder.shortcut(F.pixel_unshuffle(x, 4))
    torch.nn.init.zeros_(encoder.shortcut.weight)
    without = encoder(x)
    torch.testing.assert_close(with_shortcut.mean, without.mean + linear, atol=1e-12, rtol=0)
    torch.testing.assert_close(with_shortcut.logvar, without.logvar, atol=1e-12, rtol=0)


def test_every_parameter_gets_a_gradient(make_encoder, images):
    encoder = make_encoder(CONFIG)
    posterior = encoder(images(2, 16, 16))
    (posterior.sample(torch.Generator().manual_seed(0)).square().mean() + posterior.kl().mean()).backward()
    without = [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # The bias of a key shifts all scores of a query alike, and softmax does not see it: its gradient is rounding noise.
    assert without in ([], ["mid.attn_1.k.bias"])


def test_training_starts_although_the_last_convolution_is_zero(images):
    torch.manual_seed(0)
    encoder = Encoder(CONFIG)
    encoder(images(2, 16, 16)).sample(torch.Generator().manual_seed(0)).square().mean().backward()
    assert encoder.out_proj.weight.grad.abs().sum() > 0
    assert encoder.shortcut.weight.grad.abs().sum() > 0


def attention_of(block: AttnBlock, x: torch.Tensor, rows: list[int], columns: list[int]) -> torch.Tensor:
    """Plain global attention under a mask; positions with equal numbers of row and column share a window."""
    height, width = x.shape[2:]
    window = (torch.tensor(rows)[:, None] * 1000 + torch.tensor(columns)[None]).flatten()
    h = block.norm(x)
    q, k, v = (conv(h).flatten(2).transpose(1, 2) for conv in (block.q, block.k, block.v))
    scores = q @ k.transpose(1, 2) / x.shape[1] ** 0.5
    scores = scores.masked_fill(window[:, None] != window[None, :], float("-inf"))
    h = (scores.softmax(-1) @ v).transpose(1, 2).reshape(len(x), -1, height, width)
    return x + block.proj_out(h)


@pytest.mark.parametrize(
    ("window", "rows", "columns"),
    [
        (2, [0, 0, 1, 1], [0, 0, 1, 1, 2, 2]),
        (3, [0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 2, 2]),  # as equal as possible: no rest of one row
        (4, [0, 0, 0, 0], [0, 0, 0, 1, 1, 1]),
        (1, [0, 1], [0, 1, 2]),
    ],
)
def test_windowed_attention_is_global_attention_under_a_mask(window, rows, columns):
    torch.manual_seed(0)
    block = AttnBlock(8, 4, window).double()
    x = torch.randn(2, 8, len(rows), len(columns), dtype=torch.float64)
    torch.testing.assert_close(block(x), attention_of(block, x, rows, columns), atol=1e-12, rtol=0)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 7), width=st.integers(1, 7), room=st.integers(0, 3))
def test_a_map_that_fits_one_window_is_attended_whole(height, width, room):
    torch.manual_seed(height * 10 + width)
    windowed, whole = AttnBlock(8, 4, max(height, width) + room).double(), AttnBlock(8, 4).double()
    whole.load_state_dict(windowed.state_dict())
    x = torch.randn(2, 8, height, width, dtype=torch.float64)
    torch.testing.assert_close(windowed(x), whole(x), atol=1e-13, rtol=0)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), window=st.integers(1, 4))
def test_no_position_sees_beyond_its_window(height, width, window):
    """Attention alone: the norm before it sees the whole map, so it is left out."""
    torch.manual_seed(0)
    block = AttnBlock(8, 4, window).double()
    block.norm = torch.nn.Identity()
    x = torch.randn(1, 8, height, width, dtype=torch.float64)
    changed = x.clone()
    changed[..., -1, -1] += 1
    difference = (block(changed) - block(x)).abs().sum(1)[0]  # (H, W)
    moved = difference > 0
    assert moved[-1, -1]
    assert not moved[: max(height - window, 0)].any()
    assert not moved[:, : max(width - window, 0)].any()


def test_a_large_map_costs_what_its_windows_cost(monkeypatch):
    """Scores per position are bounded by the window, so the cost is linear in the number of positions."""
    calls, attend = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v: calls.append(q.shape) or attend(q, k, v))
    AttnBlock(8, 4, 4)(torch.randn(1, 8, 33, 22))
    assert sum(windows * tokens for windows, _, tokens, _ in calls) == 33 * 22
    assert max(tokens for _, _, tokens, _ in calls) <= 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_equals_loaded_bitwise(make_encoder, images, tmp_path, dtype):
    encoder = make_encoder(CONFIG).to(dtype)
    loaded = Encoder.from_pretrained(encoder.save_pretrained(tmp_path))
    assert loaded.config == CONFIG
    assert state(loaded) == state(encoder)
    x = images(1, 16, 20)
    assert torch.equal(loaded(x).mean, encoder(x).mean)


def test_a_file_from_before_the_additions_loads_as_before(make_encoder, images, tmp_path):
    encoder = make_encoder(SMALL)
    loaded = with_header(encoder, tmp_path / "old.safetensors")
    assert loaded.config == SMALL
    assert torch.equal(loaded(images(1, 8, 8)).mean, encoder(images(1, 8, 8)).mean)


def test_a_quickstart_file_from_before_the_additions_goes_by_its_name(make_encoder, tmp_path):
    earlier = EncoderConfig(base_channels=24, multipliers=(1, 1), patch_size=2, norm_groups=8)
    with_header(make_encoder(earlier), tmp_path / "old.safetensors")
    for asked in (None, "quickstart", earlier):
        assert Encoder.from_pretrained(tmp_path / "old.safetensors", asked).config == earlier
    with pytest.raises(CheckpointError, match="this file holds encoder f4c4"):
        Encoder.from_pretrained(tmp_path / "old.safetensors", "f4c4")
    make_encoder("quickstart").save_pretrained(tmp_path / "new.safetensors")
    loaded = Encoder.from_pretrained(tmp_path / "new.safetensors", "quickstart").config
    assert (loaded.name, loaded.shortcut, loaded.attention_window) == ("f8c16", True, 8)


def test_a_quickstart_file_of_the_earlier_latents_goes_by_its_name(make_encoder, tmp_path):
    earlier = EncoderConfig(
        base_channels=24, multipliers=(1, 1), patch_size=2, norm_groups=8, attention_window=16, shortcut=True
    )
    make_encoder(earlier).save_pretrained(tmp_path / "old.safetensors")
    for asked in (None, "quickstart", earlier):
        assert Encoder.from_pretrained(tmp_path / "old.safetensors", asked).config == earlier


@pytest.mark.parametrize(
    "header",
    [
        {"shortcut": True},  # the weights hold none
        {"shortcut": 1},
        {"shortcut": "yes"},
        {"attention_window": 0},
        {"attention_window": 2**30},
        {"attention_window": True},
        {"attention_window": [4]},
        {"attention_windows": 4},
    ],
)
def test_absurd_headers_are_refused(make_encoder, tmp_path, header):
    with pytest.raises(CheckpointError) as caught:
        with_header(make_encoder(SMALL), tmp_path / "odd.safetensors", **header)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "fields",
    [
        {"shortcut": 1},
        {"shortcut": None},
        {"attention_window": 0},
        {"attention_window": -4},
        {"attention_window": 4.0},
        {"attention_window": False},
        {"attention_window": 10**9},
        {"attention_window": 4, "attention": False},
    ],
)
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=r"expected .* got"):
        replace(SMALL, **fields)


def test_configuration_survives_json_and_counts_its_parameters():
    assert EncoderConfig(**json.loads(json.dumps(asdict(CONFIG)))) == CONFIG
    without = sum(p.numel() for p in Encoder(SMALL).parameters())
    assert sum(p.numel() for p in Encoder(CONFIG).parameters()) - without == 48 * 4
    assert CONFIG.approximate_parameters - SMALL.approximate_parameters == 48 * 4


@pytest.mark.slow
def test_compiles_without_a_graph_break(make_encoder, images):
    encoder, x = make_encoder(CONFIG), images(2, 16, 28)
    torch._dynamo.reset()
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x).mean, encoder(x).mean)


def test_large_maps_are_seen_in_windows_and_an_argument_decides(monkeypatch, images):
    monkeypatch.setattr(blocks, "LARGEST_WHOLE", 24)
    monkeypatch.setattr(blocks, "LARGE_WINDOW", 3)
    torch.manual_seed(0)
    encoder = Encoder(SMALL)
    for name, weight in encoder.mid.attn_1.named_parameters():
        if name.endswith("weight") and weight.ndim > 1:
            weight.data.normal_()  # as initialised, attention hardly counts
    side = encoder.config.downscale
    small, large = images(1, 4 * side, 6 * side), images(1, 5 * side, 6 * side)
    with torch.no_grad():
        assert torch.equal(encoder(small).mean, encoder(small, attention_window=6).mean)
        assert torch.equal(encoder(large).mean, encoder(large, attention_window=3).mean)
        assert not torch.allclose(encoder(large).mean, encoder(large, attention_window=6).mean, atol=1e-3)
