"""The benchmark on the finished project."""

import json

SPEED = {
    "benchmark.look_at_machine",
    "benchmark.benchmark_decoding",
    "benchmark.benchmark_training",
    "benchmark.draw_speed",
    "benchmark.write_tables",
}
SCALE = {"benchmark.benchmark_scale", "benchmark.benchmark_loader", "benchmark.write_scale"}
EXPORTED = {"benchmark.benchmark_exported", "benchmark.write_exported"}
QUALITY = {"benchmark.benchmark_quality", "benchmark.draw_quality"}


def test_speed_alone_needs_no_model_and_all_of_it_uses_the_finished_ones(copied):
    assert copied.ran("--pipeline=benchmark", "--tags=speed") == SPEED
    assert copied.ran("--pipeline=benchmark", "--tags=scale") == SCALE
    assert copied.ran("--pipeline=benchmark", "--tags=exported") == EXPORTED
    assert copied.ran("--pipeline=benchmark") == QUALITY
    assert copied.stale("--pipeline=benchmark") == {}
    folder = copied.run_folder / "benchmark"
    assert "| debug | 32 |" in (folder / "performance.md").read_text()
    exported = (folder / "exported.md").read_text()
    assert "| debug | 32 | OpenVINO | bfloat16 |" in exported
    assert "* Fastest for debug at 32 px: " in exported
    table = (folder / "scale.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:3]] for line in table if line.startswith("| ")][2:]
    assert cells == [["loading", "1"], *([what, str(n)] for n in (1, 2) for what in ("steps", "loading and steps"))]
    drawn = json.loads((folder / "quality.json").read_text())["data"]
    assert {trace["name"]: trace["text"] for trace in drawn} == {
        "teacher": ["2 steps", "1 step"],
        "student": ["1 step"],
    }
