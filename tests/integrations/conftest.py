"""Tiny random parts of diffusers' pipelines, with an AutoencoderSSDD in them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from PIL import Image

SIDE = 64  # pixels


@dataclass(frozen=True)
class Tiny:
    """A pipeline of random parts, and the arguments of a call in two steps."""

    pipe: Any
    arguments: Callable[[Any], dict[str, Any]]

    def pictures(self, pipe: Any = None) -> torch.Tensor:
        """Pictures (B, H, W, 3) in [0, 1]."""
        pipe = self.pipe if pipe is None else pipe
        pipe.set_progress_bar_config(disable=True)
        call = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "np"}
        return torch.from_numpy(pipe(**call, **self.arguments(pipe)).images)


def randomized(network: torch.nn.Module) -> torch.nn.Module:
    """Gives every weight a value that matters: many branches start as zeros."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        noise = noise / (noise.numel() / noise.shape[0]) ** 0.5 if parameter.ndim > 1 else 0.1 * noise
        parameter.data.copy_(noise + (parameter.ndim == 1 and "norm" in name and name.endswith("weight")))
    return network.eval()


@pytest.fixture
def make_vae():
    """Makes a small AutoencoderSSDD of random weights."""

    def make(encoder: Any = "debug", decoder: Any = "debug", **entries: Any) -> Any:
        from ssdd import AutoencoderSSDD

        torch.manual_seed(0)
        return randomized(AutoencoderSSDD(encoder, decoder, **entries))

    return make


def embedding(*shape: int) -> Callable[[Any], torch.Tensor]:
    return lambda pipe: torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(pipe.dtype)


def picture() -> Image.Image:
    return Image.radial_gradient("L").resize((SIDE, SIDE)).convert("RGB")


def unet(in_channels: int = 4, latents: int = 4, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=SIDE // 8,
        in_channels=in_channels,
        out_channels=latents,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=2,
        **more,
    )


def _stable_diffusion(name: str, in_channels: int = 4, **call: Any) -> Callable[[Any], Tiny]:
    def make(vae: Any) -> Tiny:
        import diffusers

        pipe = getattr(diffusers, name)(
            vae=vae,
            unet=unet(in_channels),
            scheduler=diffusers.DDIMScheduler(),
            text_encoder=None,
            tokenizer=None,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        text = embedding(2, 5, 8)
        return Tiny(pipe, lambda p: {"prompt_embeds": text(p), "negative_prompt_embeds": -text(p), **call})

    return make


def _xl(vae: Any) -> Tiny:
    import diffusers

    network = unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 + 6 * 8,
    )
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=vae,
        unet=network,
        scheduler=diffusers.EulerDiscreteScheduler(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
    )
    text, pooled = embedding(1, 5, 8), embedding(1, 8)
    return Tiny(
        pipe,
        lambda p: {
            "prompt_embeds": text(p),
            "negative_prompt_embeds": -text(p),
            "pooled_prompt_embeds": pooled(p),
            "negative_pooled_prompt_embeds": -pooled(p),
            "height": SIDE,
            "width": SIDE,
        },
    )


def _three(vae: Any) -> Tiny:
    import diffusers

    network = diffusers.SD3Transformer2DModel(
        sample_size=SIDE // 8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=8,
        pooled_projection_dim=8,
    )
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=network,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        **dict.fromkeys(
            ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
        ),
    )
    text, pooled = embedding(1, 5, 8), embedding(1, 8)
    return Tiny(
        pipe,
        lambda p: {
            "prompt_embeds": text(p),
            "negative_prompt_embeds": -text(p),
            "pooled_prompt_embeds": pooled(p),
            "negative_pooled_prompt_embeds": -pooled(p),
            "height": SIDE,
            "width": SIDE,
        },
    )


def _flux(vae: Any) -> Tiny:
    import diffusers

    channels = 4 * vae.config.latent_channels  # of 2 x 2 latent cells
    network = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=channels,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=[4, 4, 8],
    )
    pipe = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        transformer=network,
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    )
    text, pooled = embedding(1, 5, 8), embedding(1, 8)
    return Tiny(
        pipe,
        lambda p: {"prompt_embeds": text(p), "pooled_prompt_embeds": pooled(p), "height": SIDE, "width": SIDE},
    )


def _dit(vae: Any) -> Tiny:
    import diffusers

    network = diffusers.DiTTransformer2DModel(
        sample_size=SIDE // 8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=4,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
        norm_elementwise_affine=False,
    )
    pipe = diffusers.DiTPipeline(transformer=network, vae=vae, scheduler=diffusers.DDIMScheduler())
    return Tiny(pipe, lambda p: {"class_labels": [1, 2]})


def _pixart(vae: Any) -> Tiny:
    import diffusers

    network = diffusers.PixArtTransformer2DModel(
        sample_size=SIDE // 8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=4,
        num_attention_heads=2,
        caption_channels=8,
        in_channels=4,
        cross_attention_dim=8,
        out_channels=8,
        use_additional_conditions=False,
    )
    pipe = diffusers.PixArtAlphaPipeline(
        transformer=network, vae=vae, scheduler=diffusers.DDIMScheduler(), text_encoder=None, tokenizer=None
    )
    return Tiny(pipe, _captioned)


def _sana(vae: Any) -> Tiny:
    import diffusers

    network = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=SIDE // 8,
    )
    pipe = diffusers.SanaPipeline(
        transformer=network,
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=None,
        tokenizer=None,
    )
    return Tiny(pipe, _captioned)


def _captioned(pipe: Any) -> dict[str, Any]:
    text = embedding(1, 5, 8)(pipe)
    mask = torch.ones(1, 5)
    return {
        "prompt_embeds": text,
        "prompt_attention_mask": mask,
        "negative_prompt": None,
        "negative_prompt_embeds": -text,
        "negative_prompt_attention_mask": mask,
        "height": SIDE,
        "width": SIDE,
        "use_resolution_binning": False,
    }


MASK = Image.linear_gradient("L").resize((SIDE, SIDE))
PIPELINES: dict[str, Callable[[Any], Tiny]] = {
    "stable diffusion": _stable_diffusion("StableDiffusionPipeline", height=SIDE, width=SIDE),
    "img2img": _stable_diffusion("StableDiffusionImg2ImgPipeline", image=picture(), strength=1.0),
    "inpaint": _stable_diffusion("StableDiffusionInpaintPipeline", 9, image=picture(), mask_image=MASK, height=SIDE),
    "xl": _xl,
    "3": _three,
    "flux": _flux,
    "dit": _dit,
    "pixart": _pixart,
    "sana": _sana,
}


@pytest.fixture(params=PIPELINES)
def make_pipeline(request) -> Callable[[Any], Tiny]:
    """Makes each kind of pipeline with a `vae`."""

    def make(vae: Any) -> Tiny:
        torch.manual_seed(0)
        tiny = PIPELINES[request.param](vae)
        for name in ("unet", "transformer"):
            if hasattr(tiny.pipe, name):
                getattr(tiny.pipe, name).eval()
        return tiny

    return make


@pytest.fixture
def make_flux(make_vae) -> Callable[[Any], Tiny]:
    """Makes a small pipeline of Flux."""
    return _flux


def kl(widths: tuple[int, ...] = (8, 16), **more: Any) -> Any:
    """Diffusers' KL autoencoder."""
    from diffusers import AutoencoderKL

    blocks = {
        f"{way}_block_types": (f"{way.title()}{part}Block2D",) * len(widths)
        for way, part in (("down", "Encoder"), ("up", "Decoder"))
    }
    return AutoencoderKL(**{**blocks, "block_out_channels": widths, "norm_num_groups": 4, **more})


def _deep_compression() -> Any:
    from diffusers import AutoencoderDC

    way = {"block_types": ("ResBlock", "EfficientViTBlock"), "block_out_channels": (8, 8), "layers_per_block": (1, 1)}
    both = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in way.items()}
    scales = {"encoder_qkv_multiscales": ((), (5,)), "decoder_qkv_multiscales": ((), (5,))}
    sampling = {"downsample_block_type": "stride_conv", "upsample_block_type": "interpolate"}
    return AutoencoderDC(latent_channels=4, attention_head_dim=2, scaling_factor=0.41, **both, **scales, **sampling)


def _tiny() -> Any:
    from diffusers import AutoencoderTiny

    both = {f"{side}_block_out_channels": (8, 8) for side in ("encoder", "decoder")}
    return AutoencoderTiny(**both, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))


def _representation() -> Any:
    from diffusers import AutoencoderRAE

    return AutoencoderRAE(
        encoder_hidden_size=64,
        encoder_patch_size=4,
        encoder_num_hidden_layers=1,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        patch_size=8,
        encoder_input_size=16,
        latents_mean=[[[0.1]]] * 64,
        latents_std=[[[2.0]]] * 64,
    )


# Numbers of scale and shift are those of the published autoencoders.
AUTOENCODERS: dict[str, Callable[[], Any]] = {
    "sd": lambda: kl(scaling_factor=0.18215),
    "xl": lambda: kl(scaling_factor=0.13025, latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0]),
    "sd3": lambda: kl((8, 8, 16), latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False),
    "flux": lambda: kl(
        (8, 16, 16),
        layers_per_block=2,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ),
    "uneven": lambda: kl((8, 12), scaling_factor=0.5),  # widths that no encoder of ours has
    "tiny": _tiny,
    "dc": _deep_compression,
    "rae": _representation,
}


@pytest.fixture
def make_autoencoder():
    """Makes an autoencoder of diffusers by its name, with random weights."""

    def make(name: str) -> Any:
        import diffusers

        if name == "rae" and not hasattr(diffusers, "AutoencoderRAE"):
            pytest.skip("this diffusers has no AutoencoderRAE")
        torch.manual_seed(0)
        return AUTOENCODERS[name]().eval()

    return make
