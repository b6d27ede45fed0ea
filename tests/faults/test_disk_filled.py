"""A disk that fills while a checkpoint, a shard, a table, a figure or a stamp is written.

Of each the earlier version is there: it stays, the error is clear, and with room the same command goes on. (See also
tests/pipelines/test_full_disk.py, where the disk of a finetuning is too small.)
"""

import subprocess

import pytest

MIB = 2**20
OTHER = "teacher_targets.teacher_steps=1,evaluate.limit=8,distill.optim.lr=0.02"
# in the order of the run: what is being written when the last byte goes, and what must be there still
WRITTEN = {
    "reference_statistics": "evaluation/reference_statistics.safetensors",
    "targets-unnamed": "training/teacher_targets",
    "teacher_reconstructions": "evaluation/teacher_reconstructions.safetensors",
    "state-unnamed": "models/distilled.safetensors",
    "last.safetensors": "models/distilled.safetensors",
    "distilled_best.safetensors.lineage": "models/distilled_best.safetensors.lineage.json",
    "student_per_image.parquet": "evaluation/student_per_image.parquet",
    "student_metrics.json.lineage": "evaluation/student_metrics.json.lineage.json",
    "curves.json": "report/curves.json",
    "metrics.csv": "evaluation/metrics.csv",
    "extremes.png": "report/extremes.png",
    "report.html": "report/report.html",
    "report.html.lineage": "report/report.html.lineage.json",
}


@pytest.fixture
def small_disk(runs):
    """A run on a disk of its own, finished with other settings."""
    folder = runs.folder("filled")
    folder.mkdir()
    size = f"size={400 * MIB}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted: {mounted.stderr.decode().strip()}")
    try:
        runs.prepare("filled")
        code, said = runs.run("filled", settings=f"{OTHER},runtime.progress=false")
        assert code == 0, said
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def contents(folder):
    """Bytes of everything but the states."""
    files = [path for path in folder.rglob("*") if path.is_file() and folder / "state" not in path.parents]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def below(files, part):
    return {name: content for name, content in files.items() if name == part or name.startswith(f"{part}/")}


def test_a_disk_that_fills_at_any_write(runs, small_disk, undisturbed, tally):
    ballast = small_disk / "ballast"
    for written, kept in WRITTEN.items():
        before = contents(small_disk)
        assert below(before, kept)
        event = {"event": "open", "name": written, "fill": str(ballast)}
        code, said = runs.run("filled", fault=event)
        assert ballast.exists(), f"{written} was never written: {said}"
        ballast.unlink()
        check_refusal(code, said, written)
        after = contents(small_disk)
        assert below(after, kept) == below(before, kept), written
        assert {name for name in before.keys() - after.keys() if "/targets-" not in name} == set(), written
        assert runs.leftovers("filled") == [], written
        tally("full disks", tried=1, survived=1)
    code, said = runs.run("filled")
    assert code == 0, said
    assert runs.contents("filled") == undisturbed


def check_refusal(code, said, written):
    assert code == 1, said
    assert "Traceback" not in said, f"{written}: {said}"
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, said
    assert "No space left on device" in errors[0], f"{written}: {errors}"
    assert "make room, and the same command goes on" in errors[0], f"{written}: {errors}"
