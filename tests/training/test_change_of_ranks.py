"""A state survives a change of the number of ranks: the run goes on with the same images and draws, within rounding."""

import pytest

from ssdd.training.history import read_rows


@pytest.fixture(scope="module")
def undisturbed(run_toy, options, tmp_path_factory):
    """The rows of a whole run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    codes, output = run_toy(folder, options())
    assert codes == [0], output
    return read_rows(folder / "history.csv")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (3, 2)])
def test_a_killed_run_goes_on_with_another_number_of_ranks(run_toy, options, undisturbed, tmp_path, first, then):
    runtimes = [{"processes": first}, {"processes": then}]
    codes, output = run_toy(tmp_path, options(runtime=runtimes[0], kill_all_at=23), options(runtime=runtimes[1]))
    assert codes[0] != 0, output
    assert codes[1] == 0, output
    assert "goes on after step 21 of 40" in output or first == 1 or then == 1  # only workers have a log
    rows = read_rows(tmp_path / "history.csv")
    assert [(row["step"], row["split"]) for row in rows] == [(row["step"], row["split"]) for row in undisturbed]
    for row, whole in zip(rows, undisturbed, strict=True):
        for name in ("loss", "gradient_norm", "error"):
            assert row.get(name) == pytest.approx(whole.get(name), rel=1e-4)


@pytest.mark.slow
def test_there_and_back_again_the_steps_before_are_untouched(run_toy, options, tmp_path):
    """The history up to the change is that of two ranks, bit for bit."""
    two, one = options(runtime={"processes": 2}), options()
    codes, output = run_toy(tmp_path / "two", two)
    assert codes == [0], output
    kill = options(runtime={"processes": 2}, kill_all_at=23)
    codes, output = run_toy(tmp_path / "changed", kill, one)
    assert codes[1] == 0, output
    rows = [read_rows(tmp_path / name / "history.csv") for name in ("two", "changed")]
    before = [[row for row in table if row["step"] <= 20] for table in rows]
    assert before[0] == before[1]
    assert len(before[0]) == 5
