"""Each change reruns exactly the right stages of the real project, and the plan says why."""

import os
import re
import signal
import time

import numpy
import pandas
import pytest
from PIL import Image

DECODING = {
    "train_encoder.train_encoder",
    "pretrain.pretrain",
    "finetune.finetune",
    "distill.cache_teacher_targets",
    "distill.distill_teacher",
    "evaluate.evaluate_teacher",
    "evaluate.evaluate_student",
    "evaluate.decode_photographs",
}
AFTER_DECODING = {
    "evaluate.evaluate_references",
    "z_stats.compute_latent_statistics",
    "evaluate.collect_metrics",
    "report.draw_curves",
    "report.draw_photographs",
    "report.draw_reconstructions",
    "report.write_report",
}
SAMPLER = "packages/ssdd-decoder/src/ssdd_decoder/sampler.py"
EPOCHS, STEPS = 4, 8


def sources(project):
    return [path for place in ("pipelines", "packages") for path in (project.folder / place).rglob("*.py")]


def test_edited_comments_and_docstrings_rerun_nothing(copied):
    for path in sources(copied):
        path.write_text(f"# edited\n{path.read_text()}\n# edited\n")
    copied.edit(SAMPLER, "Follows the velocity", "Walks along the velocity")
    assert copied.stale() == {}


def test_an_edited_line_in_the_sampler_reruns_what_decodes(copied):
    copied.edit(SAMPLER, "    x = noise\n", "    x = 1 * noise\n")
    stale = copied.stale()
    assert {node for node, (decision, _) in stale.items() if decision == "run"} == DECODING
    assert {node for node, (decision, _) in stale.items() if decision == "if changed"} == AFTER_DECODING
    assert {stale[node][1] for node in DECODING} == {"code of ssdd_decoder.sampler:euler_sample"}
    assert (
        stale["evaluate.collect_metrics"][1]
        == "runs if teacher_metrics, student_metrics, reference_metrics comes out different"
    )


def test_an_edited_page_reruns_the_report_alone(copied):
    copied.edit("pipelines/ssdd/reporting/report.html.jinja", "</body>", "<hr></body>")
    changed = "code of ssdd.reporting.report_page:report.html.jinja"
    assert copied.stale() == {"report.write_report": ("run", changed)}


def test_touched_files_rerun_nothing(copied):
    for path in [*sources(copied), *copied.run_folder.rglob("*"), *(copied.folder / "conf").rglob("*.yml")]:
        os.utime(path)
    assert copied.stale() == {}


def test_one_byte_changed_in_a_checkpoint_remakes_it_alone(copied):
    path = copied.run_folder / "models" / "pretrained.safetensors"
    intact = path.read_bytes()
    path.unlink()
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    stale = copied.stale()
    assert stale["pretrain.pretrain"] == ("resume", "pretrained was modified")
    assert {decision for node, (decision, _) in stale.items() if node != "pretrain.pretrain"} == {"if changed"}
    assert {"train_encoder.train_encoder", "z_stats.compute_latent_statistics"}.isdisjoint(stale)
    assert copied.ran() == {"pretrain.pretrain"}  # what follows is as it was
    assert path.read_bytes() == intact


def test_a_deleted_figure_is_drawn_again_alone(copied):
    path = copied.run_folder / "report" / "extremes.png"
    intact = path.read_bytes()
    path.unlink()
    assert copied.stale() == {
        "report.draw_reconstructions": ("run", "missing extremes_figure"),
        "report.write_report": ("if changed", "runs if reconstruction_figure, extremes_figure comes out different"),
    }
    assert copied.ran() == {"report.draw_reconstructions"}
    assert path.read_bytes() == intact


def test_another_image_reruns_what_sees_the_images(copied, tmp_path):
    pixels = numpy.random.default_rng(0).integers(0, 256, (9, 48, 48, 3), dtype=numpy.uint8)
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number, image in enumerate(pixels[:8]):
        Image.fromarray(image).save(photographs / f"{number}.png")
    given = f"run_name=photographs,encoder_checkpoint=quickstart,data.kind=folder,data.root={photographs}"
    command = ("--pipeline=z_stats", f"--params={given},prepare.held_out=0.5")
    both = {"prepare.prepare_images", "z_stats.compute_latent_statistics"}
    assert copied.ran(*command) == both

    Image.fromarray(pixels[8]).save(photographs / "8.png")
    assert copied.stale(*command) == {
        "prepare.prepare_images": ("run", "input images changed"),
        "z_stats.compute_latent_statistics": ("if changed", "runs if image_index comes out different"),
    }
    assert copied.ran(*command) == both
    index = pandas.read_parquet(copied.folder / "data/photographs/images/index.parquet")
    assert sorted(index["path"]) == [f"{number}.png" for number in range(9)]

    (photographs / "about.txt").write_text("no image")  # looked at, and found to change nothing
    assert copied.ran(*command) == {"prepare.prepare_images"}


@pytest.fixture
def raised(copied):
    """The finished project, its finetuning continued from one epoch to more."""
    more = f"--params=finetune.epochs={EPOCHS}"
    stale = copied.stale(more)
    assert stale["finetune.finetune"] == ("continue", f"finetune.epochs: 1 -> {EPOCHS}")
    assert {"train_encoder.train_encoder", "pretrain.pretrain"}.isdisjoint(stale)
    said = copied.run("--to-nodes=finetune.finetune", more).stdout
    assert f"goes on after step {STEPS} of {STEPS * EPOCHS}" in said
    return copied


def test_a_killed_stage_resumes_and_ends_where_a_continued_one_ends(raised):
    weights = "models/finetuned.safetensors"
    given = f"run_name=killed,checkpoint=quickstart,finetune.epochs={EPOCHS},runtime.save_every=2"
    command = ("--pipeline=finetune", f"--params={given}")
    process = raised.start("run", "--env=tiny", *command)
    state = raised.folder / "data/killed/state/finetune.finetune"
    while not list(state.glob("state-0*.safetensors")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (raised.folder / "data/killed" / weights).exists()

    decision, why = raised.stale(*command)["finetune.finetune"]
    assert (decision, why) == ("resume", "missing finetuned; missing finetuned_best; missing finetune_history")
    said = raised.run(*command).stdout
    assert "resume: finetune.finetune" in said
    assert re.search(rf"goes on after step \d+ of {STEPS * EPOCHS}", said)
    assert (raised.folder / "data/killed" / weights).read_bytes() == (raised.run_folder / weights).read_bytes()
