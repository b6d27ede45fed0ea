"""The encoder's blocks: residual block, self-attention, level. Names are latent diffusion's, and those of its files."""

# B batch, C channels, H W feature map, N = H W positions

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6  # as published; PyTorch's default of 1e-5 gives other latents
# Up to so many positions, attention without windows sees all of them: 1024 x 1024 pixels at F = 8. Its cost grows with
# the square of their number, and a photograph of 12 megapixels would take a quarter of an hour on a CPU.
LARGEST_WHOLE = 128 * 128
LARGE_WINDOW = 32  # side of the windows above it: the whole map of the published encoders' training images


class ResnetBlock(nn.Module):
    """(norm, swish, 3x3 conv) twice, added to the input, through a 1x1 conv where channels change."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        shortcut = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return shortcut + h


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions, or within windows; its projections are 1x1 convolutions.

    Args:
        channels: C.
        groups: of its norm.
        window: largest side of a window, in positions; None for all positions, or windows of 32 x 32 in a map of more
            than 128 x 128.
    """

    def __init__(self, channels: int, groups: int, window: int | None = None) -> None:
        super().__init__()
        self.window = window
        self.norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, window: int | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), with windows of another side than the block's own where one is given."""
        height, width = x.shape[2:]
        window = self.reach(height, width, window)
        h = self.norm(x)
        qkv = torch.stack([self.q(h), self.k(h), self.v(h)])  # (3, B, C, H, W)
        if window is None:
            return x + self.proj_out(_attend(qkv))
        bands = []
        for top, bottom, rows in windows(height, window):
            parts = [
                _attend_in_windows(qkv[..., top:bottom, left:right], rows, columns)
                for left, right, columns in windows(width, window)
            ]
            bands.append(torch.cat(parts, dim=3))
        return x + self.proj_out(torch.cat(bands, dim=2))

    def reach(self, height: int, width: int, window: int | None) -> int | None:
        """Side of the windows in a map of that size; None for the whole map."""
        return window or self.window or (LARGE_WINDOW if height * width > LARGEST_WHOLE else None)

    def of_window_rows(self, x: Tensor, normalised: Tensor, window: int) -> Tensor:
        """Does the work of `forward` for the rows of one row of windows, given their normalised values too."""
        qkv = torch.stack([self.q(normalised), self.k(normalised), self.v(normalised)])
        parts = [
            _attend_in_windows(qkv[..., left:right], x.shape[2], columns)
            for left, right, columns in windows(x.shape[3], window)
        ]
        return x + self.proj_out(torch.cat(parts, dim=3))


def _attend(qkv: Tensor) -> Tensor:
    """Attention of each position to all positions, (3, B, C, H, W) -> (B, C, H, W)."""
    q, k, v = qkv.flatten(3).transpose(2, 3).unsqueeze(2)
    h = F.scaled_dot_product_attention(q, k, v)  # (B, 1, N, C), scale 1 / sqrt(C)
    return h.squeeze(1).transpose(1, 2).reshape(qkv.shape[1:])


def _attend_in_windows(qkv: Tensor, rows: int, columns: int) -> Tensor:
    """Attention within windows of rows x columns positions, which divide the map: (3, B, C, H, W) -> (B, C, H, W)."""
    _, batch, channels, height, width = qkv.shape
    down, across = height // rows, width // columns
    windows = qkv.reshape(3, batch, channels, down, rows, across, columns).permute(0, 1, 3, 5, 2, 4, 6)
    h = _attend(windows.reshape(3, -1, channels, rows, columns))
    h = h.reshape(batch, down, across, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    return h.reshape(batch, channels, height, width)


def windows(length: int, most: int) -> list[tuple[int, int, int]]:
    """Cuts an axis into the fewest windows of at most `most` positions: (start, end, side) of those of equal side.

    Sides differ by one at the most. With a short rest at the end, its positions would attend to few others, a case that
    does not occur in training.
    """
    count = -(-length // most)
    side, larger = divmod(length, count)
    end = larger * (side + 1)  # so many windows take one position more
    return [(0, end, side + 1)] * (larger > 0) + [(end, length, side)]


class Downsample(nn.Module):
    """Stride-2 3x3 convolution after one row of zeros below and one column of zeros to the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
        # Padding on one side only, as published: with `padding=1`, every feature would lie one pixel elsewhere.
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class DownLevel(nn.Module):
    """Residual blocks at one resolution, then a downsampling unless this is the last level."""

    def __init__(self, in_channels: int, out_channels: int, resnets: int, groups: int, downsample: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(in_channels if i == 0 else out_channels, out_channels, groups) for i in range(resnets)
        )
        if downsample:
            self.downsample = Downsample(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W), or half of H and W."""
        for block in self.block:
            x = block(x)
        return self.downsample(x) if hasattr(self, "downsample") else x


class Middle(nn.Module):
    """Residual block, self-attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, groups: int, attention: bool, window: int | None = None) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        if attention:
            self.attn_1 = AttnBlock(channels, groups, window)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: Tensor, window: int | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); the window is the attention's."""
        x = self.block_1(x)
        if hasattr(self, "attn_1"):
            x = self.attn_1(x, window)
        return self.block_2(x)
