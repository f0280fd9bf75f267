"""The command line on a small primary file of its own: what it composes, refuses, prints and runs."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field, PositiveFloat
from pydantic.dataclasses import dataclass

from harness import command as composition
from harness import command_line as cli
from harness.config import STRICT, ConfigError, one_of
from harness.errors import NotFinite
from recipes import COMMANDS
from tests.waiting import HANG

ROOT = Path(__file__).parents[2]


@dataclass(config=STRICT)
class Brush:
    width: float
    bristles: int


@dataclass(config=STRICT)
class Oven:
    degrees: Annotated[int, Field(ge=100, le=1400)]


@dataclass(config=STRICT)
class Glaze:
    coats: int
    hours: PositiveFloat
    finish: Annotated[str, one_of("matt", "gloss")]


@dataclass(config=STRICT)
class Painting:
    title: str
    framed: bool
    layers: list[int]
    prices: dict[str, float]
    price: float
    style: str
    auxiliary: str
    brush: Brush
    glaze: Any = None
    oven: Oven | None = None


FILES = {
    "paint.yaml": """
        defaults:
          - paint_schema
          - _self_
          - style: rough
          - auxiliary: none
        title: ???
        framed: true
        layers: [3, 2]
        prices: {sea: 5.0}
        price: ${oc.select:prices.${title},1.0}
        brush:
          width: 0.5
          bristles: ${layers.0}
        glaze:
          hours: 1.5
        oven:
          degrees: 900
    """,
    "auxiliary/none.yaml": """
        # @package _global_
        auxiliary: none
    """,
    "auxiliary/glaze.yaml": """
        # @package _global_
        auxiliary: glaze
        glaze:
          coats: ${layers.1}
          finish: matt
    """,
    "style/rough.yaml": """
        # @package _global_
        style: rough
    """,
    "paint/brand/old.yaml": """
        # @package _global_
        brush: {width: 2.0}
    """,
    "paint/brand/shiny.yaml": """
        # @package _global_
        defaults:
          - override /auxiliary: glaze
        oven: {degrees: "${pick:${auxiliary},{glaze:700},0}"}
    """,
    "style/fine.yaml": """
        # @package _global_
        style: fine
        brush:
          width: 0.1
    """,
}


def validate(config: Painting) -> None:
    if config.brush.bristles < 1:
        raise ConfigError("brush.bristles must be\nat least 1")


def command() -> composition.Command:
    return composition.Command(
        "paint",
        Painting,
        validate,
        sections={"glaze": f"{__name__}:Glaze"},
        unread=lambda auxiliary: () if auxiliary == "glaze" else ("oven",),
    )


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Runs the command with the given arguments; returns its exit code and the configurations that were run."""
    folder = tmp_path / "it's a [folder], really"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
    monkeypatch.setattr(composition, "CONFIGS", folder)
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)

    def launch(*arguments: str, run=None, about=""):
        seen = []

        def record(config) -> int:
            seen.append(config)
            return run(config) if run else 0

        return cli.launch(command(), record, about=about, argv=arguments), seen

    return launch


def test_runs_the_composed_dataclass_and_returns_its_code(launch):
    code, seen = launch("title=sea", "style=fine", "layers=[7]", run=lambda config: 75)
    assert code == 75
    assert seen == [Painting("sea", True, [7], {"sea": 5.0}, 5.0, "fine", "none", Brush(0.1, 7))]


def test_the_command_line_wins_over_groups_and_interpolations(launch):
    _, (config,) = launch("title=sea", "style=fine", "brush.width=3", "price=2")
    assert (config.brush.width, config.price, config.style) == (3.0, 2.0, "fine")


def test_a_mapping_takes_new_entries(launch):
    _, (config,) = launch("title=hill", "+prices.hill=4")
    assert config.price == 4.0


def test_groups_of_the_primary_file_are_found_beside_shared_ones(launch):
    _, (config,) = launch("title=sea", "+brand=old")
    assert config.brush == Brush(2.0, 3)


def test_an_auxiliary_fills_its_section_and_none_leaves_it_out(launch, capsys):
    _, (config,) = launch("title=sea", "auxiliary=glaze", "glaze.finish=gloss", "oven.degrees=1000")
    assert (config.glaze, config.oven) == (Glaze(2, 1.5, "gloss"), Oven(1000))
    _, (config,) = launch("title=sea", "glaze.finish=gloss", "oven.degrees=1000")
    assert (config.glaze, config.oven) == (None, None)
    launch("--cfg", "job", "title=sea")
    assert not {"glaze", "oven"} & yaml.safe_load(capsys.readouterr().out).keys()


@pytest.mark.parametrize("choice", ["auxiliary=none", "auxiliary='none'"])
def test_settings_that_nothing_reads_change_nothing(launch, choice):
    _, (plain,) = launch("title=sea", choice)
    for setting in ("glaze.coats=9", "glaze.finish=rough", "oven.degrees=1", "glaze={coats: 3}"):
        assert launch("title=sea", choice, setting) == (0, [plain])


def test_a_file_chooses_an_auxiliary_unless_the_command_line_does(launch):
    _, (config,) = launch("title=sea", "+brand=shiny")
    assert (config.auxiliary, config.glaze, config.oven) == ("glaze", Glaze(2, 1.5, "matt"), Oven(700))
    _, (config,) = launch("title=sea", "auxiliary=none", "+brand=shiny")
    assert (config.auxiliary, config.glaze, config.oven) == ("none", None, None)


REFUSED = [
    # unknown keys, with the nearest
    ("brush.widht=1", "no key brush.widht; did you mean brush.width?"),
    ("bruhs.width=1", "did you mean brush.width?"),
    ("width=1", "did you mean brush.width?"),
    ("brush_width=1", "did you mean brush.width?"),
    ("+brush.widht=1", "did you mean brush.width?"),
    ("++brush.widht=1", "did you mean brush.width?"),
    ("brush={widht: 1}", "no key brush.widht; did you mean brush.width?"),
    ("title.length=3", "no key title.length"),
    ("+zzz=1", "no key zzz; --cfg job shows them all"),
    ("++zzz=1", "no key zzz"),
    ("prices.hill=1", "+prices.hill=1"),
    ("layers.9=1", "layers[9]"),
    ("glaze.coat=1", "no key glaze.coat; did you mean glaze.coats?"),
    ("aux=none", "no key aux; it is called auxiliary now"),
    # choices
    ("style=fien", "no style named 'fien'; did you mean fine?"),
    ("style=xyz", "choose one of fine, rough"),
    ("style=[fine]", "did you mean fine?"),
    ("style=null", "choose one of fine, rough"),
    ("styel=fine", "did you mean style?"),
    ("+style=fine", "write style=fine"),
    ("style@brush=fine", "without @brush"),
    # types and missing values
    ("brush.width=wide", "brush.width must be a number"),
    ("brush.width=nan", "brush.width=nan must be a number within"),
    ("layers=[1,x]", "layers[1]"),
    ("layers=3", "layers"),
    ("brush.bristles=1.5", "brush.bristles must be an integer"),
    ("framed=perhaps", "framed must be true or false"),
    ("framed=null", "framed must be true or false"),
    ("title=[sea]", "title must be a text"),
    ("title=???", "title has no value: add title=value"),
    ("brush=3", "brush is a section: set its keys, such as brush.width=value"),
    ("brush=null", "brush is a section"),
    # syntax and sigils
    ("title", "cannot read 'title': write key=value"),
    ("=sea", "cannot read '=sea'"),
    ("", "cannot read ''"),
    ("layers=[1", "cannot read 'layers=[1'"),
    ("title=a\nb", "cannot read 'title=a b'"),
    ("title=" + "[" * 200, "cannot read 'title=[["),
    ("title=" + "[" * 100_000, "at most 4096"),
    ("+title=sea", "title is there already"),
    ("~title", "~title: a key cannot be removed"),
    ("~zzz", "a key cannot be removed"),
    # interpolations
    ("title=${nobody}", "title: Interpolation key 'nobody' not found"),
    ("title=${title}", "title: Recursive interpolation"),
    ("title=${oc.env:SURELY_NOT_SET}", "SURELY_NOT_SET"),
    # what only sweeps understand, and Hydra itself
    ("title=sea,hill", "mlr sweep"),
    ("brush.bristles=range(3)", "mlr sweep"),
    ("hydra.run.dir=elsewhere", "leave it out"),
    # the program's own check, options
    ("brush.bristles=0", "brush.bristles must be at least 1"),
    ("--width", "unrecognized arguments: --width"),
    ("--multirun", "unrecognized arguments: --multirun"),
    ("--cfg", "--cfg: expected one argument"),
]


@pytest.mark.parametrize("argument, expected", REFUSED, ids=[argument[:30] for argument, _ in REFUSED])
def test_refuses_in_one_line_without_running_or_writing(launch, capsys, argument, expected):
    code, seen = launch("title=sea", argument)
    out, err = capsys.readouterr()
    assert (code, seen, out) == (2, [], "")
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert expected in err and len(err) < 300
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("argument, expected", [
    ("glaze.hours=0", "glaze.hours=0.0 must be above 0"),
    ("glaze.coats=1.5", "glaze.coats must be an integer"),
    ("glaze.coats=true", "glaze.coats must be an integer"),
    ("glaze.finish=dull", "glaze.finish=dull is not one of matt, gloss"),
    ("glaze={coat: 1}", "no key glaze.coat; did you mean glaze.coats?"),
    ("glaze=3", "glaze is a section: set its keys, such as glaze.coats=value"),
    ("oven.degrees=99", "oven.degrees=99 must be at least 100"),
    ("oven.degrees=1401", "oven.degrees=1401 must be at most 1400"),
    ("oven=null", "oven is a section"),
])  # fmt: skip
def test_a_section_is_checked_like_the_rest(launch, capsys, argument, expected):
    assert launch("title=sea", "auxiliary=glaze", argument) == (2, [])
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1


# Values as a file holds them, that somebody may have edited.
BUILT = [
    ("brush.hairs", 3, "no key brush.hairs in this version"),
    ("glaze.colour", "blue", "no key glaze.colour in this version"),
    ("brush", 3, "brush=3 must be a section of keys"),
    ("brush.width", "wide", "brush.width=wide must be a number"),
    ("brush.bristles", 1.5, "brush.bristles=1.5 must be an integer"),
    ("framed", "perhaps", "framed=perhaps must be true or false"),
    ("title", 3, "title=3 must be a text"),
    ("layers", 3, "layers=3 must be a list"),
    ("layers", [1, "x"], "layers.1=x must be an integer"),
    ("prices", [], "prices=[] must be a mapping"),
    ("glaze.hours", 0, "glaze.hours=0 must be above 0"),
    ("auxiliary", "varnish", "auxiliary=varnish is not one of none, glaze"),
    ("brush.width", None, "brush.width=None must be a number"),
]


@pytest.mark.parametrize("key, value, expected", BUILT)
def test_plain_values_build_a_configuration_or_are_refused_in_one_line(key, value, expected):
    values = {
        "title": "sea", "framed": True, "layers": [3], "prices": {}, "price": 1.0, "style": "fine",
        "auxiliary": "glaze", "brush": {"width": 0.5, "bristles": 3}, "oven": {"degrees": 900},
        "glaze": {"coats": 2, "hours": 1.5, "finish": "matt"},
    }  # fmt: skip
    assert command().build(values).glaze == Glaze(2, 1.5, "matt")
    node, (*sections, last) = values, key.split(".")
    for section in sections:
        node = node[section]
    node[last] = value
    with pytest.raises(ConfigError) as raised:
        command().build(values)
    assert str(raised.value) == expected
    del node[last]
    if last in ("title", "width", "hours"):
        with pytest.raises(ConfigError, match=f"^{key} has no value: add {key}=value$"):
            command().build(values)


@pytest.mark.parametrize("arguments", [[], ["--cfg", "job"]])
def test_a_missing_value_is_named(launch, capsys, arguments):
    assert launch(*arguments) == (2, [])
    assert capsys.readouterr() == ("", "error: title has no value: add title=value\n")


@pytest.mark.parametrize("file, text, expected", [
    ("style/fine.yaml", "# @package _global_\nbrush: {widht: 3}\n", "widht"),
    ("style/fine.yaml", "# @package _global_\nbrush: {width: [\n", "style/fine"),
])  # fmt: skip
def test_a_broken_file_is_one_line_too(launch, capsys, file, text, expected):
    (composition.CONFIGS / file).write_text(text)
    assert launch("title=sea", "style=fine")[0] == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1


def test_an_error_of_the_run_is_one_line_only_if_it_is_about_the_configuration(launch, capsys):
    def wrong(config):
        raise ConfigError("another run lives there")

    def broken(config):
        raise ZeroDivisionError

    assert launch("title=sea", run=wrong)[0] == 2
    assert capsys.readouterr().err == "error: another run lives there\n"
    with pytest.raises(ZeroDivisionError):
        launch("title=sea", run=broken)


def test_cfg_prints_resolved_values_that_compose_again(launch, capsys):
    code, seen = launch("--cfg", "job", "title=sea")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (code, seen) == (0, [])
    assert shown["price"] == 5.0 and shown["brush"] == {"width": 0.5, "bristles": 3}


def test_help_is_the_given_text_and_the_choices(launch, capsys):
    code, seen = launch("--help", "title=sea", about="Paints.\n")
    out = capsys.readouterr().out
    assert (code, seen) == (0, [])
    assert out.startswith("Paints.\n") and "  style=fine|rough\n" in out
    assert "  +brand=NAME  one of 2 in configs/brand/" in out


def test_help_needs_neither_hydra_nor_torch():
    program = (
        "import sys; from harness.command_line import Command, launch\n"
        "launch(Command('atari', int, None), None, argv=['--help']); print(*sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=HANG
    )
    modules = done.stdout.splitlines()[-1].split()
    assert "harness.command_line" in modules and not {"hydra", "omegaconf", "torch"} & set(modules)


@pytest.mark.parametrize(
    "module, said", [("commands.train_atari", "preset="), ("commands", "mlr evaluate RUN")], ids=["train", "mlr"]
)
def test_help_without_docstrings(module, said):
    """As under PYTHONOPTIMIZE=2."""
    code = f"import sys; from {module} import main; sys.argv = ['mlr', '--help']; sys.exit(main())"
    result = subprocess.run([sys.executable, "-OO", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and said in result.stdout and not result.stderr


@pytest.mark.parametrize("name", ["a\\b", "a'b", "a\\'b", "a b,[c]"])
def test_any_path_of_the_checkout_composes(tmp_path, monkeypatch, name):
    copy = tmp_path / name / "configs"
    shutil.copytree(composition.CONFIGS, copy)
    monkeypatch.setattr(composition, "CONFIGS", copy)
    assert COMMANDS["atari"].resolve(["game=pong", "preset=tiny"]).task == "pong"


@pytest.mark.parametrize(
    "error, code",
    [(ConfigError("x"), 2), (NotFinite("x"), 70), (OSError(errno.ENOSPC, "x"), 74), (OSError(errno.EACCES, "x"), 2)],
)
def test_what_ends_a_command_has_an_exit_code(error, code, capsys):
    def main(arguments):
        raise error

    assert cli.refusing(ConfigError, NotFinite, OSError)(main)([]) == code
    assert capsys.readouterr().err == f"error: {error}\n"
