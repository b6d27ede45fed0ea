"""The quickstart end to end, small: what it leaves, and what a second run does."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

Kedro = Callable[..., subprocess.CompletedProcess[str]]

ARTEFACTS = [
    "images/index.parquet",
    "images/rejected.csv",
    "images/samples.png",
    "models/encoder.safetensors",
    "models/encoder_best.safetensors",
    "models/pretrained.safetensors",
    "models/pretrained_best.safetensors",
    "models/finetuned.safetensors",
    "models/finetuned_best.safetensors",
    "models/distilled.safetensors",
    "models/distilled_best.safetensors",
    "models/latent_stats.json",
    "training/encoder.csv",
    "training/pretrain.csv",
    "training/finetune.csv",
    "training/distill.csv",
    "training/teacher_targets",
    "evaluation/teacher_reconstructions.safetensors",
    "evaluation/student_reconstructions.safetensors",
    "evaluation/teacher_per_image.parquet",
    "evaluation/student_per_image.parquet",
    "evaluation/teacher_metrics.json",
    "evaluation/student_metrics.json",
    "evaluation/metrics.csv",
    "report/reconstructions.png",
    "report/extremes.png",
    "report/curves.json",
    "report/report.html",
]
TEACHER = {"distill.cache_teacher_targets", "evaluate.evaluate_teacher"}
AFTER_DISTILL = {
    "distill.distill_teacher",
    "evaluate.evaluate_student",
    "evaluate.collect_metrics",
    "report.draw_reconstructions",
    "report.draw_curves",
    "report.write_report",
}
AFTER_EVALUATION = AFTER_DISTILL - {"distill.distill_teacher", "report.draw_curves"} | {"evaluate.evaluate_teacher"}


def to_run(said: str) -> set[str]:
    """The nodes that a plan does not call up to date."""
    decided = re.findall(r"^(\S+\.\S+)\s+(up to date|not needed|run|resume|continue|if changed)", said, re.MULTILINE)
    assert decided, said
    return {node for node, decision in decided if decision not in ("up to date", "not needed")}


def test_every_artefact_is_there_with_its_lineage(finished: subprocess.CompletedProcess[str], project: Path) -> None:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    run = project / "data" / "quickstart"
    for name in ARTEFACTS:
        assert (run / name).exists(), name
        stamp = json.loads((run / f"{name}.lineage.json").read_text())
        assert re.fullmatch(r"[0-9a-f]{64}", stamp["sha256"]), name


def test_first_run_is_free_of_noise(finished: subprocess.CompletedProcess[str]) -> None:
    said = finished.stdout + finished.stderr
    assert "Warning" not in said
    assert "WARNING" not in said
    assert "Traceback" not in said


def test_metrics_table_has_teacher_and_student(finished: subprocess.CompletedProcess[str], project: Path) -> None:
    table = pandas.read_csv(project / "data/quickstart/evaluation/metrics.csv")
    assert list(zip(table["model"], table["steps"], strict=True)) == [("teacher", 2), ("teacher", 1), ("student", 1)]
    assert (table["psnr_low"] <= table["psnr"]).all()
    assert (table["psnr"] <= table["psnr_high"]).all()
    protocol = json.loads(table["protocol"].iloc[0])
    assert (protocol["steps"], protocol["images"], protocol["resize"]) == (2, 12, "bilinear, Pillow")


def test_report_stands_alone(finished: subprocess.CompletedProcess[str], project: Path) -> None:
    page = (project / "data/quickstart/report/report.html").read_text()
    assert page.count("data:image/png;base64,") >= 2
    assert not re.findall(r'<(?:img|script|link)[^>]+(?:src|href)="(?!data:)[^"]*"', page)


def test_second_run_does_nothing(finished: subprocess.CompletedProcess[str], kedro: Kedro) -> None:
    again = kedro("run", "--pipeline=distill", "--env=tiny")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "nothing to do" in again.stdout + again.stderr


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("distill.optim.lr=0.5", AFTER_DISTILL),
        ("distill.seed=3", AFTER_DISTILL | {"distill.cache_teacher_targets"}),
        (
            "finetune.optim.lr=0.5",
            AFTER_DISTILL | TEACHER | {"finetune.finetune"},
        ),
        (
            "evaluate.shown=2",
            AFTER_EVALUATION,
        ),
        ("z_stats.batch_size=7", {"z_stats.compute_latent_statistics", "report.write_report"}),
        ("runtime.workers=1", set()),
        ("runtime.threads=2", set()),
    ],
)
def test_plan_reruns_what_a_parameter_reaches(
    finished: subprocess.CompletedProcess[str], kedro: Kedro, parameters: str, expected: set[str]
) -> None:
    said = kedro("run", "--pipeline=distill", "--env=tiny", "--plan", f"--params={parameters}").stdout
    assert to_run(said) == expected
    if expected:
        assert parameters.split("=")[0] in said


def test_a_stage_starts_from_a_given_teacher(
    finished: subprocess.CompletedProcess[str], kedro: Kedro, project: Path
) -> None:
    said = kedro(
        "run", "--pipeline=distill", "--env=tiny", "--params=run_name=other,teacher=quickstart@best,distill.epochs=1"
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert not (project / "data/other/models/encoder.safetensors").exists()
    stamp = (project / "data/other/models/distilled.safetensors.lineage.json").read_text()
    assert "teacher=quickstart@best" in stamp


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--params=distil.lr=1"], ["distil", "distill"]),
        (["--params=distill.optim.lrr=1"], ["lrr", "lr"]),
        (["--params=distill.optim.lr=fast"], ["distill.optim.lr", "number"]),
        (["--params=run_name=../../x"], ["run_name"]),
        (["--params=data.kind=folder,data.root=/nowhere/at/all"], ["/nowhere/at/all"]),
        (["--params=teacher=nobody"], ["teacher", "nobody"]),
        (["--env=tinny"], ["tinny", "tiny"]),
        (["--pipeline=distil"], ["distil", "distill"]),
    ],
)
def test_mistakes_are_one_clear_line(kedro: Kedro, arguments: list[str], words: list[str]) -> None:
    given = " ".join(arguments)
    defaults = [] if "--pipeline" in given else ["--pipeline=distill"]
    defaults += [] if "--env" in given else ["--env=tiny"]
    failed = kedro("run", *defaults, *arguments)
    said = failed.stdout + failed.stderr
    assert failed.returncode != 0
    assert "Traceback" not in said
    for word in words:
        assert word in said, said


def test_two_processes_judge_as_one(finished: subprocess.CompletedProcess[str], kedro: Kedro, project: Path) -> None:
    given = "run_name=two,teacher=quickstart,student=quickstart,runtime.processes=2"
    said = kedro("run", "--pipeline=evaluate", "--env=tiny", f"--params={given}")
    assert said.returncode == 0, said.stdout + said.stderr
    for name in ("teacher", "student"):
        tables = [
            pandas.read_parquet(project / f"data/{run}/evaluation/{name}_per_image.parquet")
            for run in ("quickstart", "two")
        ]
        pandas.testing.assert_frame_equal(*tables, rtol=1e-6)
