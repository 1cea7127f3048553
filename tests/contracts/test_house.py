"""What holds the house: imports go down, names are what `__all__` says, and looking in costs little."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hf_bootstrap

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "hf_bootstrap"
MODULES = sorted(LIBRARY.rglob("*.py"))

# From the ground up; rooms beside each other do not know each other (docs/architecture.md).
FLOORS = [
    {"errors"},
    {"units"},
    {"fields"},
    {"sealing"},
    {"records"},
    {"store"},
    {"folders", "pages"},
    {"hub"},
    {"growth", "laws"},
    {"training", "study"},
    {"demo", "advise", "publish"},
    {"cli"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = ("torch", "transformers", "scipy", "matplotlib", "pandas", "datasets", "accelerate")

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))


def room_of(path):
    return path.relative_to(LIBRARY).with_suffix("").parts[0]


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_rooms(path):
    """(line, room) of every import of our own, nested and under TYPE_CHECKING included."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            target = (*above, *(node.module.split(".") if node.module else ()))
            names = [(*target, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] == "hf_bootstrap":
                # A name taken from the top is a name taken from its home.
                home = hf_bootstrap._HOMES.get(name[1], name[1]) if len(name) > 1 else "the top of the package"
                yield node.lineno, home.split(".")[0]


@each_module
def test_imports_go_down(path):
    if path == LIBRARY / "__init__.py":
        return  # the roof: a lazy table that names every room
    mine = room_of(path)
    assert mine in FLOOR_OF, f"{mine} stands on no floor; give it one in FLOORS and in docs/architecture.md"
    for line, room in imported_rooms(path):
        if room not in (mine, "__version__"):
            assert FLOOR_OF.get(room, 99) < FLOOR_OF[mine], f"{path.name}:{line}: {mine} imports {room}"


def test_the_top_of_the_package_imports_nothing_of_ours_when_it_runs():
    runs = [node for node in parse(LIBRARY / "__init__.py").body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [node for node in runs if isinstance(node, ast.ImportFrom) and node.level] == []


def bound_names(statements):
    """Names a module binds itself at its top, also inside if, for, with and try."""
    for node in statements:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.For):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
        for part in ("body", "orelse", "finalbody", "handlers"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from bound_names(getattr(node, part, []))


@each_module
def test_visible_names_are_those_in_all(path):
    tree = parse(path)
    stated = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    visible = {name for name in bound_names(tree.body) if not name.startswith("_")}
    if path.name == "__init__.py":
        if path.parent != LIBRARY:
            assert visible == set(), "a room's __init__ says what the room is for, and holds nothing"
        return
    assert len(stated) == 1, "every module states __all__, once and literally"
    assert visible == set(stated[0])
    assert len(stated[0]) == len(visible), "a name stands in __all__ twice"


@each_module
def test_every_module_says_what_it_is_for(path):
    first = (ast.get_docstring(parse(path)) or "").partition("\n")[0]
    assert first.endswith((".", ":", ";", ",")) or len(first) > 60, "begin with one sentence"


def test_the_names_of_the_package_exist_and_are_those_type_checkers_see():
    block = next(node for node in parse(LIBRARY / "__init__.py").body if isinstance(node, ast.If))
    seen = {alias.asname or alias.name: node.module for node in block.body for alias in node.names}
    assert seen == hf_bootstrap._HOMES
    assert set(hf_bootstrap.__all__) == set(seen)
    assert len(hf_bootstrap.__all__) == len(seen)


@pytest.mark.parametrize("name", hf_bootstrap.__all__)
def test_every_name_of_the_package_can_be_had(name):
    assert getattr(hf_bootstrap, name) is not None
    assert name in dir(hf_bootstrap)


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'ScalingLore'"):
        hf_bootstrap.ScalingLore  # noqa: B018


COMMAND = """
import runpy
sys.argv = ["hf-bootstrap", *{arguments!r}]
try:
    runpy.run_module("hf_bootstrap.cli.main", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize(
    "code",
    [
        "import hf_bootstrap",
        "from hf_bootstrap import ScalingLaw",
        "from hf_bootstrap import ScalingPoint, FORMS, GrowthConfig, compare_forms",
        COMMAND.format(arguments=["--help"]),
        COMMAND.format(arguments=["--version"]),
        COMMAND.format(arguments=["fit", "--help"]),
        COMMAND.format(arguments=["demo", "--help"]),
    ],
    ids=["import", "ScalingLaw", "torch-free names", "--help", "--version", "fit --help", "demo --help"],
)
def test_looking_in_loads_nothing_heavy(code):
    script = f"import sys\n{code}\nprint([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"


def repository_files():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_path_of_this_machine():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the repository is not known")
    here = {f"{place}/".encode() for place in (ROOT, Path.home(), sys.prefix)}
    named = [path for path in repository_files() for place in here if place in path.read_bytes()]
    assert named == []
