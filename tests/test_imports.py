"""Dependencies run one way, as MAY_IMPORT says, from scripts down to harness."""

import ast
from pathlib import Path

from auxiliaries import AUXILIARIES

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "harness": set(),
    "mlr": {"harness"},
    "auxiliaries": {"mlr", "harness"},
    "atari": {"auxiliaries", "mlr", "harness"},
    "dmcontrol": {"auxiliaries", "mlr", "harness"},
    "mwm": {"dmcontrol", "auxiliaries", "mlr", "harness"},
    "recipes": {"mwm", "dmcontrol", "atari", "auxiliaries", "mlr", "harness"},
    "studies": {"recipes", "mwm", "dmcontrol", "atari", "auxiliaries", "mlr", "harness"},
    "commands": {"studies", "recipes", "mwm", "dmcontrol", "atari", "auxiliaries", "mlr", "harness"},
    "scripts": {"commands", "studies", "recipes", "mwm", "dmcontrol", "atari", "auxiliaries", "mlr", "harness"},
}
OURS = {*MAY_IMPORT, "tests"}


def imports(path: Path) -> set[str]:
    """Modules that a file imports, `from a import b` also as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def tops(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, folder
    return found


def test_the_map_names_every_package():
    assert {path.parent.name for path in ROOT.glob("*/*.py")} | {"tests"} == OURS


def test_each_package_imports_only_what_lies_below_it():
    for package, allowed in MAY_IMPORT.items():
        for path in files(package):
            assert tops(imports(path)) & OURS <= allowed | {package}, path


def test_what_works_without_torch_does_not_import_it():
    shared = ("__init__", "config", "command", "command_line", "logs", "messages", "overrides", "run_folder")
    names = [f"harness/{name}.py" for name in shared]
    names += ["mlr/__init__.py", "mlr/cells.py", "mlr/config.py", "auxiliaries/__init__.py", "recipes/__init__.py"]
    names += ["atari/config.py", "atari/games.py", "dmcontrol/config.py", "dmcontrol/tasks.py", "mwm/config.py"]
    names += ["mwm/tasks.py", "mwm/environments.py"]
    for name in names:
        tree = ast.parse((ROOT / name).read_text())
        top_level = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        top_level |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        assert "torch" not in tops(top_level), name


def test_no_shared_part_names_an_auxiliary():
    """Sections of an auxiliary in configuration files and messages are others' business; a comparison is not."""
    for package in ("harness", "recipes", "atari", "dmcontrol", "commands", "scripts"):
        for path in files(package):
            constants = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not constants & set(AUXILIARIES), path
