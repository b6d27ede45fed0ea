"""Exported files: for any size, equal to the model, and usable without this project."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ssdd import SSDD, AutoencoderSSDD
from ssdd.commands.group import cli
from ssdd.integrations import exported_graphs
from ssdd.integrations.export_forms import DecoderForm, EncoderForm
from ssdd_decoder import Decoder, decoder_config
from ssdd_encoder import Encoder

# Without this project: the file, its inputs, its outputs.
RUN = """
import sys
sys.modules["ssdd"] = sys.modules["ssdd_decoder"] = sys.modules["torch"] = None
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
for name in sys.argv[2:]:
    made = session.run(None, dict(numpy.load(name)))
    numpy.savez(name.replace("in", "out"), *made)
print(session.get_modelmeta().custom_metadata_map["ssdd"])
"""


def randomized(network):
    """Every weight matters, as none is zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(noise * 0.1 if parameter.ndim == 1 else noise / (noise.numel() / noise.shape[0]) ** 0.5)
    return network.eval()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomized(SSDD("debug", "debug"))


@pytest.mark.parametrize("config", ["debug", "quickstart", decoder_config("debug", downscale=1)])
@pytest.mark.parametrize(("h", "w"), [(3, 5), (9, 17), (24, 2)])
def test_the_form_of_a_decoder_is_the_decoder(config, h, w):
    decoder = randomized(Decoder(config)).double()
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, decoder.config.latent_channels, h, w, generator=generator).double()
    noise = torch.randn(2, 3, *(side * decoder.config.downscale for side in (h, w)), generator=generator).double()
    with torch.no_grad():
        form = DecoderForm(decoder, steps=2)(z, noise)
    torch.testing.assert_close(form, decoder.decode(z, 2, noise), atol=1e-5, rtol=0)  # the time is in float32


@pytest.mark.parametrize("config", ["debug", "quickstart", "demo"])
@pytest.mark.parametrize(("h", "w"), [(3, 8), (9, 20), (17, 33)])
def test_the_form_of_an_encoder_is_the_encoder(config, h, w):
    encoder = randomized(Encoder(config))
    x = torch.rand(2, 3, *(side * encoder.config.downscale for side in (h, w))) * 2 - 1
    with torch.no_grad():
        posterior, (mean, logvar) = encoder(x), EncoderForm(encoder)(x)
    torch.testing.assert_close(mean, posterior.mean, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(logvar, posterior.logvar, atol=1e-4, rtol=1e-5)


@pytest.mark.slow
def test_the_onnx_file_of_a_decoder_runs_without_this_project_at_any_size(model, tmp_path):
    checkpoint = model.save_pretrained(tmp_path / "model.safetensors")
    done = CliRunner().invoke(cli, ["export", str(checkpoint), "--to", "onnx", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["README.md", "decoder.onnx"]
    expected, names = {}, []
    for number, (batch, h, w) in enumerate([(1, 1, 1), (2, 7, 12), (1, 33, 8), (4, 16, 16)]):
        generator = torch.Generator().manual_seed(number)
        z = torch.randn(batch, 4, h, w, generator=generator)
        noise = torch.randn(batch, 3, 8 * h, 8 * w, generator=generator)
        names.append(str(tmp_path / f"in{number}.npz"))
        np.savez(names[-1], z=z.numpy(), noise=noise.numpy())
        expected[number] = model.decode(z, noise=noise).numpy()
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "out/decoder.onnx"), *names],
        capture_output=True,
        text=True,
        check=True,
    )
    for number, image in expected.items():
        made = np.load(tmp_path / f"out{number}.npz")["arr_0"]
        np.testing.assert_allclose(made, image, atol=1e-4, rtol=0)
    record = json.loads(done.stdout)
    assert (record["part"], record["steps"], record["noise_seed"]) == ("decoder", 1, None)
    assert record["config"]["downscale"] == 8
    assert record["model"]["file"] == "model.safetensors"
    assert "# SSDD, f8c4: model" in (tmp_path / "out/README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "part"), [("torch-export", "decoder"), ("openvino", "encoder"), ("onnx", "encoder")]
)
def test_every_format_agrees_with_the_model(model, tmp_path, target, part):
    file, difference = exported_graphs.export_part(
        model, target, part, tmp_path, seed=5, record={"model": {"file": "x"}}
    )
    assert file.is_file()
    assert difference < 1e-4
    suffixes = {"torch-export": {".pt2"}, "openvino": {".xml", ".bin"}, "onnx": {".onnx"}}
    assert {made.suffix for made in tmp_path.iterdir()} == suffixes[target]
    if target == "torch-export":
        held = {"ssdd.json": ""}
        program = torch.export.load(file, extra_files=held)
        assert json.loads(held["ssdd.json"])["noise_seed"] == 5
        z = torch.randn(1, 4, 5, 40)
        image = program.module()(z)
        assert image.shape == (1, 3, 40, 320)
        assert torch.equal(program.module()(z), image)  # the noise is in the file
    if target == "openvino":
        assert "rt_info" in file.read_text()
        assert "&quot;part&quot;" in file.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tiny", "dc"])
def test_encoders_of_diffusers_are_exported_too(make_autoencoder, tmp_path, kind):
    make_autoencoder(kind).save_pretrained(tmp_path / "vae")
    model = SSDD("diffusers", "debug", encoder_checkpoint=tmp_path / "vae").eval()
    assert exported_graphs.export_part(model, "onnx", "encoder", tmp_path / "out")[1] < 1e-4


def test_a_network_of_one_size_is_not_exported(make_autoencoder, tmp_path):
    make_autoencoder("rae").save_pretrained(tmp_path / "vae")
    model = SSDD("diffusers", "debug", encoder_checkpoint=tmp_path / "vae").eval()
    with pytest.raises(ValueError, match="expected an encoder for any size, got AutoencoderRAE"):
        exported_graphs.export_part(model, "onnx", "encoder", tmp_path / "out")


def test_a_file_that_differs_is_not_kept(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exported_graphs, "_traced", lambda *_: None)
    monkeypatch.setitem(exported_graphs.WRITERS, "onnx", lambda program, graph, file, content: file.write_text(content))
    monkeypatch.setitem(
        exported_graphs.RUNNERS, "onnx", lambda file: lambda z, noise: (model.decode(z, noise=noise) + 2e-4,)
    )
    with pytest.raises(ValueError, match=r"the exported decoder differs by 0\.0002 from the model: expected 0\.0001"):
        exported_graphs.export_part(model, "onnx", "decoder", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_runtime_names_its_extra(model, tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "openvino" else found(name, *a))
    checkpoint = model.save_pretrained(tmp_path / "model.safetensors")
    done = CliRunner().invoke(cli, ["export", str(checkpoint), "--to", "openvino", "-o", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "export to openvino needs openvino: install the extra ssdd[openvino]" in done.output


def test_export_to_diffusers_is_an_autoencoder_with_its_card(tmp_path):
    done = CliRunner().invoke(cli, ["export", "demo", "--to", "diffusers", "-o", str(tmp_path / "vae"), "--steps", "2"])
    assert done.exit_code == 0, done.output
    vae = AutoencoderSSDD.from_pretrained(tmp_path / "vae")
    assert vae.config.num_inference_steps == 2
    assert vae.config.scaling_factor == pytest.approx(1 / 1.386278, rel=1e-5)
    assert (tmp_path / "vae/README.md").read_text().startswith("---\n")
