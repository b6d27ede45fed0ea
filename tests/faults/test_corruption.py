"""Three hundred single mutations of a run's files: each is noticed, and redone or refused; none is used."""

import json
from pathlib import Path

MUTATIONS = 300
DAMAGED = (  # one of each kind, redone for real
    "models/distilled.safetensors",
    "training/teacher_targets/targets-*.safetensors",
    "images/index.parquet",
    "training/distill.csv",
    "evaluation/student_metrics.json",
    "models/distilled_best.safetensors.lineage.json",
    "state/distill.distill_teacher/state-*24-*.safetensors",
    "report/extremes.png",
)

INPUTS = {  # what a single node would take
    "evaluate.evaluate_student": "images/index.parquet",
    "evaluate.evaluate_teacher": "models/finetuned.safetensors",
    "evaluate.collect_metrics": "evaluation/student_metrics.json",
    "report.draw_curves": "training/pretrain.csv",
}


def test_three_hundred_mutations_are_noticed(runs, undisturbed, chance, tally):
    script = str(Path(__file__).with_name("corrupt.py"))
    attempt = runs.start_command(script, "undisturbed", str(chance.random()), str(MUTATIONS))
    assert attempt.wait() == 0, attempt.said
    told = json.loads(attempt.said.splitlines()[-1])
    missed = told["missed"]
    tally("mutations", tried=MUTATIONS, survived=MUTATIONS - len(missed), **told["tried"])
    assert missed == []
    assert sum(told["tried"].values()) == MUTATIONS
    code, said = runs.run("undisturbed")
    assert code == 0
    assert "nothing to do" in said


def damage(file, chance):
    """Flips a bit; the file may be a link."""
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.unlink()
    file.write_bytes(content)


def test_what_is_damaged_is_made_again(runs, undisturbed, chance, tally):
    folder = runs.prepare("damaged")
    assert runs.run("damaged")[0] == 0
    for pattern in DAMAGED:
        (file, *_) = sorted(folder.glob(pattern))
        damage(file, chance)
        if "state" in pattern:  # asked only when the training goes on
            (folder / "models/distilled.safetensors").unlink()
        code, said = runs.run("damaged")
        assert code == 0, said
        assert runs.contents("damaged") == undisturbed, pattern
        tally("damaged files made again", tried=1, survived=1)


def test_altered_inputs_of_a_single_node_are_refused(runs, undisturbed, chance, tally):
    """Where nothing in the run would make them again."""
    folder = runs.prepare("altered")
    assert runs.run("altered")[0] == 0
    for node, name in INPUTS.items():
        file = folder / name
        whole = file.read_bytes()
        damage(file, chance)
        before = runs.contents("altered")
        code, said = runs.run("altered", f"--nodes={node}")
        assert code == 1, said
        assert "Traceback" not in said
        assert "was altered since" in said
        assert runs.contents("altered") == before
        file.write_bytes(whole)
        tally("altered inputs refused", tried=1, survived=1)
    assert "nothing to do" in runs.run("altered")[1]
