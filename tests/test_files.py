"""Files that are whole or not there at all."""

import json
import os
import stat

import keras
import pytest

from tfjointrd import files


def test_what_is_written_takes_the_place_of_the_file(tmp_path):
    path = tmp_path / "table.md"
    files.write(path, "äußerst")
    assert path.read_text(encoding="utf-8") == "äußerst"
    files.write(path, b"\x00\r\n")
    assert path.read_bytes() == b"\x00\r\n"
    files.write_json(path, {"a": [1]})
    assert json.loads(path.read_text()) == {"a": [1]} and path.read_text().endswith("}\n")
    with files.writing(path, "w", newline="") as file:
        file.write("a\r\n")
        file.flush()
        assert path.read_text().startswith("{")  # until the end, the old one
    assert path.read_bytes() == b"a\r\n"
    assert os.listdir(tmp_path) == ["table.md"]


def test_folders_that_cannot_be_synchronized(tmp_path, monkeypatch):
    """As some network drives refuse it; of a file it is an error."""
    synchronize = os.fsync

    def refuse(descriptor, kind=stat.S_ISDIR):
        if kind(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        synchronize(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    files.write(tmp_path / "table.md", "text")
    assert (tmp_path / "table.md").read_text() == "text"
    monkeypatch.setattr(os, "fsync", lambda descriptor: refuse(descriptor, stat.S_ISREG))
    with pytest.raises(OSError, match="Invalid argument"):
        files.write(tmp_path / "table.md", "other")


def test_functions_that_take_a_path(tmp_path):
    """Keras looks at the suffix."""
    path = tmp_path / "net.keras"
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with files.replacing(path) as part:
        assert part.parent == tmp_path and part != path
        network.save(part)
    assert keras.saving.load_model(path, compile=False).output_shape == (None, 2)
    assert os.listdir(tmp_path) == ["net.keras"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("before", [None, b"an earlier file"])
def test_after_an_error_all_is_as_before(before, error, tmp_path):
    path = tmp_path / "model.bin"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error, match="in the middle"), files.writing(path) as file:
        file.write(b"half of")
        file.flush()
        raise error("in the middle")
    with pytest.raises(error, match="in the middle"), files.replacing(path) as part:
        part.write_bytes(b"half of")
        raise error("in the middle")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([] if before is None else [before])


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    """A machine that loses power between the two has the old file."""
    happened, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: happened.append("fsync") or fsync(descriptor))
    monkeypatch.setattr(os, "replace", lambda *paths: happened.append("replace") or replace(*paths))
    files.write(tmp_path / "a", b"content")
    assert happened[:2] == ["fsync", "replace"]


def test_a_disk_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError("No space left on device")

    path = tmp_path / "a"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="Expected the folder of `path` to exist"):
        files.write(tmp_path / "missing" / "a", "")
    with pytest.raises(IsADirectoryError, match="Expected `path` to name a file"):
        files.write(tmp_path, "")
    with pytest.raises(OSError, match="Expected `path` to be writable"):
        files.write("/proc/a", "")


def test_what_the_killed_left_is_removed(tmp_path):
    (tmp_path / "model.keras").touch()
    (tmp_path / ".lock").touch()
    with files.replacing(tmp_path / "model.keras") as part:
        killed = tmp_path / part.name.replace(str(os.getpid()), "1")
        killed.touch()
    files.remove_partial(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".lock", "model.keras"]
