"""Target files: the catalogue is sound, a user's file works, a wrong one is located."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from planish.ir.errors import TargetError, UsageError
from planish.targets import tomlfile
from planish.targets.host import HOST
from planish.targets.loader import aliases, load_target, target_names
from planish.targets.schema import Target
from planish.targets.tomlfile import catalog_files, line_of, read_target

CATALOG = sorted(catalog_files())
MINE = 'name = "mine"\nsummary = "My machine"\nkind = "machine"\nextends = "x86-avx2"\n'


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_catalogue_has_the_names_people_type() -> None:
    assert set(target_names()) >= {"host", "generic", "x86-avx2", "x86-avx512-vnni"}
    assert target_names()[0] == HOST


def test_what_a_machine_without_vnni_needs() -> None:
    avx2, vnni = load_target("x86-avx2"), load_target("x86-avx512-vnni")
    assert (avx2.int8.weight_bits, avx2.int8.saturates) == (7, True)
    assert (vnni.int8.weight_bits, vnni.int8.saturates) == (8, False)
    assert set(avx2.features) < set(vnni.features)
    assert vnni.runtime == avx2.runtime


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(UsageError, match="unknown target 'x86-avx512-vni'") as caught:
        load_target("x86-avx512-vni")
    assert "'x86-avx512-vnni'" in caught.value.hint


def test_a_file_extends_a_target_of_the_catalogue(tmp_path: Path) -> None:
    path = write(tmp_path, MINE + "min_gemm = 48\n[int8]\nspeed_ratio = 2\n")
    for spelling in (path, str(path)):
        target = load_target(spelling)
        assert (target.name, target.extends, target.min_gemm) == ("mine", "x86-avx2", 48)
        assert target.int8.speed_ratio == 2
    base = load_target("x86-avx2")
    assert (target.runtime, target.features) == (base.runtime, base.features)
    assert target.int8.weight_bits == base.int8.weight_bits


def test_what_a_probe_measured_is_read_whole(tmp_path: Path) -> None:
    head = '[measured]\ndate = "2026-11-21"\nruntime = "onnxruntime 1.31.1"\ncpu = "Some CPU"\n'
    rows = "call = [[1, 9.5], [2, 8]]\n[measured.products]\nfloat32 = [[1, 64, 64, 64, 7]]\n"
    measured = load_target(write(tmp_path, MINE + head + rows)).measured
    assert measured is not None
    assert measured.call == ((1.0, 9.5), (2.0, 8.0))
    assert measured.products.float32 == ((1.0, 64.0, 64.0, 64.0, 7.0),)
    assert measured.products.u8s8 == ()
    wrong = write(tmp_path, MINE + head + rows.replace("64, 7", '64, "7"'))
    with pytest.raises(TargetError, match="must be a list of lists of numbers") as caught:
        load_target(wrong)
    assert caught.value.where == f"{wrong}:11"


def test_a_file_extends_another_file(tmp_path: Path) -> None:
    write(tmp_path, MINE + "min_gemm = 48\n", "base.toml")
    path = write(tmp_path, MINE.replace("x86-avx2", "base.toml").replace('"mine"', '"leaf"'))
    assert (load_target(path).name, load_target(path).min_gemm) == ("leaf", 48)


def test_a_new_figure_does_not_keep_the_old_source(tmp_path: Path) -> None:
    text = MINE + 'min_gemm = 48\nmin_conv_channels = 24\n[sources]\n"min_gemm" = "my bench"\n'
    sources = load_target(write(tmp_path, text)).sources
    assert sources["min_gemm"] == "my bench"
    assert "min_conv_channels" not in sources
    assert sources["int8.weight_bits"] == load_target("x86-avx2").sources["int8.weight_bits"]


MEASURED = '[measured]\ndate = "2026-11-21"\nruntime = "onnxruntime 1.31.1"\ncpu = "c"\n'
WRONG = {
    "unknown key": ("min_gem = 3\n", 5, "unknown key 'min_gem'", "'min_gemm'"),
    "unknown nested key": ("[int8]\nwieght_bits = 7\n", 6, "'int8.wieght_bits'", "'weight_bits'"),
    "in an inline table": ("int8 = { wieght_bits = 7 }\n", 5, "'int8.wieght_bits'", ""),
    "dotted": ("int8.wieght_bits = 7\n", 5, "'int8.wieght_bits'", ""),
    "unknown table": ("[int9]\nx = 1\n", 5, "unknown key 'int9'", "'int8'"),
    "probed only": ('resolved = "generic"\n', 5, "unknown key 'resolved'", ""),
    "a text for a number": ('min_gemm = "3"\n', 5, "must be a whole number", ""),
    "a truth for a number": ("min_gemm = true\n", 5, "must be a whole number", ""),
    "a fraction": ("min_gemm = 3.5\n", 5, "must be a whole number", ""),
    "not a list": ('features = "avx2"\n', 5, "must be a list of texts", ""),
    "a list of numbers": ("features = [1]\n", 5, "must be a list of texts", ""),
    "not among": ("[int8]\nweight_bits = 6\n", 6, "must be 7 or 8", ""),
    "not a flag": ("[int8]\nsaturates = 1\n", 6, "must be true or false", ""),
    "too low": ("min_gemm = 0\n", 5, "must be at least 1", ""),
    "no version": ('[runtime]\nmin_version = "new"\n', 6, "must be a version", ""),
    "negative": ("[int8]\nspeed_ratio = -2.0\n", 6, "must be above 0", ""),
    "a negative rate": (
        "[rates]\nint8 = -1\n",
        6,
        "must be above 0: leave out what is unknown",
        "",
    ),
    "a rate of zero": ("[rates]\nfp32 = 1\nint8 = 0.0\n", 7, "must be above 0", ""),
    "endless": ("[memory]\nbandwidth_gbs = inf\n", 6, "must be a number", ""),
    "no number": ("[memory]\ncapacity_gb = nan\n", 6, "must be a number", ""),
    "too long a number": (f"cores = 0x{'F' * 5000}\nfoo = 1", 6, "unknown key 'foo'", ""),
    "a negative number of cores": ("cores = -1\n", 5, "must be at least 1", ""),
    "unknown dtype": ("[rates]\nint7 = 5\n", 6, "unknown key 'rates.int7'", "'int8'"),
    "unknown float": ('[floats]\nfloat7 = "native"\n', 6, "'floats.float7'", "'float8'"),
    "unknown support": ('[floats]\nfloat8 = "fast"\n', 6, "must be 'native' or 'widened'", ""),
    "unknown activation": ('[int8]\nactivation_dtype = "int4"\n', 6, "'uint8' or 'int8'", ""),
    "unknown technique": ("[weight_only]\nbit = [4]\n", 6, "'weight_only.bit'", "'bits'"),
    "no such bits": ("[weight_only]\nbits = [4, 9]\n", 6, "whole numbers from 2 to 8", ""),
    "bits twice": ("[weight_only]\nbits = [4, 4]\n", 6, "each once", ""),
    "no power of two": ("[weight_only]\nblocks = [48]\n", 6, "powers of two", ""),
    "no pattern": ('[sparse]\npatterns = ["half"]\n', 6, "texts such as '2:4'", ""),
    "no product's type": ('[sparse]\ndtypes = ["fp12"]\n', 6, "of bf16, fp16, fp32,", ""),
    "no gain at all": ("[sparse]\nend_to_end = 0.9\n", 6, "must be at least 1", ""),
    "no option": ('[int8]\nsession_options = ["fast"]\n', 6, "session.qdqisint8allowed=1", ""),
    "a table for a list": ("[aliases]\na = 1\n", 5, "must be a list of texts", ""),
    "a row too long": (MEASURED + "node = [[1, 2, 3]]\n", 9, "rows of 2 numbers above 0", ""),
    "a time of zero": (MEASURED + "node = [[1, 0]]\n", 9, "rows of 2 numbers above 0", ""),
    "measured without a date": ('[measured]\ncpu = "x"\n', None, "sets no 'measured.date'", ""),
    "not a table": ("int8 = 3\n", 5, "'int8' must be a table", ""),
    "not TOML": ("min_gemm =\n", 5, "not TOML", ""),
    "source of nothing": ('[sources]\n"int8.bits" = "x"\n', 6, "which is no field", ""),
    "source not quoted": ('[sources]\nint8.weight_bits = "x"\n', 6, "no field", "in quotes"),
    "empty source": ('[sources]\n"min_gemm" = " "\n', 6, "must be a text", ""),
    "sources not a table": ("sources = 3\n", 5, "'sources' must be a table", ""),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_located(case: str, tmp_path: Path) -> None:
    tail, line, said, advised = WRONG[case]
    path = write(tmp_path, MINE + tail)
    with pytest.raises(TargetError, match=re.escape(said)) as caught:
        load_target(path)
    assert caught.value.where == (f"{path}:{line}" if line else str(path))
    assert advised in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('kind = "machine"', 'kind = "host"', 3, "the host is probed"),
        ('name = "mine"', 'name = "My Machine"', 1, "must be lower-case"),
        ("x86-avx2", "x86-avx3", 4, "extends 'x86-avx3', which is no target"),
        ('"x86-avx2"', "3", 4, "'extends' must be a text"),
        ("x86-avx2", "absent.toml", 4, "extends 'absent.toml', which is no target"),
        ("x86-avx2", "mine.toml", 4, "extend each other: mine.toml -> mine.toml"),
    ],
)
def test_wrong_naming_is_located(old: str, new: str, line: int, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, MINE.replace(old, new))
    with pytest.raises(TargetError, match=re.escape(said)) as caught:
        load_target(path)
    assert caught.value.where == f"{path}:{line}"


def test_files_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, MINE.replace("x86-avx2", "b.toml"), "a.toml")
    write(tmp_path, MINE.replace("x86-avx2", "a.toml"), "b.toml")
    with pytest.raises(TargetError, match=re.escape("a.toml -> b.toml -> a.toml")):
        load_target(path)


def test_an_error_in_the_extended_file_is_located_there(tmp_path: Path) -> None:
    base = write(tmp_path, MINE + "min_gem = 3\n", "base.toml")
    path = write(tmp_path, MINE.replace("x86-avx2", "base.toml"))
    with pytest.raises(TargetError, match="min_gem") as caught:
        load_target(path)
    assert caught.value.where == f"{base}:5"


def test_naming_is_never_inherited(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "mine"\nkind = "machine"\nextends = "generic"\n')
    with pytest.raises(TargetError, match="sets no 'summary'"):
        load_target(path)


def test_a_file_that_extends_nothing_must_be_complete(tmp_path: Path) -> None:
    path = write(tmp_path, MINE.replace('extends = "x86-avx2"\n', ""))
    with pytest.raises(TargetError, match="sets no 'arch'") as caught:
        load_target(path)
    assert "x86-avx2" in caught.value.hint


def test_the_catalogues_names_are_taken(tmp_path: Path) -> None:
    for name in ("generic", "x86-amx", "nvidia-a100", HOST):
        path = write(tmp_path, MINE.replace('"mine"', f'"{name}"'))
        with pytest.raises(TargetError, match=f"two targets are called '{name}'") as caught:
            load_target(path)
        assert caught.value.where == f"{path}:1"
    assert load_target(catalog_files()["generic"]).name == "generic"


@pytest.mark.parametrize("alias", ["generic", "nvidia-a100", "host", "mine", "base"])
def test_an_alias_is_a_name_like_any_other(alias: str, tmp_path: Path) -> None:
    write(tmp_path, MINE.replace('"mine"', '"base"'), "base.toml")
    text = MINE.replace("x86-avx2", "base.toml") + f'aliases = ["fine", "{alias}"]\n'
    path = write(tmp_path, text)
    with pytest.raises(TargetError, match=f"two targets are called '{alias}'") as caught:
        load_target(path)
    assert caught.value.where == f"{path}:5"
    assert load_target(write(tmp_path, text.replace(f'"{alias}"]', '"other"]'))).aliases == (
        "fine",
        "other",
    )


def test_two_files_of_one_name_do_not_extend_each_other(tmp_path: Path) -> None:
    base = write(tmp_path, MINE, "base.toml")
    path = write(tmp_path, MINE.replace("x86-avx2", "base.toml"))
    with pytest.raises(TargetError, match="two targets are called 'mine'") as caught:
        load_target(path)
    assert (caught.value.where, str(base) in caught.value.hint) == (f"{path}:1", True)


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [('name = "a"\n', 'name = "b"\naliases = ["a"]\n', 2), ("", 'aliases = ["x"]\n', 1)],
)
def test_two_files_of_a_catalogue_with_one_name_are_both_named(
    first: str, second: str, line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "a": write(tmp_path, first + ('aliases = ["x"]\n' if not first else ""), "a.toml"),
        "b": write(tmp_path, second, "b.toml"),
    }
    monkeypatch.setattr(tomlfile, "catalog_files", lambda: files)
    with pytest.raises(TargetError, match="two targets are called") as caught:
        load_target("a")
    assert caught.value.where == f"{files['b']}:{line}"
    assert str(files["a"]) in caught.value.hint


def test_aliases_are_names_that_people_type() -> None:
    assert aliases()["nvidia-a100"] == "nvidia-a100-sxm-80gb"
    assert load_target("nvidia-a100") == load_target("nvidia-a100-sxm-80gb")
    with pytest.raises(UsageError, match="unknown target 'nvidia-a10'") as caught:
        load_target("nvidia-a10")
    assert "'nvidia-a100'" in caught.value.hint


def test_aliases_and_notes_are_never_inherited(tmp_path: Path) -> None:
    target = load_target(write(tmp_path, MINE.replace("x86-avx2", "nvidia-a100")))
    assert (target.aliases, target.notes) == ((), ())
    assert target.rates == load_target("nvidia-a100").rates


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such target file"):
        load_target(tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="no such target file"):
        load_target("absent.toml")
    with pytest.raises(TargetError, match="cannot read the target file"):
        load_target(tmp_path)
    (tmp_path / "huge.toml").write_bytes(b"#" * (tomlfile.MAX_BYTES + 1))
    with pytest.raises(TargetError, match="never larger than 1 MB"):
        load_target(tmp_path / "huge.toml")
    with pytest.raises(TargetError, match="sets no 'name'"):
        load_target(write(tmp_path, "", "empty.toml"))
    (tmp_path / "model.toml").write_bytes(bytes(range(32)))
    with pytest.raises(TargetError, match="not TOML"):
        load_target(tmp_path / "model.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"\n')
    with pytest.raises(TargetError, match="UTF-8"):
        load_target(tmp_path / "latin.toml")


def test_lines_are_found_by_key_and_table() -> None:
    text = 'a = 1\n# b = 2\n[t]\nb = 2\n[t.u]\n"x.y" = 3\nb = 4\n[v]\nw.b = 5\n'
    lines = {
        ("a",): 1,
        ("t",): 3,
        ("t", "b"): 4,
        ("t", "u", "x.y"): 6,
        ("t", "u", "b"): 7,
        ("v", "w", "b"): 9,
        ("b",): None,
    }
    assert {key: line_of(text, key) for key in lines} == lines


def test_reading_a_file_twice_gives_equal_targets() -> None:
    for path in catalog_files().values():
        first: Target = read_target(path)
        assert first == read_target(path)
