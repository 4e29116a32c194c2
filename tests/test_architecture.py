"""The rules of the house that no linter knows, and a check that the linter of the floors can fail."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("conf", "data_prep", "pretrain", "slurm")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = [*MODULES, *sorted((ROOT / "examples").glob("*.py"))]
TESTS = sorted(path for name in ("benchmarks", "tests") for path in (ROOT / name).rglob("*.py"))
SOURCES = [*SCRIPTS, *TESTS]
# A table is looked up, not read; in two files one would have to be searched for in both.
TABLES = ("tests/faults/bug_table.py",)

LONGEST_FUNCTION = 50  # lines: what fits on a screen
LONGEST_FILE = 300
MOST_POSITIONAL = 8
FORBIDDEN_NAMES = ("utils", "util", "helpers", "helper", "common", "manager", "misc")


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def dangers(source: str) -> list[str]:
    """Return what in a module could run code that is hidden in data or in a string."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in _UNPICKLERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _UNPICKLERS:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            found += [name] if name in ("eval", "exec") else []
            called = ast.unparse(node.func)
            found += [called] if called in ("torch.load", "np.load", "numpy.load", "os.system") else []
            for keyword in node.keywords:
                given = f"{keyword.arg}={ast.unparse(keyword.value)}"
                found += [given] if given in _DANGEROUS_ARGUMENTS else []
    return found


_UNPICKLERS = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
_DANGEROUS_ARGUMENTS = ("shell=True", "weights_only=False", "allow_pickle=True")


def test_no_two_modules_of_the_tests_have_one_name():
    """Tests import neighbours by bare name: a worker that ran both would take one for the other."""
    names = [
        path.stem for path in (ROOT / "tests").rglob("*.py") if path.stem not in ("__init__", "conftest")
    ]
    assert sorted(names) == sorted(set(names))


def test_the_rules_look_at_every_package():
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES)
    assert len(MODULES) > 50


def test_a_file_fits_300_lines():
    lengths = {short(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name for name, length in lengths.items() if length > LONGEST_FILE} == set(TABLES)


def test_a_function_fits_a_screen():
    too_long = {
        f"{short(path)}:{node.name}": node.end_lineno - node.lineno + 1
        for path in SOURCES
        for node in functions(path)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert too_long == {}


def test_a_function_takes_few_positional_arguments():
    too_many = {
        f"{short(path)}:{node.name}": len(node.args.posonlyargs) + len(node.args.args)
        for path in SCRIPTS
        for node in functions(path)
        if len(node.args.posonlyargs) + len(node.args.args) > MOST_POSITIONAL
    }
    assert too_many == {}


def test_no_module_is_a_drawer_for_everything():
    parts = {part for path in SCRIPTS for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not parts & set(FORBIDDEN_NAMES)


def test_every_module_says_in_its_first_line_what_it_decides():
    first_lines = {
        short(path): (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        for path in SCRIPTS
        if path.read_text()
    }
    assert {name: line for name, line in first_lines.items() if not line.endswith((".", "?"))} == {}


def test_nothing_runs_code_that_lies_in_data():
    found = {short(path): dangers(path.read_text()) for path in SCRIPTS}
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec(text)",
        "torch.load(path, weights_only=False)",
        "subprocess.run(command, shell=True)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_search_for_dangers_finds_one(source: str):
    assert dangers(source)


def test_a_model_in_evaluation_mode_is_not_taken_for_a_danger():
    assert dangers("model.eval()\nregex.exec(text)") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("data_prep/shards.py", "import pretrain.loop"),
        ("pretrain/loop.py", "import deepspeed"),
        ("pretrain/stream/order.py", "import torch"),
        ("pretrain/model.py", "import pretrain.engine"),
        ("pretrain/newcomer.py", ""),
        (None, ""),
    ],
)
def test_a_planted_import_against_the_floors_fails(tmp_path: Path, module: str | None, planted: str):
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    if module:
        with (tmp_path / module).open("a") as file:
            file.write(f"\n{planted}\n")
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(module), done.stdout
