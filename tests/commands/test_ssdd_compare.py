"""`ssdd compare`: paired differences of two evaluations."""

import numpy as np
import pandas
import pytest


@pytest.fixture
def tables(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.normal(25, 5, 60)
    rows = []
    for model, steps, gain in (("teacher", 8, 0.0), ("teacher", 1, -1.0), ("student", 1, 0.5)):
        values = {"image": np.arange(60), "path": [f"{i}.png" for i in range(60)], "psnr": base + gain}
        values["mse"] = rng.normal(1, 0.1, 60)
        rows.append(pandas.DataFrame({"model": model, "steps": steps, **values}))
    pandas.concat(rows[:2]).to_parquet(tmp_path / "teacher.parquet")
    rows[2].to_parquet(tmp_path / "student.parquet")
    rows[2].to_csv(tmp_path / "student.csv", index=False)
    return tmp_path


@pytest.mark.parametrize("b", ["student.parquet", "student.csv"])
def test_compare_shows_paired_differences(one_line, ssdd, tables, b):
    arguments = ["compare", tables / "teacher.parquet", tables / b]
    status, _, error = ssdd(*arguments)
    assert status == 1
    assert "several evaluations (teacher 8 steps; teacher 1 step): choose with --model-a or --steps-a" in one_line(
        error
    )
    status, said, _ = ssdd(*arguments, "--steps-a", 1)
    assert status == 0
    lines = {line.split()[0]: line for line in said.splitlines() if line.split()}
    assert list(lines)[2:] == ["psnr", "mse"]  # after the title and the headings
    assert "+1.5" in lines["psnr"]
    assert "+1.5 .. +1.5" in lines["psnr"]
    assert "higher" in lines["psnr"]
    assert "not distinguishable" in lines["mse"]
    assert "A: teacher 1 step, B: student 1 step, on 60 images" in said
    said = ssdd(*arguments, "--steps-a", 8, "--metrics", "psnr")[1]
    assert "+0.5" in said
    assert "mse" not in said


def test_compare_refuses_what_does_not_pair(one_line, ssdd, tables):
    teacher, student = tables / "teacher.parquet", tables / "student.parquet"
    other = pandas.read_parquet(student)
    other["path"] = other["path"].to_list()[::-1]
    other.to_parquet(tables / "other.parquet")
    for arguments, said in (
        ([student, tables / "other.parquet"], "image 0 is '0.png' in A and '59.png' in B"),
        ([teacher, student, "--steps-a", 4], "expected --steps-a to be one of [1, 8]"),
        ([teacher, student, "--steps-a", 8, "--model-b", "x"], "expected --model-b to be one of ['student']"),
        ([teacher, student, "--steps-a", 8, "--metrics", "pnsr"], "expected the columns ['pnsr']"),
    ):
        status, _, error = ssdd("compare", *arguments)
        assert status == 1
        assert said in one_line(error)
