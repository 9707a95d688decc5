"""Files and folders are whole or absent, whatever happens while they are written."""

import errno
import os
import resource
import subprocess
import sys
import threading
import time

import pytest

from diq_hf.files import UNFINISHED, put_in_place, remove_leftovers, replacing, replacing_folder


def write_folder(folder, text="new"):
    folder.mkdir()
    (folder / "rows").write_text(text)


def test_what_stood_there_stays_until_the_block_ends(tmp_path):
    path = tmp_path / "made" / "file.json"
    with replacing(path) as unfinished:
        unfinished.write_text("first")
        assert not path.exists() and unfinished.name == path.name
    with pytest.raises(KeyError), replacing(path) as unfinished:
        unfinished.write_text("half")
        raise KeyError
    assert path.read_text() == "first" and os.listdir(path.parent) == ["file.json"]


def test_folders_too(tmp_path):
    path = tmp_path / "made" / "scored"
    for text in ("first", "second"):
        with replacing_folder(path) as unfinished:
            write_folder(unfinished, text)
    with pytest.raises(KeyError), replacing_folder(path) as unfinished:
        write_folder(unfinished, "half")
        raise KeyError
    assert (path / "rows").read_text() == "second" and os.listdir(path.parent) == ["scored"]
    (tmp_path / "link").symlink_to(path)
    with replacing_folder(tmp_path / "link") as unfinished:
        write_folder(unfinished, "third")
    assert (tmp_path / "link").is_symlink() and (path / "rows").read_text() == "third"


def test_a_failed_exchange_of_folders_is_undone(tmp_path, monkeypatch):
    write_folder(tmp_path / "old", "old")
    real, moved = os.rename, []

    def fails_once(source, target):
        moved.append(source)
        if len(moved) == 2:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", fails_once)
    write_folder(tmp_path / "new")
    with pytest.raises(OSError, match="old cannot be written: Input/output error"):
        put_in_place(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "rows").read_text() == "old" and len(moved) == 3


def test_no_way_back_loses_nothing(tmp_path, monkeypatch):
    """Where even the old folder cannot be renamed back, it is kept under its other name."""
    write_folder(tmp_path / "old", "old")
    write_folder(tmp_path / "new")
    real, moved = os.rename, []

    def fails_from_then_on(source, target):
        moved.append(source)
        if len(moved) > 1:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", fails_from_then_on)
    with pytest.raises(OSError, match="Input/output error"):
        put_in_place(tmp_path / "new", tmp_path / "old")
    (kept,) = tmp_path.glob(f"{UNFINISHED}*/old/rows")
    assert kept.read_text() == "old"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_is_that_of_any_new_file(umask, tmp_path):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "file") as unfinished:
            unfinished.write_text("x")
        with replacing_folder(tmp_path / "folder") as unfinished:
            write_folder(unfinished)
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "folder", "folder/rows")]
    assert modes == [0o666 & ~umask, 0o777 & ~umask, 0o666 & ~umask]


def test_no_link_in_the_way_is_followed(tmp_path):
    """Another user of a shared folder finds no name to put a link at; a link at the final name is replaced."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "file").symlink_to(victim)
    with replacing(folder / "file") as first, replacing(folder / "file") as second:
        for unfinished in (first, second):
            assert unfinished.parent.stat().st_mode & 0o777 == 0o700
            unfinished.write_text("new")
        assert first.parent != second.parent and str(os.getpid()) not in (first.parent.name, second.parent.name)
    assert victim.read_text() == "precious" and (folder / "file").read_text() == "new"
    assert not (folder / "file").is_symlink()


def test_a_full_disk(tmp_path):
    """A file size limit stands for the disk, in a process of its own: the writer fails as it does on a full one."""
    with replacing_folder(tmp_path / "folder") as unfinished:
        write_folder(unfinished, "old")
    script = f"""
import resource
from diq_hf.files import replacing_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
with replacing_folder(r"{tmp_path}/folder") as unfinished:
    unfinished.mkdir()
    (unfinished / "rows").write_text("x" * 1000)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    told = result.stderr.splitlines()[-1]
    assert f"{tmp_path}/folder cannot be written" in told and "lift the limit" in told and "is still there" in told
    assert (tmp_path / "folder" / "rows").read_text() == "old" and os.listdir(tmp_path) == ["folder"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 300


@pytest.mark.parametrize(
    ("code", "remedy"), [(errno.ENOSPC, "Free some space"), (errno.EROFS, "may write to"), (errno.EIO, "run again")]
)
def test_errors_name_the_path_and_the_remedy(code, remedy, tmp_path):
    with pytest.raises(OSError, match=remedy) as caught, replacing(tmp_path / "file"), replacing(tmp_path / "other"):
        raise OSError(code, os.strerror(code))
    assert str(caught.value).startswith(f"{tmp_path / 'other'} cannot be written: {os.strerror(code)}")
    assert caught.value.errno == code
    # What cannot be read is no fault of what is written.
    with pytest.raises(FileNotFoundError, match=r"No such file.*missing"), replacing(tmp_path / "file"):
        (tmp_path / "missing").read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="part of the path is a file"), replacing(tmp_path / "file" / "below" / "it"):
        pass


def test_leftovers_of_killed_runs_go_and_live_ones_stay(tmp_path):
    with replacing(tmp_path / "live") as live:
        live.write_text("under way")
        killed = tmp_path / f"{UNFINISHED}killed"
        write_folder(killed)
        remove_leftovers(tmp_path)
        assert killed.exists()
        for path in (killed / "rows", killed):
            os.utime(path, (0, time.time() - 2 * 24 * 60 * 60))
        remove_leftovers(tmp_path)
        assert not killed.exists() and live.exists()
    assert (tmp_path / "live").read_text() == "under way"


def test_many_writers_of_one_file(tmp_path):
    """Every reader sees one of the whole files."""
    path, size = tmp_path / "file", 200_000

    def write(letter):
        for _ in range(20):
            with replacing(path) as unfinished:
                unfinished.write_text(letter * size)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    write("c")
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_text() in ("a" * size, "b" * size, "c" * size)
    assert os.listdir(tmp_path) == ["file"]
