"""The index of a source serves while it says what the files say, and never stands in the way."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from vistill.data import kept_source, open_source
from vistill.errors import UserError


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Where indices are kept, of small sources too."""
    monkeypatch.setenv(kept_source.PLACE, str(tmp_path / "index"))
    monkeypatch.setattr(kept_source, "LEAST", 1)
    return tmp_path / "index"


@pytest.fixture
def settled(monkeypatch):
    """Nobody changes what is being read."""
    monkeypatch.setattr(kept_source, "_SETTLED_NS", -(10**15))


def facts(source):
    stamps = source.stamps()
    return {
        "class": type(source),
        "names": [source.sample_name(i) for i in range(len(source))],
        "labels": None if source.labels is None else source.labels.tolist(),
        "classes": source.classes,
        "notes": source.notes,
        "unlabelled": source.unlabelled,
        "spans": [source.span(i) for i in range(len(source))],
        "captions": source.captions and [list(one) for one in source.captions],
        "fingerprint": source.fingerprint(),
        "stamps": stamps.tolist(),
        "content": [source.read(i) for i in range(len(source))],
        "media": source.media,
        "decoding": source.decoding,
    }


def opened(path, media="image", **options):
    """What an index and a fresh look say, which has to be the same."""
    found = facts(open_source(str(path), media, **options))
    place = os.environ.pop(kept_source.PLACE)
    try:
        os.environ[kept_source.PLACE] = "off"
        assert found == facts(open_source(str(path), media, **options))
    finally:
        os.environ[kept_source.PLACE] = place
    return found


def fails(*args, **kwargs):
    raise AssertionError("it was opened anew")


def tree(folder, names=("b/1.jpg", "b/2.png", "a/ü.jpg", "a/no.txt")):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def shard(path, names):
    with tarfile.open(path, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))


def kinds(folder):
    """One source of each kind that is kept, with its media."""
    tree(folder / "pictures")
    (folder / "list.txt").write_text("pictures/a/ü.jpg cat\npictures/b/2.png dog\n")
    (folder / "list.csv").write_text('path,caption,x\npictures/a/ü.jpg,"a, cat",1\n')
    (folder / "clips.csv").write_text("path,start,end,label\nv.mp4,0,1.5,x\nv.mp4,2,3,y\n")
    (folder / "list.jsonl").write_text('{"path": "pictures/b/1.jpg", "label": 3}\n')
    (folder / "v.mp4").write_bytes(b"v")
    (folder / "shards").mkdir()
    for number in range(2):
        names = [f"c/{number}.jpg", f"c/{number}.cls", f"d/{number}.jpg", f"d/{number}.cls"]
        shard(folder / f"shards/{number}.tar", names)
    shutil.make_archive(str(folder / "pictures"), "zip", folder / "pictures")
    places = ["pictures", "list.txt", "list.csv", "list.jsonl", "shards/*.tar", "pictures.zip"]
    return [*((folder / place, "image") for place in places), (folder / "clips.csv", "video")]


def test_an_index_says_what_the_files_say(tmp_path, index, settled, monkeypatch):
    sources = kinds(tmp_path / "data")
    first = [opened(path, media) for path, media in sources]
    assert len(list(index.glob("*.index"))) == len(sources)
    for name in ("FolderSource", "TarSource", "ListSource", "ZipSource"):
        monkeypatch.setattr(f"vistill.data.opening.{name}.__init__", fails)
    again = [facts(open_source(str(path), media)) for path, media in sources]
    assert again == first
    source = open_source(str(tmp_path / "data/shards/*.tar"))
    source.labels[0] = 7  # nobody else sees that
    assert facts(open_source(str(tmp_path / "data/shards/*.tar"))) == first[4]


@pytest.mark.slow
def test_every_change_is_noticed(tmp_path, index, settled):
    """Added, removed, renamed, replaced and changed files and folders, in any order."""
    choose, root = random.Random(0), tree(tmp_path / "data")
    used = kept = 0
    before, changed = opened(root), False
    for number in range(150):
        files = [path for path in root.rglob("*") if path.is_file()]
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        one, folder = choose.choice(files), choose.choice(folders)
        step = choose.randrange(9)
        if step == 0:
            (folder / f"new-{number}.jpg").write_bytes(b"x")
        elif step == 1 and len(files) > 4 and one.suffix != ".txt":
            one.unlink()
        elif step == 2:
            one.rename(one.with_name(f"named-{number}{one.suffix}"))
        elif step == 3:
            one.write_bytes(one.read_bytes() + b"+")
        elif step == 4:
            other = folder / f"moved-{number}{one.suffix}"
            one.rename(other)
        elif step == 5:
            (folder / f"deeper-{number}").mkdir()
            (folder / f"deeper-{number}" / "z.png").write_bytes(b"z")
        elif step == 6 and folder != root:
            folder.rename(folder.with_name(f"folder-{number}"))
        elif step == 7:  # with the times of the folder put back, as rsync does
            times = folder.stat()
            (folder / f"quiet-{number}.jpg").write_bytes(b"q")
            os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))
        # else nothing
        found = opened(root)
        changed = found != before
        used += not changed
        kept += changed
        before = found
    assert used > 10
    assert kept > 60


def test_a_file_that_became_a_folder_behind_a_link_is_noticed(tmp_path, index, settled):
    root, away = tree(tmp_path / "data"), tmp_path / "away"
    away.mkdir()
    os.symlink(away / "x.jpg", root / "a/x.jpg")
    (away / "x.jpg").write_bytes(b"x")
    opened(root)
    (away / "x.jpg").unlink()
    tree(away / "x.jpg", ["inside.jpg"])
    assert "a/x.jpg/inside.jpg" in opened(root)["names"]


@pytest.mark.parametrize("change", ["list", "shard", "zip"])
def test_changed_lists_and_archives_are_read_again(tmp_path, index, settled, change):
    data = tmp_path / "data"
    kinds(data)
    path = {"list": "list.txt", "shard": "shards", "zip": "pictures.zip"}[change]
    before = opened(data / path)
    if change == "list":
        times = (data / path).stat()
        (data / path).write_text("pictures/a/ü.jpg dog\npictures/b/2.png cat\n")  # as long
        os.utime(data / path, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "shard":
        shard(data / "shards/1.tar", ["c/5.jpg", "c/5.cls"])
    else:
        tree(data / "pictures", ["b/3.jpg"])
        shutil.make_archive(str(data / "pictures"), "zip", data / "pictures")
    assert opened(data / path) != before


def test_what_changed_just_before_it_was_read_is_read_again(tmp_path, index, monkeypatch):
    """Its time may be that of a change after the reading."""
    root = tree(tmp_path / "data")
    open_source(str(root))
    assert list(index.glob("*.index"))
    calls = []
    real = kept_source.FolderSource.__init__
    monkeypatch.setattr(
        "vistill.data.opening.FolderSource.__init__",
        lambda self, *args: calls.append(1) or real(self, *args),
    )
    open_source(str(root))
    assert calls
    monkeypatch.setattr(kept_source, "_SETTLED_NS", 0)
    open_source(str(root))
    calls.clear()
    open_source(str(root))
    assert not calls


def test_a_first_file_that_is_gone_is_told_as_without_an_index(tmp_path, index, settled):
    tree(tmp_path / "data")
    (tmp_path / "list.txt").write_text("data/b/1.jpg\ndata/b/2.png\n")
    open_source(str(tmp_path / "list.txt"))
    (tmp_path / "data/b/1.jpg").unlink()
    with pytest.raises(UserError, match=r"line 1 lists 'data/b/1.jpg', but there is no file"):
        open_source(str(tmp_path / "list.txt"))


def test_root_and_media_have_indices_of_their_own(tmp_path, index, settled):
    tree(tmp_path / "data", ["a/1.gif", "a/2.gif"])
    (tmp_path / "list.txt").write_text("a/1.gif\n")
    shutil.copytree(tmp_path / "data/a", tmp_path / "a")
    opened(tmp_path / "data")
    opened(tmp_path / "data", "video")
    here = opened(tmp_path / "list.txt")
    assert here["names"] == opened(tmp_path / "list.txt", root=tmp_path / "data")["names"]
    assert len(list(index.glob("*.index"))) == 4


def test_damaged_and_foreign_indices_are_replaced(tmp_path, index, settled):
    root = tree(tmp_path / "data")
    before = opened(root)
    (path,) = index.glob("*.index")
    whole, choose = path.read_bytes(), random.Random(0)
    other = tree(tmp_path / "other", ["p/1.jpg"])
    opened(other)
    foreign = next(one for one in index.glob("*.index") if one != path).read_bytes()
    wrong = [b"", b"x", foreign, whole[: len(whole) // 2], whole[:-1], b"\0" * len(whole)]
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[choose.randrange(len(flipped))] ^= 1 << choose.randrange(8)
        wrong.append(bytes(flipped))
    for content in wrong:
        path.write_bytes(content)
        assert opened(root) == before
    path.unlink()
    path.mkdir()
    assert opened(root) == before


@pytest.mark.parametrize("where", ["file", "off", "sealed"])
def test_an_unwritable_place_is_done_without(tmp_path, index, settled, monkeypatch, where):
    root = tree(tmp_path / "data")
    if where == "file":
        index.write_text("no folder")
    elif where == "off":
        monkeypatch.setenv(kept_source.PLACE, "off")
    else:
        monkeypatch.setattr(kept_source, "atomic_writer", no_space)
    assert facts(open_source(str(root)))["classes"] == ["a", "b"]
    assert not index.is_dir() or not list(index.iterdir())


def no_space(path):
    raise OSError(28, "No space left on device", str(path))


def test_a_small_source_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(kept_source.PLACE, str(tmp_path / "index"))
    open_source(str(tree(tmp_path / "data")))
    assert not (tmp_path / "index").exists()


def test_old_indices_and_remains_are_tidied_away(tmp_path, index, settled):
    index.mkdir()
    old = {"gone.index": 100, "used.index": 80, ".partial-1-x.index": 2, ".partial-2-x.index": 0}
    for name, days in old.items():
        (index / name).touch()
        os.utime(index / name, (time.time() - days * 86400,) * 2)
    open_source(str(tree(tmp_path / "data")))
    assert {path.name for path in index.iterdir()} & set(old) == {
        "used.index", ".partial-2-x.index"
    }  # fmt: skip


SLOW = """
import os, signal, sys
from vistill.data import kept_source, open_source
from vistill import files
kept_source.LEAST, kept_source._SETTLED_NS = 1, -10**15
place = sys.argv[2]
real = os.fsync
def fsync(handle):
    if place == "written":
        os.kill(os.getpid(), signal.SIGKILL)
    real(handle)
os.fsync = fsync
if place == "renamed":
    files.sync_folder = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
print(len(open_source(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["written", "renamed"])
def test_a_killed_writer_leaves_what_is_whole_or_nothing(tmp_path, index, settled, place):
    root = tree(tmp_path / "data")
    run = subprocess.run([sys.executable, "-c", SLOW, str(root), place], capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert len(list(index.glob("[0-9a-f]*"))) == (place == "renamed")
    assert opened(root)["classes"] == ["a", "b"]
    assert len(list(index.glob("[0-9a-f]*"))) == 1


def test_ranks_share_what_the_first_of_them_wrote(tmp_path, index, settled, monkeypatch):
    root = tree(tmp_path / "data")
    real = kept_source.FolderSource.__init__
    written = []

    def slow(self, *args):
        real(self, *args)
        if not written:  # another rank, which is faster
            written.append(1)
            open_source(str(root))
            written.extend(path.stat().st_ino for path in index.glob("*.index"))

    monkeypatch.setattr("vistill.data.opening.FolderSource.__init__", slow)
    source = open_source(str(root))
    assert [path.stat().st_ino for path in index.glob("*.index")] == written[1:]
    assert list(source.names) == ["a/ü.jpg", "b/1.jpg", "b/2.png"]


def test_folders_of_which_times_tell_nothing_are_not_kept(tmp_path, index, settled, monkeypatch):
    monkeypatch.setattr(kept_source, "_SILENT", ("",))
    open_source(str(tree(tmp_path / "data")))
    assert not index.exists()


def test_the_usual_place(monkeypatch):
    monkeypatch.delenv(kept_source.PLACE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert kept_source._folder() == Path("/x/vistill/sources")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert kept_source._folder() == Path("/h/.cache/vistill/sources")
    monkeypatch.setenv("HOME", "")
    assert kept_source._folder() is None or kept_source._folder().is_absolute()
    assert np.asarray(kept_source._marks([])).shape == (0, 4)
