"""A folder that changes as one: killed anywhere it is the old or the new one, and nobody else's files are touched."""

import errno
import os
import sys
import threading

import pytest

from hf_bootstrap import folders
from hf_bootstrap.errors import StoreError
from hf_bootstrap.folders import read_unchanged, replace_folder, standing

OLD = {"law.json": b"old", "README.md": b"# old", "figures/a.png": b"A", "figures/b.png": b"B", "points.csv": b"1"}
NEW = {"law.json": b"new", "README.md": b"# new", "figures/a.png": b"C", "points.jsonl": b"2"}
OURS = ("law.json", "README.md", "points.*", "figures/*.png")


def write(folder, files):
    replace_folder(folder, files, owned=OURS)


def held(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def dies_at(step, work):
    """Run `work` in a process that dies at its step-th question to the system; whether it came to its end before."""
    child = os.fork()
    if child == 0:
        left = [step]

        def audit(event, args):
            if event == "open" or event.startswith(("os.", "shutil.", "fcntl.", "ctypes.call")):
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)

        sys.addaudithook(audit)
        try:
            work()
        except BaseException:  # noqa: BLE001
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 0


@pytest.fixture
def unsynced(monkeypatch):
    """Dozens of folders without waiting for the disk; what a process leaves when it dies is the same."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("before", [None, OLD])
def test_killed_at_any_step_it_is_the_old_folder_or_the_new_one(tmp_path, unsynced, before):
    found = []
    for step in range(1, 1000):
        folder = tmp_path / "law"
        if before is None:
            folders.shutil.rmtree(folder, ignore_errors=True)
        else:
            write(folder, before)
        if dies_at(step, lambda: write(tmp_path / "law", NEW)):
            break
        found.append(held(folder) if folder.exists() else None)
        assert found[-1] in (before, NEW)
    assert before in found
    assert NEW in found, "it was never stopped between the change and the clean-up"
    assert len(found) > 20
    write(tmp_path / "law", NEW)
    assert os.listdir(tmp_path) == ["law"], "what the killed ones left is swept"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EXDEV, errno.ENOSYS])
def test_a_file_system_without_such_a_step_will_do(tmp_path, monkeypatch, code):
    monkeypatch.setattr(folders, "_exchange", _cannot(code))
    write(tmp_path / "law", OLD)
    write(tmp_path / "law", NEW)
    assert held(tmp_path / "law") == NEW
    assert os.listdir(tmp_path) == ["law"]


def a_stranger(folder, monkeypatch):
    folder.mkdir(exist_ok=True)
    (folder / "notes.txt").write_bytes(b"mine")


def no_exchange(folder, monkeypatch):
    monkeypatch.setattr(folders, "_exchange", _cannot(errno.EINVAL))


def worked_in(folder, monkeypatch):
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("reason", [a_stranger, no_exchange, worked_in])
def test_a_folder_that_cannot_be_exchanged_reads_as_the_old_one_or_the_new_one(tmp_path, monkeypatch, unsynced, reason):
    """Killed at any step; and the next save, whichever it is, ends with its own files alone."""
    target, found = tmp_path / "law", []
    reason(target, monkeypatch)
    for step in range(1, 1000):
        write(target, OLD)
        if dies_at(step, lambda: write(target, NEW)):
            break
        seen = held(standing(target))
        found.append({name: text for name, text in seen.items() if not name.startswith((".hf_bootstrap", "notes"))})
        assert found[-1] in (OLD, NEW)
        write(target, OLD if step % 2 else NEW)
        left = {name: text for name, text in held(target).items() if name != "notes.txt"}
        assert left == (OLD if step % 2 else NEW), "what the killed one left is swept"
    assert OLD in found
    assert NEW in found
    assert len(found) > 40
    if reason is a_stranger:
        assert (target / "notes.txt").read_bytes() == b"mine"


def test_a_folder_that_was_cut_short_is_mended_by_a_plain_exchange_too(tmp_path, unsynced):
    target = tmp_path / "law"
    write(target, OLD)
    saved = target / folders._SAVED
    saved.mkdir()
    (saved / "law.json").write_bytes(b"saved")
    assert held(standing(target)) == {"law.json": b"saved"}
    write(target, NEW)
    assert held(target) == NEW


def test_a_disk_that_fills_up_while_files_are_put_in_place_says_where_they_are(tmp_path, monkeypatch):
    target = tmp_path / "law"
    a_stranger(target, monkeypatch)
    write(target, OLD)

    def full(copy, place):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders.os, "replace", full)
    with pytest.raises(StoreError, match=r"whole in .*saved, where they are read from, .* No space left"):
        write(target, NEW)
    assert held(standing(target)) == NEW
    monkeypatch.undo()
    write(target, NEW)
    assert held(target) == {**NEW, "notes.txt": b"mine"}


def test_a_disk_that_is_full_from_the_start_leaves_the_old_files_there_too(tmp_path, monkeypatch):
    target = tmp_path / "law"
    a_stranger(target, monkeypatch)
    write(target, OLD)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders.os, "fsync", full)
    with pytest.raises(StoreError, match="still holds what it held before"):
        write(target, NEW)
    assert held(target) == {**OLD, "notes.txt": b"mine"}


def test_readers_beside_two_writers_where_nothing_is_exchanged(tmp_path, monkeypatch, unsynced):
    a_stranger(tmp_path / "law", monkeypatch)
    readers_see_whole_folders(tmp_path / "law")


def _cannot(code):
    def exchange(one, other):
        raise OSError(code, "no")

    return exchange


def test_what_is_not_ours_stays(tmp_path):
    write(tmp_path / "law", OLD)
    (tmp_path / "law" / "notes.txt").write_text("mine")
    (tmp_path / "law" / "data").mkdir()
    write(tmp_path / "law", NEW)
    assert held(tmp_path / "law") == {**NEW, "notes.txt": b"mine"}
    assert (tmp_path / "law" / "data").is_dir()


def test_what_somebody_puts_there_meanwhile_stays(tmp_path, monkeypatch):
    write(tmp_path / "law", OLD)
    really = folders._exchange

    def late(one, other):
        (other / "notes.txt").write_text("mine")
        really(one, other)

    monkeypatch.setattr(folders, "_exchange", late)
    write(tmp_path / "law", NEW)
    assert held(tmp_path / "law") == {**NEW, "notes.txt": b"mine"}


def test_a_folder_one_works_in_is_not_taken_away(tmp_path, monkeypatch):
    write(tmp_path / "law", OLD)
    monkeypatch.chdir(tmp_path / "law")
    write(".", NEW)
    assert held(tmp_path / "law") == NEW
    assert sorted(os.listdir(".")) == sorted(os.listdir(tmp_path / "law"))


def test_a_link_to_a_folder_stays_a_link_and_modes_stay(tmp_path):
    write(tmp_path / "real", OLD)
    (tmp_path / "real").chmod(0o750)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", NEW)
    assert (tmp_path / "link").is_symlink()
    assert held(tmp_path / "real") == NEW
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o750


def test_a_file_in_its_place_is_refused_and_stays(tmp_path):
    (tmp_path / "law").write_text("mine")
    with pytest.raises(StoreError, match="there is a file of this name"):
        write(tmp_path / "law", NEW)
    assert (tmp_path / "law").read_text() == "mine"
    assert os.listdir(tmp_path) == ["law"]


def test_a_full_disk_leaves_the_old_folder(tmp_path, monkeypatch):
    write(tmp_path / "law", OLD)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders.os, "fsync", full)
    with pytest.raises(StoreError, match=r"law cannot be written: .*No space left.* still holds what it held before"):
        write(tmp_path / "law", NEW)
    assert held(tmp_path / "law") == OLD
    assert os.listdir(tmp_path) == ["law"]


def test_what_a_living_process_holds_is_not_swept(tmp_path):
    with folders._staging(tmp_path / "law") as staged:
        (staged / "law.json").write_bytes(b"theirs")
        write(tmp_path / "law", NEW)
        assert (staged / "law.json").read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["law"]


def test_readers_beside_two_writers_see_one_folder_or_the_other(tmp_path):
    readers_see_whole_folders(tmp_path / "law")


def readers_see_whole_folders(target):
    write(target, OLD)
    stop, wrong = threading.Event(), []

    def writes(files):
        while not stop.is_set():
            write(target, files)

    def parts(place):
        name = (place / "law.json").read_bytes()
        if (place / "README.md").read_bytes() != b"# " + name:
            raise KeyError(name)
        return name

    threads = [threading.Thread(target=writes, args=(files,)) for files in (OLD, NEW)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            try:
                read_unchanged(target, parts, (KeyError, OSError))
            except (KeyError, OSError) as error:
                wrong.append(error)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
