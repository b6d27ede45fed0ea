"""The stage `latents` in a project: made once, resumed where it was killed, and independent of decoders."""

import json
import shutil

from ssdd.generation.latent_dataset import LatentDataset

NODE = "latents.encode_latents"


def test_latents_are_made_once_and_whatever_the_decoder(copied):
    assert copied.ran("--pipeline=latents") == {NODE}
    folder = copied.run_folder / "latents"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["images"] == {"train": 32, "validation": 12}
    assert manifest["classes"] == ["leaves", "photographs"]
    assert {shard["count"] for shard in manifest["shards"]} == {16, 12}
    dataset = LatentDataset(folder, latent="sample", flip=True)
    assert dataset[0]["z"].shape == (16, 4, 4)
    assert copied.ran("--pipeline=latents") == set()
    assert NODE not in copied.stale("--pipeline=latents", "--params", "pretrain.epochs=2,distill.optim.lr=0.5")
    assert NODE in copied.stale("--pipeline=latents", "--params", "latents.keep=mode")
    # what an interrupted pass has left: two of three shards in the node's folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    state = copied.run_folder / "state" / NODE / "latents"
    shutil.move(folder, state)
    (state / "manifest.json").unlink()
    (state / "latents-00001.safetensors").unlink()
    kept = (state / "latents-00000.safetensors").stat().st_mtime_ns
    assert copied.ran("--pipeline=latents") == {NODE}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (folder / "latents-00000.safetensors").stat().st_mtime_ns == kept


def test_a_training_encoder_takes_no_latent_noise(project):
    done = project.kedro("run", "--env=tiny", "--plan", "--params", "train_encoder.latent_noise=0.1")
    assert done.returncode != 0
    assert "expected latent_noise 0 while the encoder trains" in " ".join(done.stdout.split())
