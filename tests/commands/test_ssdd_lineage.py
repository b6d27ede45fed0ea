"""What `ssdd lineage` and `ssdd info` tell of where a file comes from."""

import json


def stamped(file, inputs):
    """Gives a file the stamp of a run, as the file is now."""
    from ssdd.files import sha256_file
    from ssdd.lineage.stamps import Identity, Stamp, write_stamp

    hashes = {name: sha256_file(file.parent / where) for name, where in inputs.items()}
    identity = Identity(function="m:f", code={}, parameters={}, packages={}, catalog={}, inputs=hashes)
    about = {"files": inputs, "run": "first", "commit": "c0ffee"}
    sha256 = sha256_file(file)
    write_stamp(file, Stamp(dataset=file.stem, node="n", sha256=sha256, identity=identity, extends={}, about=about))


def test_lineage_tells_each_ancestor(ssdd, tmp_path):
    names = ("report/c.txt", "models/a.txt", "models/b.txt")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    stamped(tmp_path / "models/a.txt", {})
    stamped(tmp_path / "models/b.txt", {"a": "a.txt"})
    stamped(tmp_path / "report/c.txt", {"a": "../models/a.txt", "b": "../models/b.txt"})
    (tmp_path / "models/a.txt").write_text("changed")
    for name in ("c.txt", "c.txt.lineage.json"):
        status, said, _ = ssdd("lineage", tmp_path / "report" / name, "--json")
        assert status == 0
        found = json.loads(said)
        assert list(found) == [str(tmp_path / name) for name in names]  # once, though two were made of a.txt
        assert [stamp["intact"] for stamp in found.values()] == [True, False, True]
    status, said, _ = ssdd("lineage", tmp_path / "report/c.txt")
    assert status == 0
    assert "c.txt from n" in said
    assert said.count("a: a.txt (now other content) from n") == 2


def test_info_tells_which_run_made_a_file(ssdd, tmp_path, checkpoint):
    (tmp_path / "x.safetensors").write_bytes(checkpoint.read_bytes())
    stamped(tmp_path / "x.safetensors", {})
    said = ssdd("info", tmp_path / "x.safetensors")[1]
    assert {"first", "c0ffee", "m:f"} <= set(said.split())
    stamp = tmp_path / "x.safetensors.lineage.json"
    stamp.write_text(stamp.read_text()[:-9])
    assert "its stamp is damaged" in ssdd("info", tmp_path / "x.safetensors")[1]
