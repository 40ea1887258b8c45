"""A folder is there whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from planish.compiler.staging import refuse_inputs_inside, staging
from planish.ir.errors import PlanishError, UsageError


def tree(folder: Path) -> dict[str, str]:
    """Every file below ``folder`` with its text, and every empty folder."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_text("utf8")
        elif not any(path.iterdir()):
            found[path.relative_to(folder).as_posix() + "/"] = ""
    return found


def fill(
    output: Path, *, force: bool = False, text: str = "new", fail: BaseException | None = None
) -> None:
    """Write one file into the folder, then raise ``fail``."""
    with staging(output, force) as folder:
        (folder / "a.txt").write_text(text)
        if fail is not None:
            raise fail


def test_the_folder_appears_with_its_parents(tmp_path: Path) -> None:
    fill(tmp_path / "deep" / "er" / "out")
    assert tree(tmp_path) == {"deep/er/out/a.txt": "new"}


def test_nothing_is_seen_at_the_place_while_it_is_written(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with staging(output, False) as folder:
        (folder / "a.txt").write_text("new")
        assert not output.exists()
        assert folder.parent == tmp_path
    assert output.is_dir()


def test_permissions_are_those_of_a_usual_folder(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    fill(tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out")
    assert tree(tmp_path) == {"out/a.txt": "new"}


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_any_exception_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fill(tmp_path / "deep" / "out", fail=error)
    assert tree(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="x"):
        fill(tmp_path / "mine" / "b" / "out", fail=ValueError("x"))
    assert tree(tmp_path) == {"mine/": ""}


def test_a_folder_with_content_is_refused_and_kept(tmp_path: Path) -> None:
    fill(tmp_path / "out", text="old")
    with pytest.raises(UsageError, match="something in it") as caught:
        fill(tmp_path / "out")
    assert "--force" in caught.value.hint
    assert tree(tmp_path) == {"out/a.txt": "old"}


def test_force_replaces_the_whole_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale.txt").write_text("old")
    fill(tmp_path / "out", force=True)
    assert tree(tmp_path) == {"out/a.txt": "new"}


def test_force_keeps_the_old_folder_when_the_block_fails(tmp_path: Path) -> None:
    fill(tmp_path / "out", text="old")
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", force=True, fail=KeyboardInterrupt())
    assert tree(tmp_path) == {"out/a.txt": "old"}


def test_force_keeps_the_old_folder_when_the_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    fill(output, text="old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == output and (self / "a.txt").read_text() == "new":
            raise OSError(errno.EIO, "broken disk")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="broken disk"):
        fill(output, force=True)
    assert tree(tmp_path) == {"out/a.txt": "old"}


def test_content_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    output = tmp_path / "out"

    def race() -> None:
        with staging(output, False):
            output.mkdir()
            (output / "b.txt").write_text("theirs")

    with pytest.raises(UsageError, match="something in it"):
        race()
    assert tree(tmp_path) == {"out/b.txt": "theirs"}


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    for force in (False, True):
        with pytest.raises(UsageError, match="is a file"):
            fill(tmp_path / "out", force=force)
    assert tree(tmp_path) == {"out": "mine"}


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="cannot be written"):
        fill(tmp_path / "file" / "deep" / "out")
    assert tree(tmp_path) == {"file": "mine"}


@pytest.mark.parametrize("force", [False, True])
def test_the_working_directory_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    for output in (Path(), tmp_path):
        with pytest.raises(UsageError, match="working directory"):
            fill(output, force=force)


def test_a_link_to_a_folder_keeps_pointing_there(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def refusing(self: Path, *args: object, **kwargs: object) -> None:
        if self.name.startswith("."):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        make(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refusing)  # root may write everywhere
    with pytest.raises(UsageError, match="cannot be written: Permission denied"):
        fill(tmp_path / "deep" / "out")
    assert tree(tmp_path) == {}


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.txt")
    with pytest.raises(PlanishError, match="No space left") as caught:
        fill(tmp_path / "out", fail=error)
    assert "free some space" in caught.value.hint
    assert tree(tmp_path) == {}


def test_leftovers_of_a_killed_process_do_not_matter(tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        from pathlib import Path
        from planish.compiler.staging import staging
        with staging(Path(sys.argv[1]), False) as folder:
            (folder / "a.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "out")]
    assert subprocess.run(words).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    fill(tmp_path / "out")
    assert tree(tmp_path / "out") == {"a.txt": "new"}


def test_inputs_inside_the_output_are_seen(tmp_path: Path) -> None:
    model = tmp_path / "models" / "model.onnx"
    refuse_inputs_inside(tmp_path / "models" / "out", [model])
    refuse_inputs_inside(tmp_path / "model", [model])
    for output in (tmp_path, tmp_path / "models", model):
        with pytest.raises(UsageError, match=r"'model\.onnx'"):
            refuse_inputs_inside(output, [tmp_path.parent / "other", model])
