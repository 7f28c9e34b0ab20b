"""The house rules of docs/house.md: floors, no cycles, no star imports, no prints below the doors, sizes."""

import ast
import statistics
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "conviction"

# A file imports from lower floors or from its own folder only.
FLOORS = {
    "errors": 0, "version": 0, "text": 0, "recipe": 0, "storage": 0, "heap": 0,
    "nets": 1, "data": 1, "randomness": 1, "denormals": 1,
    "planning": 2, "metrics": 2, "probe": 2, "findings": 2,
    "training": 3, "runs": 4, "feeding": 4, "preflight": 4, "lr_range": 4,
    "sweep_figure": 4, "diagnosis": 4,
    "evaluation": 4, "prediction": 4, "environment": 4, "figures": 4, "tracking": 4,
    "plan_figures": 4, "roofline_figure": 4, "raster": 4,
    "report": 5, "assembly": 5, "clearance": 5,
    "fitting": 6, "fit_cost": 6, "planned": 6, "plan_album": 6, "lr_finding": 6, "lr_refusal": 6,
    "diagnosing": 6, "net_diagnosis": 6, "run_diagnosis": 6, "diagnosis_page": 6, "repair": 6,
    "progress": 8, "cli": 8, "__init__": 8, "__main__": 8,
}  # fmt: skip
DOORS = 8
# Rooms of one floor that may not know each other: nets and data meet in the corridor; what looks takes any module.
STRANGERS = {"nets": {"data"}, "data": {"nets"}, "planning": {"nets", "data"}, "metrics": {"nets", "data"},
             "probe": {"nets", "data"}, "findings": {"nets", "data"}, "preflight": {"nets", "data"},
             "lr_range": {"nets", "data"}, "diagnosis": {"nets", "data"},
             "training": {"nets", "data"}}  # fmt: skip
FILES = sorted(SRC.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, ast.stmt]]:
    """Rooms of this package that a file imports, at its top or inside a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "conviction":
            parts = (node.module or "").split(".")
            targets = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            found += [(target, node) for target in targets]
        elif isinstance(node, ast.Import):
            found += [(a.name.split(".")[1], node) for a in node.names if a.name.startswith("conviction.")]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_go_down(path: Path) -> None:
    here = room(path)
    assert here in FLOORS, f"{path} is in no room of the plan: give it a floor"
    for target, node in imports(path):
        where = f"{path}:{node.lineno} imports {target}"
        if FLOORS[here] == DOORS and target not in FLOORS:
            continue  # a door uses names of the public page
        neighbours = path.parent == SRC and (SRC / f"{target}.py").exists() and FLOORS[target] == FLOORS[here]
        assert target == here or FLOORS[target] < FLOORS[here] or neighbours or FLOORS[here] == DOORS, where
        assert target not in STRANGERS.get(here, set()), where


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_file_keeps_the_rules(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names)), "star import"
        if FLOORS[room(path)] < DOORS and isinstance(node, ast.Call):
            assert getattr(node.func, "id", "") != "print", f"{path}:{node.lineno} prints below the doors"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{path}:{node.lineno} {node.name} has {length} lines"
    assert len(path.read_text().splitlines()) <= 300, f"{path} is over 300 lines"


def test_no_cycles_between_files() -> None:
    edges: dict[str, set[str]] = {}
    for path in FILES:
        name = ".".join(("conviction", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__")
        tree = ast.parse(path.read_text())
        top = [n for n in tree.body if isinstance(n, ast.ImportFrom)]
        edges[name] = {n.module for n in top if n.module}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name in done or name not in edges:
            return
        for target in edges[name]:
            visit(target, (*trail, name))
        done.add(name)

    for name in edges:
        visit(name, ())


def test_functions_are_short() -> None:
    lengths = [
        (node.end_lineno or 0) - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert statistics.median(lengths) <= 12


def test_no_grab_bags() -> None:
    assert not [path for path in FILES if path.stem in {"utils", "helpers", "misc", "common"}]


def test_ground_floor_needs_no_torch() -> None:
    for path in [*(SRC / f"{name}.py" for name in ("errors", "text", "recipe", "storage")), SRC / "nets/catalogue.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(module.split(".")[0] in {"torch", "numpy"} for module in modules), path
