"""Unknown names of networks and metrics are refused before anything runs; old names of groups still work."""

from types import SimpleNamespace

import pytest

from ssdd.old_parameters import rename_old_parameters
from ssdd.parameters import (
    EvaluateParameters,
    ModelParameters,
    PretrainedNetworks,
    StageParameters,
)
from ssdd.stages.requirements import check_names


def check(**parameters):
    """Checks the names of one node that takes these parameters, and a data set that must not be loaded."""
    loads = {f"params:{name}": value for name, value in parameters.items()}
    check_names([SimpleNamespace(inputs=["images", *loads])], SimpleNamespace(load=loads.__getitem__))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"encoder": "f8c"}, r"'model\.encoder': expected an encoder named .* did you mean 'f8c4'\?"),
        ({"encoder": "sdave"}, r"did you mean 'sdvae'\?"),
        ({"encoder": "f9c4"}, "F a power of two"),
        ({"decoder": "MM"}, r"'model\.decoder': there is no decoder 'MM'; did you mean 'M'\?"),
        ({"decoder": "huge"}, r"there is no decoder 'huge'; known: debug, quickstart, demo, XS, S, B, M, L, XL, H"),
    ],
)
def test_networks(model, said):
    with pytest.raises(ValueError, match=said):
        check(model=ModelParameters(**model))


@pytest.mark.parametrize("model", [{}, {"encoder": "f16c32", "decoder": "XS"}, {"encoder": "sdvae", "decoder": "H"}])
def test_networks_that_exist(model):
    check(model=ModelParameters(**model))


@pytest.mark.parametrize("metrics", ["psrn", ("mse", "psrn")])
def test_metrics(metrics):
    with pytest.raises(ValueError, match=r"'evaluate\.metrics': there is no metric 'psrn'; did you mean 'psnr'\?"):
        check(evaluate=EvaluateParameters(metrics=metrics))
    with pytest.raises(ValueError, match=r"'finetune\.eval_metrics': there is no metric 'psrn'"):
        check(evaluate=EvaluateParameters(), finetune=StageParameters(eval_metrics=metrics))


def test_a_metric_twice_and_the_best_one_of_others():
    with pytest.raises(ValueError, match=r"'evaluate\.metrics': expected .* distinct names"):
        check(evaluate=EvaluateParameters(metrics=("psnr", "psnr")))
    stage = StageParameters(eval_metrics=("psnr", "mse"), best_metric="psnr")
    check(distill=stage)
    with pytest.raises(ValueError, match=r"'distill\.best_metric': 'lpips_vgg' is not among the metrics"):
        check(distill=stage.model_copy(update={"best_metric": "lpips_vgg"}))


def test_the_old_name_of_a_group_is_understood(caplog):
    """conf/base states the new group with empty places; a value under the old name goes above it."""
    empty = {name: {"file": None, "sha256": None} for name in PretrainedNetworks.model_fields}
    given = {"run_name": "a", "pretrained_networks": empty, "judges": {"inception": {"file": "i.pth"}}}
    found = rename_old_parameters(given)
    assert found.keys() == {"run_name", "pretrained_networks"}
    networks = PretrainedNetworks.model_validate(found["pretrained_networks"])
    assert networks.inception.file == "i.pth"
    assert networks == PretrainedNetworks.model_validate({"inception": {"file": "i.pth"}})
    assert "'judges' is now called 'pretrained_networks'" in caplog.text
    assert given["pretrained_networks"] is empty
    assert empty["inception"]["file"] is None
    caplog.clear()
    assert rename_old_parameters(found) == found
    assert not caplog.text


@pytest.mark.parametrize("place", ["command line", "file"])
def test_nodes_get_the_value_under_the_old_name(project, monkeypatch, caplog, place):
    monkeypatch.setattr("ssdd.old_parameters.OLD_NAMES", {"say": "tell"})
    params = {"say": {"title": "goodbye"}}
    if place == "file":
        project.write("conf/base/parameters_old.yml", "say: {title: goodbye}\n")
        params = None
    notes = project.run(params=params)
    assert "tell" in notes
    assert (project.data / "summary.txt").read_text().startswith("goodbye: ")
    assert "'say' is now called 'tell'" in caplog.text
    assert project.run(params={"tell": {"title": "goodbye"}} if params else None) == []
