"""Folders from which no image can be held out: said by `prepare`, which knows it, and not by a later stage."""

import numpy as np
import pytest
from PIL import Image


def fill(root, count, different):
    root.mkdir()
    for number in range(count):
        Image.fromarray(np.full((32, 32, 3), 7 * number * different, np.uint8)).save(root / f"{number}.png")


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "expected at least two different images, since prepare holds one out from training, got one image"),
        (30, "got 30 images, all with the same content"),
    ],
)
def test_no_image_can_be_held_out(runs, tmp_path, tally, count, said):
    fill(tmp_path / "in", count, different=False)
    settings = f"data.kind=folder,data.root={tmp_path / 'in'},runtime.progress=false"
    code, output = runs.run(f"few-{count}", "--to-nodes=prepare.prepare_images", settings=settings)
    assert code == 1
    assert said in " ".join(output.split())
    assert "Traceback" not in output
    assert not (runs.folder(f"few-{count}") / "images/index.parquet").exists()
    tally("too few images", tried=1, survived=1)


def test_two_are_enough_and_none_may_be_held_out(tmp_path):
    from ssdd.data.image_index import check_held_out, index_images, select
    from ssdd.data.image_sets import open_source

    for count, different, held_out in ((2, True, 0.05), (30, False, 0)):
        fill(tmp_path / str(count), count, different)
        index = index_images(open_source("folder", str(tmp_path / str(count))), held_out=held_out, progress=False).index
        check_held_out(index, held_out)
        assert (index["split"] == "validation").sum() == (1 if held_out else 0)
    with pytest.raises(ValueError, match=r"set prepare\.held_out above 0"):
        select(index, "validation")
    with pytest.raises(ValueError, match="add images that are not held out"):
        select(index.assign(split="validation"), "train")
