"""Dependencies run one way: scripts -> atari, dmcontrol -> mlr; inside mlr the shared parts know no objective."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCHMARKS = {"atari", "dmcontrol"}
METHOD = {
    f"mlr.{name}"
    for name in ("masking", "decoder", "momentum", "objective", "augmentation", "extra_augmentation", "pixels")
}


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


def test_mlr_imports_no_agent_and_no_script():
    for path in files("mlr"):
        assert not tops(imports(path)) & (BENCHMARKS | {"scripts", "tests"}), path


def test_benchmarks_do_not_import_each_other_or_scripts():
    for benchmark in BENCHMARKS & {path.name for path in ROOT.iterdir()}:
        for path in files(benchmark):
            assert not tops(imports(path)) & (BENCHMARKS - {benchmark} | {"scripts", "tests"}), path


def test_loop_replay_and_results_know_nothing_of_the_objective():
    for folder in ("mlr/training", "mlr/replay", "mlr/results"):
        for path in files(folder):
            assert not imports(path) & METHOD, path


def test_what_works_without_torch_does_not_import_it():
    shared = ("mlr/__init__.py", "mlr/config.py", "mlr/training/cli.py", "mlr/training/loggers.py")
    for name in (*shared, "atari/config.py", "atari/games.py"):
        tree = ast.parse((ROOT / name).read_text())
        top_level = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        top_level |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        assert "torch" not in tops(top_level), name
