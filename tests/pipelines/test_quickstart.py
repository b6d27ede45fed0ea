"""A small quickstart from end to end: the files that it leaves, and the nodes that later runs repeat."""

import json
import re
import subprocess
import sys

import pandas
import pytest

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
    "evaluation/photographs.safetensors",
    "evaluation/photographs.csv",
    "evaluation/metrics.csv",
    "report/reconstructions.png",
    "report/photographs.png",
    "report/extremes.png",
    "report/curves.json",
    "report/report.html",
]
TEACHER = {"distill.cache_teacher_targets", "evaluate.evaluate_teacher", "evaluate.evaluate_references"}
AFTER_DISTILL = {
    "distill.distill_teacher",
    "evaluate.evaluate_student",
    "evaluate.collect_metrics",
    "evaluate.decode_photographs",
    "report.draw_reconstructions",
    "report.draw_photographs",
    "report.draw_curves",
    "report.write_report",
}
AFTER_EVALUATION = AFTER_DISTILL - {"distill.distill_teacher", "report.draw_curves"}
AFTER_EVALUATION |= {"evaluate.evaluate_teacher", "evaluate.evaluate_references"}


def test_every_artefact_is_there_with_its_lineage(finished, project):
    assert finished.returncode == 0, finished.stdout
    for name in ARTEFACTS:
        assert (project.run_folder / name).exists(), name
        stamp = json.loads((project.run_folder / f"{name}.lineage.json").read_text())
        assert re.fullmatch(r"[0-9a-f]{64}", stamp["sha256"]), name


def test_a_run_that_does_nothing_imports_no_library_of_the_nodes(finished, project):
    program = """
import sys
from kedro.framework.cli import main
heavy = {"torch", "torchvision", "diffusers", "accelerate", "pandas", "pyarrow", "numpy", "matplotlib", "plotly", "PIL"}
try:
    main()
finally:
    print("loaded:", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "--pipeline=distill", "--env=tiny"],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
    )
    assert "nothing to do: run 'quickstart' is up to date" in done.stdout + done.stderr
    assert "loaded: []" in done.stdout


def test_first_run_is_free_of_noise_and_tells_the_end_of_each_stage(finished):
    for noise in ("Warning", "WARNING", "ERROR", "Traceback"):
        assert noise not in finished.stdout
    bars = re.findall(r"^\d\d:\d\d:\d\d ([a-z ]+): (?:step )?(?:\d+)/.* done in ", finished.stdout, re.MULTILINE)
    for title in ("evaluating the references", "whole photographs"):  # wherever Kedro's order puts them
        assert bars.count(title) == 1
        bars.remove(title)
    assert bars == [
        "images",
        "reference statistics",
        "training",
        "training the decoder",
        "latent statistics",
        "training the decoder",
        "teacher targets",
        "evaluating the teacher",
        "distilling",
        "evaluating the student",
    ]


def test_metrics_table_has_teacher_and_student(finished, project):
    table = pandas.read_csv(project.run_folder / "evaluation/metrics.csv")
    references = ("resize by 8", "resize to as many numbers", "PCA of 8 x 8 patches, 16 numbers")
    rows = [*((name, 0) for name in references), ("teacher", 2), ("teacher", 1), ("student", 1)]
    assert list(zip(table["model"], table["steps"], strict=True)) == rows
    assert (table["psnr_low"] <= table["psnr"]).all()
    assert (table["psnr"] <= table["psnr_high"]).all()
    assert table["psnr"].nunique() == 6  # each stage has moved the weights
    protocol = json.loads(table["protocol"].iloc[3])
    assert (protocol["steps"], protocol["images"], protocol["resize"]) == (2, 12, "bilinear, Pillow")


def test_report_stands_alone(finished, project):
    page = (project.run_folder / "report/report.html").read_text()
    assert page.count("data:image/png;base64,") >= 2
    assert not re.findall(r'<(?:img|script|link)[^>]+(?:src|href)="(?!data:)[^"]*"', page)


def test_second_run_does_nothing(finished, project):
    assert "nothing to do" in project.run("--pipeline=distill").stdout


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("distill.optim.lr=0.5", AFTER_DISTILL),
        ("distill.seed=3", AFTER_DISTILL | {"distill.cache_teacher_targets"}),
        ("finetune.optim.lr=0.5", AFTER_DISTILL | TEACHER | {"finetune.finetune"}),
        ("evaluate.shown=2", AFTER_EVALUATION),
        ("z_stats.batch_size=7", {"z_stats.compute_latent_statistics", "report.write_report"}),
        ("runtime.workers=1", set()),
        ("runtime.threads=2", set()),
        ("runtime.threads=auto", set()),
    ],
)
def test_plan_reruns_what_a_parameter_reaches(finished, project, parameters, expected):
    stale = project.stale("--pipeline=distill", f"--params={parameters}")
    assert stale.keys() == expected
    name, _, value = parameters.partition("=")
    sure = [why for decision, why in stale.values() if decision == "run"]
    assert all(f"{name}: " in why and why.endswith(f"-> {value}") for why in sure)


def test_a_stage_starts_from_a_given_teacher(finished, project):
    project.run("--pipeline=distill", "--params=run_name=other,teacher=quickstart@best,distill.epochs=1")
    models = project.folder / "data/other/models"
    assert not (models / "encoder.safetensors").exists()
    assert "teacher=quickstart@best" in (models / "distilled.safetensors.lineage.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--params=distil.lr=1"], "unknown parameter 'distil'; did you mean 'distill'?"),
        (["--params=distill.optim.lrr=1"], "unknown parameter 'distill.optim.lrr'; did you mean 'distill.optim.lr'?"),
        (["--params=distill.optim.lr=fast"], "parameter 'distill.optim.lr': input should be a valid number"),
        (["--params=run_name=../../x"], "expected a run_name of letters, digits"),
        (["--params=model.decoder=MM"], "there is no decoder 'MM'; did you mean 'M'?"),
        (["--plan", "--params=evaluate.metrics=psrn"], "there is no metric 'psrn'; did you mean 'psnr'?"),
        (["--params=teacher=quickstrat"], "no run is called 'quickstrat'; did you mean 'quickstart'?"),
        (["--params=data.kind=folder"], "parameter 'data': data.kind=folder needs data.root: the folder where"),
        (
            ["--params=data.kind=folder,data.root=/nowhere/at/all"],
            "expected 'images' at /nowhere/at/all, found nothing",
        ),
        (["--params=data.kind=folder,data.root=README.md"], "Not a directory"),
        (["--params=data.kind=folder,data.root=conf"], "expected images in"),
        (["--env=tinny"], "unknown env 'tinny'; did you mean 'tiny'?"),
        (["--pipeline=distil"], "unknown pipeline 'distil'; did you mean 'distill'?"),
        (["--to-nodes=finetune"], "unknown node 'finetune'; did you mean 'finetune.finetune'?"),
    ],
)
def test_mistakes_are_one_clear_line(finished, project, arguments, said):
    defaults = [item for item in ("--pipeline=distill", "--env=tiny") if item[:5] != arguments[0][:5]]
    failed = project.kedro("run", *defaults, *arguments)
    assert failed.returncode not in (0, None)
    assert "Traceback" not in failed.stdout
    (error,) = [line for line in failed.stdout.splitlines() if line.startswith("Error: ")]
    assert said in error
    assert failed.stdout.count(said) == 1


def test_two_processes_evaluate_as_one(finished, project):
    project.run(
        "--pipeline=evaluate", "--params=run_name=two,teacher=quickstart,student=quickstart,runtime.processes=2"
    )
    for name in ("teacher", "student"):
        tables = [
            pandas.read_parquet(project.folder / f"data/{run}/evaluation/{name}_per_image.parquet")
            for run in ("quickstart", "two")
        ]
        pandas.testing.assert_frame_equal(*tables, check_exact=True)
    tables = [
        pandas.read_csv(project.folder / f"data/{run}/evaluation/metrics.csv", float_precision="round_trip")
        for run in ("quickstart", "two")
    ]
    distances = ["frechet_random_conv"]  # float64 sums in another order
    pandas.testing.assert_frame_equal(*(table.drop(columns=distances) for table in tables), check_exact=True)
    pandas.testing.assert_frame_equal(*(table[distances] for table in tables), rtol=1e-9)
