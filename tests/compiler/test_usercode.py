"""A user's code given as ``file.py:function``: loading it, running it, explaining its errors."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from planish.compiler.data.usercode import call, iterate, load_function
from planish.ir.errors import InputError, PlanishError, UsageError


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf8")
    return str(path)


def test_a_function_is_loaded_and_its_folder_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "helpers.py", "FACTOR = 3\n")
    file = write(
        tmp_path / "score.py",
        """
        from __future__ import annotations
        import dataclasses
        import helpers

        @dataclasses.dataclass
        class Result:
            value: int

        def score(x: int) -> int:
            from helpers import FACTOR  # also while it runs
            return Result(x * FACTOR * helpers.FACTOR).value
        """,
    )
    path, modules = list(sys.path), set(sys.modules)
    assert call(load_function(f"{file}:score"), "the evaluation function", 2) == 18
    assert sys.path == path
    assert {name for name in set(sys.modules) - modules if "planish_user_" not in name} == set()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == [
        "helpers.py",
        "score.py",
    ]


def test_a_file_is_run_once_and_again_when_it_changed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.py", "made = []\ndef one(): return made\ndef two(): return made\n")
    first = load_function(f"{file}:one")()
    assert load_function(f"{file}:two")() is first
    write(tmp_path / "a.py", "made = []\ndef one(): return [1]\n")
    assert load_function(f"{file}:one")() == [1]


def test_two_folders_with_modules_of_the_same_name_do_not_mix(tmp_path: Path) -> None:
    functions = []
    for name in ("first", "second"):
        write(tmp_path / name / "common.py", f"NAME = {name!r}\n")
        write(tmp_path / name / "package/__init__.py", "")
        write(tmp_path / name / "package/inner.py", f"NAME = {name!r}\n")
        file = write(
            tmp_path / name / "run.py",
            """
            import common

            def get():
                import package.inner
                return common.NAME, package.inner.NAME, id(package.inner)
            """,
        )
        functions.append(load_function(f"{file}:get"))
    first, second = (call(f, "it") for f in functions)
    assert first[:2] == ("first", "first")
    assert second[:2] == ("second", "second")
    assert call(functions[0], "it") == first  # the same module object as before
    assert "common" not in sys.modules


def test_a_loaded_namesake_from_elsewhere_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "elsewhere/settings_here.py", "NAME = 'elsewhere'\n")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    import settings_here  # type: ignore[import-not-found]

    write(tmp_path / "user/settings_here.py", "NAME = 'user'\n")
    file = write(tmp_path / "user/run.py", "import settings_here\ndef get(): return settings_here")
    assert call(load_function(f"{file}:get"), "it").NAME == "user"
    assert sys.modules["settings_here"] is settings_here
    monkeypatch.delitem(sys.modules, "settings_here")


def test_a_function_from_a_helper_module_keeps_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "deep.py", "VALUE = 7\n")
    write(tmp_path / "inner.py", "def get():\n    import deep\n    return deep.VALUE\n")
    file = write(tmp_path / "outer.py", "from inner import get\n")
    assert call(load_function(f"{file}:get"), "it") == 7


@pytest.mark.parametrize("text", ["score", "score.py", "score.py:", "score.txt:f", "score.py:a.b"])
def test_another_form_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="does not name a function") as caught:
        load_function(text)
    assert "file.py:function" in caught.value.hint


def test_what_is_not_there_comes_with_near_names(tmp_path: Path) -> None:
    file = write(tmp_path / "score.py", "limit = 3\ndef evaluate(run): return 1.0\n")
    with pytest.raises(InputError, match="no function 'evalute'") as caught:
        load_function(f"{file}:evalute")
    assert "'evaluate'" in caught.value.hint
    assert caught.value.where == file
    with pytest.raises(InputError, match="'limit' is of type int, not a function"):
        load_function(f"{file}:limit")
    with pytest.raises(InputError, match="No such file") as caught:
        load_function(f"{tmp_path}/scores.py:evaluate")
    assert "'score.py'" in caught.value.hint
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        load_function(f"{tmp_path}/folder.py:evaluate")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x = 1\nimport no_such_module_here\n", 2, "ModuleNotFoundError: No module named"),
        ("def f():\n    return [\n", 2, "SyntaxError"),
        ("def f():\n    return {}['key']\n\nf()\n", 2, "KeyError: 'key'"),
        ("import json\njson.loads('{')\n", 2, "JSONDecodeError"),
        ("raise SystemExit(3)\n", 1, "SystemExit: 3"),
        ("class Odd(Exception): pass\nraise Odd\n", 2, "Odd"),
    ],
)
def test_a_file_that_raises_while_it_loads(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    file = write(tmp_path / "broken.py", text)
    with pytest.raises(InputError) as caught:
        load_function(f"{file}:f")
    assert caught.value.what.startswith(f"the Python file raised {message}")
    assert caught.value.where == f"{file}:{line}"
    assert not [n for n in sys.modules if getattr(sys.modules[n], "__file__", "") == file]


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "binary.py").write_bytes(b"x = 1\ny = '\xff\xfe'\n")
    with pytest.raises(InputError, match="the Python file raised SyntaxError"):
        load_function(f"{tmp_path}/binary.py:f")


def test_an_error_inside_a_helper_names_the_helpers_line(tmp_path: Path) -> None:
    helper = write(tmp_path / "helping.py", "def half(x):\n    return x / 0\n")
    file = write(tmp_path / "score.py", "import helping\ndef f(x):\n    return helping.half(x)\n")
    with pytest.raises(
        InputError, match="the evaluation function 'f' raised ZeroDivision"
    ) as caught:
        call(load_function(f"{file}:f"), "the evaluation function", 1)
    assert caught.value.where == f"{helper}:2"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_error_inside_a_library_names_the_users_line(tmp_path: Path) -> None:
    file = write(
        tmp_path / "score.py", "import json\n\ndef f(text):\n    return json.loads(text)\n"
    )
    with pytest.raises(InputError, match="JSONDecodeError") as caught:
        call(load_function(f"{file}:f"), "it", "{")
    assert caught.value.where == f"{file}:4"


def test_a_wrong_call_names_where_the_function_stands(tmp_path: Path) -> None:
    file = write(tmp_path / "score.py", "import json\ndef f(a, b):\n    return a\n")
    with pytest.raises(InputError, match="missing 1 required positional argument") as caught:
        call(load_function(f"{file}:f"), "it", 1)
    assert caught.value.where == f"{file}:2"


def test_our_own_errors_and_interrupts_pass_through() -> None:
    ours = InputError("a wrong feed")

    def complain(error: BaseException) -> None:
        raise error

    with pytest.raises(PlanishError) as caught:
        call(complain, "it", ours)
    assert caught.value is ours
    with pytest.raises(KeyboardInterrupt):
        call(complain, "it", KeyboardInterrupt())


def test_a_long_message_is_cut(tmp_path: Path) -> None:
    file = write(tmp_path / "score.py", "def f():\n    raise ValueError('line\\n' * 500)\n")
    with pytest.raises(InputError) as caught:
        call(load_function(f"{file}:f"), "it")
    assert len(str(caught.value).splitlines()) < 20
    assert caught.value.what.endswith("…")


def test_items_are_given_one_by_one_until_one_raises(tmp_path: Path) -> None:
    write(tmp_path / "numbers_here.py", "N = 2\n")
    file = write(
        tmp_path / "feeds.py",
        """
        def feeds():
            for i in range(3):
                from numbers_here import N
                yield 6 // (N - i)
        """,
    )
    function = load_function(f"{file}:feeds")
    items = iterate(function, "the generator", call(function, "the generator"))
    assert [next(items), next(items)] == [3, 6]
    with pytest.raises(
        InputError, match="the generator 'feeds' raised ZeroDivisionError"
    ) as caught:
        next(items)
    assert caught.value.where == f"{file}:4"
    assert list(iterate(function, "it", [1, 2])) == [1, 2]


def test_a_callable_from_python_is_called_as_it_is() -> None:
    class Scorer:
        def __call__(self, x: int, *, scale: int = 1) -> Any:
            return x * scale

    assert call(Scorer(), "it", 2, scale=3) == 6
    with pytest.raises(InputError, match="'Scorer' raised TypeError"):
        call(Scorer(), "it")
