"""What is different on macOS and Windows, with the functions of those systems replaced by played ones."""

import errno
import ntpath
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssdd import deadlines, files, hardware, processes
from ssdd.data import examiners
from ssdd.lineage import project_folder, run_lock
from ssdd.progress import peak_memory
from ssdd.runs import check_run_name


def refuse(*arguments, **options):
    raise AssertionError(f"this system has no such call: {arguments}")


class PlayedDisk:
    """Locked bytes of Windows: one byte of one file has one holder."""

    LK_NBLCK = 2

    def __init__(self):
        self.locked = set()

    def locking(self, descriptor, mode, count):
        place = (os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR))
        if place in self.locked:
            raise OSError(errno.EACCES, "locked")
        self.locked.add(place)


def test_files_are_written_whole_where_folders_cannot_be_opened(tmp_path, monkeypatch):
    really = os.open

    def open_a_file(path, *arguments, **options):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "a folder")
        return really(path, *arguments, **options)

    monkeypatch.setattr(files.os, "open", open_a_file)
    with pytest.raises(PermissionError), files.atomic_write(tmp_path / "a.txt"):
        pass
    monkeypatch.setattr(files, "WINDOWS", True)
    with files.atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.fixture
def without_fcntl(monkeypatch):
    disk = PlayedDisk()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", disk)
    return disk


def test_a_run_has_one_holder_where_bytes_are_locked(tmp_path, without_fcntl):
    with run_lock.lock_run(tmp_path / "mine", "first command"):
        ((_, place),) = without_fcntl.locked
        assert place == run_lock.LOCKED > (tmp_path / "mine/.lock").stat().st_size
        run_lock._held.clear()  # as another process sees it
        second = run_lock.lock_run(tmp_path / "mine", "second command")
        with pytest.raises(ValueError, match=r"in use by process .*: first command"):
            second.__enter__()


def test_a_lock_that_keeps_its_name_is_taken_again(tmp_path, monkeypatch):
    def keeps(path, missing_ok=False):
        raise PermissionError(errno.EACCES, "the file is open")

    monkeypatch.setattr(Path, "unlink", keeps)
    for command in ("first", "second"):
        with run_lock.lock_run(tmp_path / "mine", command):
            assert command in (tmp_path / "mine/.lock").read_text()


def test_a_deadline_needs_neither_nonblocking_pipes_nor_select_on_files(monkeypatch, capfd):
    set_blocking, set_wakeup = os.set_blocking, signal.set_wakeup_fd

    def of_windows(descriptor, **options):  # takes a pipe as it is, which Linux does not
        if descriptor >= 0:
            set_blocking(descriptor, False)
        return set_wakeup(descriptor, **options)

    monkeypatch.delattr(deadlines.os, "set_blocking")
    monkeypatch.setattr(deadlines.signal, "set_wakeup_fd", of_windows)
    left = threading.Event()
    with deadlines.Deadline(grace=0.0, leave=lambda number: left.set()):
        before = signal.signal(signal.SIGINT, lambda number, frame: None)
        try:
            signal.raise_signal(signal.SIGINT)
            assert left.wait(30)
        finally:
            signal.signal(signal.SIGINT, before)
    monkeypatch.setattr(deadlines, "WINDOWS", True)
    monkeypatch.setattr(deadlines.select, "select", refuse)
    monkeypatch.setattr(deadlines.os, "_exit", lambda status: None)
    deadlines._leave(signal.SIGINT)
    assert "no file is half-written" in capfd.readouterr().err


def test_a_worker_asks_whether_its_launcher_lives(monkeypatch):
    monkeypatch.setattr(processes, "WINDOWS", True)
    monkeypatch.setattr(processes.os, "getppid", refuse)
    assert processes.lives(os.getpid())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not processes.lives(ended.pid)


def test_a_path_on_another_drive_than_the_project_stays_whole(monkeypatch, tmp_path):
    def two_drives(path, start):
        return ntpath.relpath("D:\\photos", "C:\\project")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(project_folder.os.path, "relpath", two_drives)
    assert project_folder.from_shell("photos", tmp_path.parent) == str(tmp_path / "photos")


@pytest.mark.parametrize("name", ["con", "NUL", "com1", "lpt9.old", "aux.2024", "mine."])
def test_a_run_has_no_name_that_windows_reserves(name):
    with pytest.raises(ValueError, match="expected a run_name"):
        check_run_name(name)


@pytest.mark.parametrize("name", ["console", "com", "com10", "nulls", "mine.2", "a", "my-run+1"])
def test_names_like_those_are_allowed(name):
    assert check_run_name(name) == name


def test_the_processor_is_named_on_macos_and_windows(monkeypatch):
    def without_proc(self, encoding=None):
        raise FileNotFoundError(self)

    monkeypatch.setattr(hardware.Path, "read_text", without_proc)
    hardware.processor.cache_clear()
    monkeypatch.setattr(hardware.sys, "platform", "darwin")
    monkeypatch.setattr(hardware.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout="Apple M3\n"))
    assert hardware.processor() == "Apple M3"
    hardware.processor.cache_clear()
    monkeypatch.setattr(hardware.sys, "platform", "win32")
    monkeypatch.setattr(hardware.subprocess, "run", refuse)
    monkeypatch.setattr(hardware.platform, "processor", lambda: "Intel64 Family 6")
    assert hardware.processor() == "Intel64 Family 6"
    hardware.processor.cache_clear()


def test_memory_that_the_system_does_not_tell_is_not_known(monkeypatch):
    torch = pytest.importorskip("torch")
    from ssdd.benchmarking import cost

    def no_trim(name):
        raise TypeError("Windows has no library without a name")

    monkeypatch.setattr(cost.ctypes, "CDLL", no_trim)
    assert cost.peak_memory(lambda: None, torch.device("cpu")) is None
    assert cost.held_memory(lambda: None, torch.device("cpu")) is None


def test_pictures_are_examined_in_threads_where_a_fork_is_not_safe(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with examiners._pool(SimpleNamespace(), 2) as pool:
        assert isinstance(pool, ThreadPoolExecutor)


def test_lines_of_progress_without_the_memory_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # its import fails
    assert peak_memory() == ""


def test_nothing_forks_and_nothing_reads_proc_without_an_alternative():
    root = Path(__file__).parents[1]
    folders = (root / "pipelines/ssdd", *root.glob("packages/*/src"))
    sources = [file for folder in folders for file in folder.rglob("*.py")]
    allowed = {"hardware.py", "cost.py"}  # which the tests above play without it
    assert {file.name for file in sources if '"/proc' in file.read_text("utf-8")} == allowed
    for file in sources:
        text = file.read_text("utf-8")
        assert "os.fork(" not in text, file
        assert '"fork"' not in text or file.name == "examiners.py", file  # threads elsewhere, see above
        for module in ("resource", "pwd", "grp", "termios"):
            alternative = file.name == "progress.py" and module == "resource"
            assert f"import {module}\n" not in text or alternative, file
