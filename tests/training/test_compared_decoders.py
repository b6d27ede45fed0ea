"""Decoders of every kind are rows of one protocol: SSDD's, the KL-VAE's, feed-forward ones, those of diffusers."""

import diffusers
import pytest
import torch

from ssdd import SSDD
from ssdd.baselines import KLAutoencoder, KLDecoder, KLDecoderConfig
from ssdd.benchmarking.compared_speed import measure_decoders
from ssdd.data import EvalTransform, ImageDataset, index_images, open_source
from ssdd.evaluation.compared import ComparedDecoder, evaluate_decoder, reconstruct
from ssdd.evaluation.compared_photographs import decode_again
from ssdd.evaluation.diffusers_tokenizers import DiffusersTokenizer, content_of
from ssdd.evaluation.final import Measurement, evaluate
from ssdd.evaluation.passes import image_noise
from ssdd.evaluation.reference_statistics import write_references
from ssdd.evaluation.robustness import evaluate_robustness
from ssdd.noise import sample_noise, sample_seeds
from ssdd.parameters import EvaluateParameters, PretrainedNetworks, RuntimeConfig
from ssdd.upscaling import enlarge, enlarging, shrink
from ssdd_decoder import DecoderConfig
from ssdd_encoder import EncoderConfig
from ssdd_metrics import psnr, to_uint8

ENCODER = EncoderConfig(base_channels=8, multipliers=(1, 1), resnets_per_level=1, patch_size=2, norm_groups=4)
DECODER = DecoderConfig(
    base_channels=16,
    multipliers=(1, 2),
    transformer_blocks=1,
    heads=2,
    resnets_per_level=1,
    norm_groups=8,
    patch_size=2,
    downscale=4,
)
METRICS = ("psnr", "frechet_random_conv")
RUNTIME = RuntimeConfig(device="cpu", workers=0, trackers=(), progress=False)
PARAMETERS = EvaluateParameters(im_size=32, batch_size=3, metrics=METRICS, shown=2)
BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


def consistency():
    unet = {
        "decoder_block_out_channels": (8, 8),
        "decoder_down_block_types": ("ResnetDownsampleBlock2D",) * 2,
        "decoder_up_block_types": ("ResnetUpsampleBlock2D",) * 2,
        "decoder_layers_per_block": 1,
        "decoder_norm_num_groups": 4,
    }
    encoder = {
        "encoder_block_out_channels": (8, 8),
        "encoder_down_block_types": ("DownEncoderBlock2D",) * 2,
        "encoder_layers_per_block": 1,
        "encoder_norm_num_groups": 4,
    }
    return diffusers.ConsistencyDecoderVAE(**unet, **encoder)


TOKENIZERS = {
    "kl": lambda: diffusers.AutoencoderKL(**BLOCKS, block_out_channels=(8, 8), norm_num_groups=4),
    "kl without quant_conv, scaled": lambda: diffusers.AutoencoderKL(
        **BLOCKS,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1,
    ),
    "tiny": lambda: diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ),
    "dc": lambda: diffusers.AutoencoderDC(
        latent_channels=8,
        attention_head_dim=4,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
    ),
    "consistency": consistency,
}


def rae():
    pytest.importorskip("transformers", reason="of which diffusers takes the RAE's encoder")
    encoder = {"encoder_hidden_size": 64, "encoder_num_hidden_layers": 1, "encoder_patch_size": 8}
    decoder = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    return diffusers.AutoencoderRAE(
        **encoder, **decoder, encoder_input_size=32, patch_size=8, decoder_intermediate_size=32
    )


@pytest.fixture(scope="module")
def images():
    source = open_source("sample", train_images=4, validation_images=5, canvases=1)
    index = index_images(source, progress=False).index
    return ImageDataset(index, source, EvalTransform(im_size=32), split="validation")


@pytest.fixture(scope="module")
def measurement(images, tmp_path_factory):
    file = tmp_path_factory.mktemp("references") / "references.safetensors"
    write_references(file, images, 32, 4, METRICS, PretrainedNetworks(), RUNTIME)
    return Measurement(
        dataset=images,
        parameters=PARAMETERS,
        references=file,
        pretrained_networks=PretrainedNetworks(),
        runtime=RUNTIME,
    )


@pytest.fixture(scope="module")
def ssdd(tmp_path_factory):
    torch.manual_seed(0)
    made = SSDD(ENCODER, DECODER)
    for parameter in made.decoder.parameters():  # also what starts at zero
        torch.nn.init.normal_(parameter, std=0.1)
    return made.save_pretrained(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, build in TOKENIZERS.items():
        torch.manual_seed(0)
        made[name] = tmp_path_factory.mktemp("tokenizer") / name
        build().save_pretrained(made[name])
    return made


def test_a_run_named_in_the_comparison_has_the_figures_of_its_own_evaluation(ssdd, measurement):
    own = evaluate(ssdd, [2, 1], measurement, "evaluating")
    named = evaluate_decoder(ComparedDecoder("mine: teacher", "ssdd", str(ssdd), (2, 1)), measurement)
    assert [(row.name, row.steps) for row in named] == [("mine: teacher", 2), ("mine: teacher", 1)]
    for a, b in zip(own, named, strict=True):
        assert a.report == b.report


def test_the_kl_row_is_of_its_own_images(ssdd, measurement, images, tmp_path):
    torch.manual_seed(0)
    decoder = KLDecoder(KLDecoderConfig(width=8, downscale=4, resnets_per_level=1, norm_groups=4))
    model = KLAutoencoder(SSDD.from_pretrained(ssdd).encoder, decoder).eval()
    file = model.save_pretrained(tmp_path / "kl.safetensors")
    (row,) = evaluate_decoder(ComparedDecoder("KL-VAE", "kl", str(file)), measurement)
    x = torch.stack([images[number]["image"] for number in range(len(images))])
    decoded = model.decode(model.encode(x).mode()).clamp(-1, 1)
    levels = [((t + 1) * 127.5).round().double() for t in (x, decoded)]
    psnr = -10 * ((levels[0] - levels[1]).square().mean((1, 2, 3)) / 255**2).log10()
    assert row.report["metrics"]["psnr"] == pytest.approx(float(psnr.mean()), abs=0.01)
    assert row.report["protocol"]["model"].startswith("sha256:")


@pytest.fixture(scope="module")
def twice(ssdd, tmp_path_factory):
    """A model whose images are twice as large as its encoder's."""
    model = SSDD.from_pretrained(ssdd)
    model.decoder = enlarging(model.decoder, 2)
    return model.save_pretrained(tmp_path_factory.mktemp("twice") / "model.safetensors")


def test_a_decoder_that_enlarges_has_the_figures_of_its_own_evaluation(twice, measurement):
    own = evaluate(twice, [2, 1], measurement, "evaluating")
    for times in (1, 2):
        named = evaluate_decoder(ComparedDecoder("mine: teacher", "ssdd", str(twice), (2, 1), times), measurement)
        assert [row.report for row in named] == [row.report for row in own]


def test_another_decoder_beside_one_that_enlarges_is_resized(ssdd, measurement, images):
    decoder = ComparedDecoder("plain, resized by 2", "ssdd", str(ssdd), times=2)
    (row,) = evaluate_decoder(decoder, measurement)
    x = torch.stack([images[number]["image"] for number in range(len(images))])
    noise = image_noise(PARAMETERS.noise_seed, range(len(x)), x.shape[1:], x.device)[..., :16, :16]
    model = SSDD.from_pretrained(ssdd)
    y = enlarge(model.decode(model.encode(shrink(x, 2)).mode(), 1, noise), 2)
    expected = psnr(to_uint8((x + 1) / 2), to_uint8((y.clamp(-1, 1) + 1) / 2)).mean().item()
    assert row.report["metrics"]["psnr"] == pytest.approx(expected, abs=1e-2)
    assert row.report["protocol"]["images"] == len(images)


def test_speed_and_pictures_of_decoders_that_enlarge_are_at_the_images_size(ssdd, twice):
    decoders = [
        ComparedDecoder("twice", "ssdd", str(twice), times=2),
        ComparedDecoder("plain, resized by 2", "ssdd", str(ssdd), times=2),
        ComparedDecoder("feed-forward", "feed_forward", str(twice), times=2),
    ]
    rows = measure_decoders(decoders, [32], 1, 1, torch.device("cpu"), progress=False)
    assert [row["model"] for row in rows] == [decoder.name for decoder in decoders]
    inputs = {"0.input": torch.randint(0, 256, (3, 30, 46), dtype=torch.uint8)}
    pictures = decode_again(inputs, [decoders[0], decoders[2]], RUNTIME)
    assert {name: tuple(picture.shape) for name, picture in pictures.items()} == {
        "0.twice": (3, 30, 46),
        "0.feed-forward": (3, 30, 46),
    }


def test_noise_on_the_latents_of_smaller_copies(twice, measurement):
    decoder = ComparedDecoder("twice", "ssdd", str(twice))
    clean, noisy = evaluate_robustness(decoder, (0.0, 0.5), measurement)
    assert clean.evaluated.report["metrics"] == evaluate_decoder(decoder, measurement)[0].report["metrics"]
    assert noisy.evaluated.report["metrics"]["psnr"] < clean.evaluated.report["metrics"]["psnr"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_of_diffusers_are_rows(name, folders, measurement, images):
    decoder = ComparedDecoder(name, "diffusers", str(folders[name]))
    (row,) = evaluate_decoder(decoder, measurement)
    assert (row.name, row.report["protocol"]["images"]) == (name, len(images))
    assert 0 < row.report["metrics"]["psnr"] < 40
    model = decoder.open()
    x = torch.stack([images[number]["image"] for number in range(2)])
    z, noise = model.encode(x).mode(), torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    alone = model.decode(z[1:], 1, noise[1:])
    torch.testing.assert_close(model.decode(z, 1, noise)[1:], alone, atol=1e-4, rtol=1e-4)  # whatever else is decoded
    (speed,) = measure_decoders([decoder], [32], 1, 2, torch.device("cpu"), progress=False)
    assert (speed["model"], speed["steps"], speed["pixels"]) == (name, 1, 32)
    assert speed["parameters"] > 100


def test_a_rae_makes_images_of_its_own_size_alone(measurement, images, tmp_path):
    rae().save_pretrained(tmp_path)
    decoder = ComparedDecoder("rae", "diffusers", str(tmp_path))
    (row,) = evaluate_decoder(decoder, measurement)
    assert 0 < row.report["metrics"]["psnr"] < 40
    assert [row["pixels"] for row in measure_decoders([decoder], [32, 64], 1, 1, torch.device("cpu"), False)] == [32]
    x = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"got \(32, 32\): the decoder has a size of its own"):
        next(reconstruct(decoder.open(), x, [0], [1], 0))


def test_a_pipelines_folder_holds_its_autoencoder_in_vae(folders, tmp_path):
    (tmp_path / "vae").symlink_to(folders["kl"])
    assert type(DiffusersTokenizer.from_pretrained(str(tmp_path)).network).__name__ == "AutoencoderKL"
    assert content_of(str(tmp_path)) == content_of(str(folders["kl"])) != content_of(str(folders["tiny"]))


def test_what_is_no_tokenizer_is_refused(folders, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"expected config\.json of a diffusers autoencoder"):
        DiffusersTokenizer.from_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="expected an autoencoder of images, one of AutoencoderKL"):
        DiffusersTokenizer.from_pretrained(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"expected a folder or a hub id in compare\.tokenizers"):
        DiffusersTokenizer.from_pretrained("nobody/nothing")


def test_speed_has_a_row_for_each_decoder_steps_and_size(ssdd):
    decoders = [ComparedDecoder("teacher", "ssdd", str(ssdd), (2, 1)), ComparedDecoder("ff", "feed_forward", str(ssdd))]
    rows = measure_decoders(decoders, [16, 32], 2, 2, torch.device("cpu"), progress=False)
    assert [(row["pixels"], row["model"], row["steps"]) for row in rows] == [
        (side, *pair) for side in (16, 32) for pair in (("teacher", 2), ("teacher", 1), ("ff", 1))
    ]
    assert len({row["parameters"] for row in rows}) == 1
    assert all(row["images_per_second"] == pytest.approx(2 / row["seconds"]) for row in rows)
    assert measure_decoders(decoders[:1], [18], 1, 1, torch.device("cpu"), progress=False) == []  # not divisible by 4


def test_noise_on_the_latents_is_in_deviations_of_their_channels(ssdd, measurement, images):
    decoder = ComparedDecoder("mine", "ssdd", str(ssdd))
    rows = evaluate_robustness(decoder, (0.0, 0.3), measurement)
    assert [(row.decoder, row.level, row.evaluated.steps) for row in rows] == [("mine", 0.0, 1), ("mine", 0.3, 1)]
    clean = evaluate_decoder(decoder, measurement)[0].report["metrics"]
    assert rows[0].evaluated.report["metrics"] == clean
    assert "latent noise 0.3" in rows[1].evaluated.report["protocol"]["model"]
    # by hand
    model, x = decoder.open(), torch.stack([images[number]["image"] for number in range(len(images))])
    with torch.no_grad():
        z = model.encode(x).mode()
        draws = sample_noise(sample_seeds(PARAMETERS.noise_seed, "latent noise", 0, range(len(x))), z.shape[1:])
        z = z + 0.3 * z.transpose(0, 1).flatten(1).std(1).view(1, -1, 1, 1) * draws
        y = model.decode(z, 1, image_noise(PARAMETERS.noise_seed, range(len(x)), x.shape[1:], x.device))
    expected = psnr(to_uint8((x + 1) / 2), to_uint8((y + 1) / 2)).mean().item()
    assert rows[1].evaluated.report["metrics"]["psnr"] == pytest.approx(expected, abs=1e-2)
