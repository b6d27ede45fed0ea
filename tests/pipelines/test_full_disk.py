"""A real stage on a disk that is too small: a clear error, the files before it intact, and it goes on."""

import shutil
import subprocess

import pytest

MIB = 2**20
STATE = 26 * MIB  # what a state of the tiny finetuning takes
CHECKPOINT = 7 * MIB


@pytest.fixture
def small_disk(copied):
    """The finished project without its states, its data folder on a small disk of its own."""
    data, aside = copied.folder / "data", copied.folder / "aside"
    data.rename(aside)
    data.mkdir()
    size = f"size={160 * MIB}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(data)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted: {mounted.stderr.decode().strip()}")
    name = copied.run_folder.name
    try:
        shutil.copytree(aside / name, data / name, ignore=shutil.ignore_patterns("state"))
        yield copied
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)


def leave(disk, room):
    """Makes the disk smaller: this many bytes are left."""
    size = shutil.disk_usage(disk).used + room
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def contents(folder):
    """Every artefact with its stamp: all but the states."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and folder / "state" not in p.parents}


def test_a_full_disk_keeps_what_was_there_and_the_next_run_finishes(small_disk):
    data, folder = small_disk.folder / "data", small_disk.run_folder
    command = ("--pipeline=finetune", "--params=finetune.optim.lr=0.5")
    before = contents(folder)
    for room in (STATE // 2, STATE + CHECKPOINT // 2):
        leave(data, room)
        failed = small_disk.kedro("run", "--env=tiny", *command)
        assert failed.returncode == 1
        (error,) = [line for line in failed.stdout.splitlines() if line.startswith("Error: ")]
        assert "No space left on device" in error
        assert "make room, and the same command goes on" in error
        assert "Traceback" not in failed.stdout
        assert contents(folder) == before
        assert not list(data.rglob("*.partial*"))
    leave(data, 80 * MIB)

    assert small_disk.stale(*command) == {"finetune.finetune": ("resume", "finetune.optim.lr: 0.01 -> 0.5")}
    said = small_disk.run(*command).stdout
    assert "goes on after step 8 of 8" in said
    assert "nan" not in said  # no loss of a step that was not taken
    after = contents(folder)
    changed = {path.name.partition(".")[0] for path in after if after[path] != before.get(path)}
    assert changed == {"finetuned", "finetuned_best", "finetune"}
