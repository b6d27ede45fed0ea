"""A state survives a change of the number of ranks: the run goes on with the same images and draws, within rounding."""

import pytest

from ssdd.training.history import read_rows


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_killed_run_goes_on_with_another_number_of_ranks(run_toy, options, tmp_path, first, then):
    codes, output = run_toy(tmp_path / "alone", options())
    assert codes == [0], output
    whole = read_rows(tmp_path / "alone" / "history.csv")
    codes, output = run_toy(tmp_path / "run", options(runtime={"processes": first}, kill_all_at=23))
    assert "SIGKILL" in output or codes == [-9]
    before = read_rows(tmp_path / "run" / "history.csv")
    assert before[-1]["step"] in (15, 20)  # of the state after step 18 or 21
    codes, output = run_toy(tmp_path / "run", options(runtime={"processes": then}))
    assert codes == [0], output
    rows = read_rows(tmp_path / "run" / "history.csv")
    assert rows[: len(before)] == before  # to the bit: what was done is not done again
    assert [(row["step"], row["split"]) for row in rows] == [(row["step"], row["split"]) for row in whole]
    for row, other in zip(rows, whole, strict=True):
        assert row.keys() == other.keys()
        for name in {"loss", "gradient_norm", "error"} & row.keys():
            assert row[name] == pytest.approx(other[name], rel=1e-4)
