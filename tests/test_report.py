"""The report from score files to a page in a real browser. All scores here are made up."""

import csv
import json
import re
import shutil
import statistics
import subprocess
import sys
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest

from atari.scores import constants, human_normalised
from commands import report
from harness.video import video_writer
from tests.conftest import ROOT
from tests.waiting import HANG

GAMES = ("boxing", "pong", "alien", "freeway")
METHODS = {"mlr": 1.0, "none": 0.6, "no-actions": 0.8, "mlr-no_actions-released-full": 0.7}
FEW = ("no-actions", "mlr-no_actions-released-full")  # on two games
MISSING = ("pong", "none", 3)
EPISODES = 3
KINDS = ("aggregates", "profiles", "improvement")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=10000"
).split()
# Runs in the page, which sits in a frame: a browser's own window cannot be as narrow as a phone.
MEASURE = """<script>
addEventListener("load", () => document.querySelectorAll("details").forEach(folded => folded.open = true));
addEventListener("load", () => document.querySelectorAll("video").forEach(video => video.play()));
addEventListener("load", () => setTimeout(() => {
  const inSight = element => { const box = element.getBoundingClientRect(); return box.width > 20 && box.height > 10; };
  const all = selector => [...document.querySelectorAll(selector)];
  const outside = element => element.closest(".box table, svg") === null
    && element.getBoundingClientRect().right > innerWidth + 0.5;
  const seen = video => {
    const context = document.createElement("canvas").getContext("2d");
    context.drawImage(video, 0, 0);
    return new Set(context.getImageData(0, 0, video.videoWidth, video.videoHeight).data).size;
  };
  parent.postMessage(JSON.stringify({
    width: innerWidth,
    height: document.documentElement.scrollHeight,
    scrollWidth: document.documentElement.scrollWidth,
    overflowing: all("body *").filter(outside).map(e => e.outerHTML.slice(0, 200)),
    tables: all("table").filter(inSight).map(e => e.id.replace("table-", "")),
    wideBoxes: all(".box").filter(e => e.scrollWidth > e.clientWidth).length,
    figures: all("figure:has(svg)").filter(e => inSight(e.querySelector("svg"))).map(e => e.id),
    smallest: Math.min(...all("figure svg").map(e => e.getBoundingClientRect().width)),
    images: all("img").map(e => e.naturalWidth),
    videos: all("video").map(e => [e.videoWidth, seen(e)]),
    background: getComputedStyle(document.body).backgroundColor,
    ink: all("figure svg").map(e => getComputedStyle(e.querySelector('[id*="text"] g')).fill),
  }), "*");
}, 2000));
</script>"""


def write_score_file(path: Path, task: str, method: str, seed: int, steps: dict[int, list[float]], **columns) -> None:
    """A run's rows, `steps` being the scores of its episodes after so many environment steps."""
    constant = {
        "suite": "atari",
        "task": task,
        "method": method,
        "preset": "full",
        "fidelity": "released",
        "seed": seed,
        "config_hash": f"{hash_of(task, method, seed):016x}",
        "version": "0.1.0+abcdef0",
        "hardware": "one <fast> GPU & a CPU",
        "source": "run",
        **columns,
    }
    rows = [
        {
            **constant,
            "evaluation": index,
            "agent_steps": env_steps,
            "env_steps": env_steps,
            "frames": env_steps * (4 if constant["suite"] == "atari" else 1),
            "episode": episode,
            "score": score,
        }
        for index, (env_steps, scores) in enumerate(steps.items())
        for episode, score in enumerate(scores)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def hash_of(*names) -> int:
    return int.from_bytes("/".join(map(str, names)).encode()[-8:])


def scores_of(task: str, method: str, seed: int, env_steps: int) -> list[float]:
    """Scores that grow with training, differ between methods and seeds, and have no pattern in the episodes."""
    random, human = constants()[task]
    generator = np.random.default_rng(hash_of(task, method, seed, env_steps))
    share = METHODS[method] * env_steps / 100_000 * (0.5 + 0.1 * seed) + generator.normal(0, 0.05, EPISODES)
    return [round(float(random + (human - random) * value), 2) for value in share]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Four games, three seeds, MLR and Baseline, one run missing; two games of an ablation; two videos; DMControl."""
    folder = tmp_path_factory.mktemp("runs")
    for task in GAMES:
        for method in METHODS:
            for seed in (1, 2, 3):
                if (task, method, seed) == MISSING or (method in FEW and task not in GAMES[:2]):
                    continue
                steps = {end: scores_of(task, method, seed, end) for end in (25_000, 50_000, 75_000, 100_000)}
                write_score_file(folder / task / method / f"seed_{seed}" / "evaluations.csv", task, method, seed, steps)
    for method in ("mlr", "none"):
        path = folder / "boxing" / method / "seed_1" / "media" / "episode_000100000.mp4"
        with video_writer(path, fps=15, enlarge=2) as append:
            for frame in np.random.default_rng(0).integers(0, 256, (8, 40, 32, 3), np.uint8):
                append(frame)
    for task in ("finger_spin", "cheetah_run"):
        for seed in (1, 2):
            steps = {end: [end / 1000 + 50 * seed + episode for episode in range(2)] for end in (100_000, 500_000)}
            write_score_file(folder / "dm" / f"{task}_{seed}.csv", task, "mlr", seed, steps, suite="dmcontrol")
    return folder


@pytest.fixture(scope="module")
def built(runs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report")
    assert report.main([str(runs), "--out", str(out), "--media", "--repeats", "200"]) == 0
    return out


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_calls_write_the_same_bytes(runs, built, tmp_path, capsys):
    assert report.main([str(runs), "--out", str(tmp_path), "--media", "--repeats", "200"]) == 0
    assert contents(tmp_path) == contents(built)
    printed = capsys.readouterr().out
    assert all(str(tmp_path / name) in printed for name in contents(tmp_path))


def test_the_report_has_every_table_and_figure(built):
    tables = {path.stem for path in (built / "tables").iterdir()}
    assert tables >= {
        "aggregates",
        "atari",
        "dmcontrol",
        "provenance",
        "sources",
        "differences_atari_full_released_100000_none",
        "differences_atari_full_released_100000_mlr",
        "ablations_atari_full_released_100000_mlr",
    }
    figures = {path.stem for path in (built / "figures").iterdir()}
    assert figures == {
        *(f"atari_full_released_100000_{kind}" for kind in (*KINDS, "none_differences", "mlr_differences", "curves")),
        "atari_full_released_100000_mlr_ablations",
        "dmcontrol_full_released_500000_curves",
        *(f"atari_full_released_100000_others_{kind}" for kind in KINDS),
        *(f"dmcontrol_full_released_{end}_{kind}" for end in (100000, 500000) for kind in ("aggregates", "profiles")),
        *(f"atari_{game}_curve" for game in GAMES),
        *(f"dmcontrol_{task}_curve" for task in ("finger_spin", "cheetah_run")),
    }
    for folder, suffixes in (("tables", {".csv", ".md", ".tex"}), ("figures", {".png", ".svg", ".csv"})):
        for stem in tables if folder == "tables" else figures:
            assert {path.suffix for path in (built / folder).glob(f"{stem}.*")} == suffixes, stem


def test_numbers_are_those_of_the_score_files(built):
    """Recomputed here from the made-up episodes, without the code under test."""
    table = {row["game"]: row for row in read(built / "tables" / "atari.csv")}
    means = [statistics.mean(scores_of("alien", "mlr", seed, 100_000)) for seed in (1, 2, 3)]
    assert float(table["alien"]["ours: MLR"]) == pytest.approx(statistics.mean(means))
    shares = [
        statistics.mean(
            human_normalised(task, statistics.mean(scores_of(task, "none", seed, 100_000)))
            for seed in (1, 2, 3)
            if (task, "none", seed) != MISSING
        )
        for task in GAMES
    ]
    assert float(table["mean"]["ours: Baseline"]) == pytest.approx(statistics.mean(shares))
    drawn = read(built / "figures" / "atari_full_released_100000_aggregates.csv")
    (row,) = (row for row in drawn if (row["group"], row["measure"]) == ("Baseline", "mean"))
    assert float(row["point"]) == pytest.approx(statistics.mean(shares))
    curve = read(built / "figures" / "atari_alien_curve.csv")
    (row,) = (row for row in curve if (row["group"], row["seed"], row["environment steps"]) == ("MLR", "2", "50000"))
    assert float(row["score"]) == pytest.approx(statistics.mean(scores_of("alien", "mlr", 2, 50_000)))
    assert Path(row["file"]).is_file()


def test_what_is_missing_is_said_on_the_page(built):
    page = unescape((built / "index.html").read_text())
    limits = page[page.index('<aside class="warnings">') : page.index("</aside>")]
    assert "pong has 2 of 3 seeds (not 3)" in limits
    assert "22 of 26 games have no result" in limits
    assert "means only" in limits
    for caveat in ("pong has 2 of 3 seeds (not 3)", "22 of 26 games have no result"):
        assert caveat not in page.replace(limits, "") and caveat in (built / "tables" / "atari.md").read_text()


def test_every_run_is_in_the_provenance_with_its_file(runs, built):
    rows = read(built / "tables" / "provenance.csv")
    assert {Path(row["file"]) for row in rows} == set(runs.rglob("*.csv"))
    page = unescape((built / "index.html").read_text())
    for row in rows:
        assert row["file"] in page and row["configuration"] in page
    assert "<fast>" not in (built / "index.html").read_text()  # escaped


def test_the_page_needs_nothing_from_outside(built):
    page = (built / "index.html").read_text()
    assert page.count('src="') == page.count('src="data:video/mp4;base64,') == 2
    assert set(re.findall(r'href="([^"#]*)', page)) == {"", "data:,"}
    assert "<script" not in page and "@import" not in page
    assert set(re.findall(r"url\(([^)]{0,3})", page)) <= {f"#{letters}" for letters in ("at", "dm")}
    identifiers = re.findall(r' id="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_without_runs_the_published_tables_stand_alone(tmp_path, capsys):
    assert report.main(["--out", str(tmp_path)]) == 0
    methods = {"atari_methods_100k", "dmcontrol_methods_100k", "dmcontrol_methods_500k"}
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {
        "atari",
        "dmcontrol",
        "metaworld",
        "sources",
        *methods,
    }
    assert not (tmp_path / "figures").exists()
    page = (tmp_path / "index.html").read_text()
    assert "No runs were given" in page and "Learning curves" not in page
    assert len(capsys.readouterr().out.splitlines()) == 3 * 7 + 1


def test_what_cannot_be_compared_is_said(tmp_path):
    """MLR of one game and Baseline of another; then one run of each on the same game."""
    scores = {100_000: [1.0, 2.0]}
    write_score_file(tmp_path / "runs" / "a.csv", "boxing", "mlr", 1, scores)
    write_score_file(tmp_path / "runs" / "b.csv", "pong", "none", 1, scores)
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "apart")]) == 0
    assert "MLR; Baseline have no game in common" in (tmp_path / "apart" / "index.html").read_text()
    assert {path.stem for path in (tmp_path / "apart" / "figures").iterdir()} == {
        "atari_boxing_curve",
        "atari_pong_curve",
    }
    write_score_file(tmp_path / "runs" / "b.csv", "boxing", "none", 1, scores)
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "single")]) == 0
    page = (tmp_path / "single" / "index.html").read_text()
    assert "neither a profile nor a probability" in page and "1 pair, 1 game, so no interval" in page
    assert not list((tmp_path / "single" / "figures").glob("*improvement*"))


def test_tasks_without_published_scores_are_reported_beside_the_runs_of_the_repository(tmp_path):
    """A game outside the 26, a task outside the six, and an environment of the user's own."""
    names = ("road_runner", "boxing/spr-ratio-2_seed_1", "cartpole_swingup")
    repository = [str(ROOT / "results" / "runs" / "cpu" / name) for name in names]
    assert report.main([*repository, "--out", str(tmp_path / "without"), "--repeats", "50"]) == 0
    for seed in (1, 2):
        scores = {10_000: [-24.0], 20_000: [-20.0 - seed]}
        for method in ("mlr", "none"):
            path = tmp_path / "runs" / f"tennis_{method}_{seed}.csv"
            write_score_file(path, "tennis", method, seed, scores, preset="cpu")
    write_score_file(tmp_path / "runs" / "hop.csv", "hopper_hop", "mlr", 1, {100_000: [3.0, 5.0]}, suite="dmcontrol")
    own = {"suite": "gymnasium", "preset": "tiny"}
    write_score_file(tmp_path / "runs" / "own.csv", "Catch-v0", "none", 1, {500: [0.5]}, **own)
    out = tmp_path / "out"
    assert report.main([*repository, str(tmp_path / "runs"), "--out", str(out), "--repeats", "50"]) == 0

    atari, before = (read(folder / "tables" / "atari.csv") for folder in (out, tmp_path / "without"))
    (tennis,) = (row for row in atari if row["game"] == "tennis")
    assert float(tennis["ours: MLR, preset cpu"]) == float(tennis["ours: Baseline, preset cpu"]) == -21.5
    assert all(tennis[name] == "" for name in tennis if "published" in name or name in ("human", "random"))
    published = [name for name in before[0] if "published" in name or name in ("human", "random")]
    for old, new in zip(before, [row for row in atari if row is not tennis], strict=True):
        assert [old[name] for name in published] == [new[name] for name in published], "published numbers changed"
        ours = [name for name in old if name.startswith("ours") and name in new]
        assert ours and [old[name] for name in ours] == [new[name] for name in ours], "tennis counts"
    (hop,) = (row for row in read(out / "tables" / "dmcontrol.csv") if row["task"] == "hopper_hop")
    assert float(hop["ours: MLR"]) == 4.0 and hop["environment steps"] == "100,000" and hop["MLR, published"] == ""
    own = read(out / "tables" / "gymnasium.csv")
    assert [row["task"] for row in own] == ["Catch-v0", "tasks", "seeds"]
    assert float(own[0]["ours: Baseline, preset tiny"]) == 0.5
    aggregates = read(out / "tables" / "aggregates.csv")
    assert aggregates == read(tmp_path / "without" / "tables" / "aggregates.csv")

    tasks = [row["task"] for row in read(out / "tables" / "provenance.csv")]
    assert (tasks.count("tennis"), tasks.count("hopper_hop"), tasks.count("Catch-v0")) == (4, 1, 1)
    for name, score in (("atari_tennis", -24.0), ("dmcontrol_hopper_hop", 4.0), ("gymnasium_Catch_v0", 0.5)):
        assert float(read(out / "figures" / f"{name}_curve.csv")[0]["score"]) == score
    page = unescape((out / "index.html").read_text())
    assert "tennis has no published scores, so no aggregate counts it." in page
    assert "hopper_hop has no published scores" in page
    assert "Catch-v0 has no published scores" in page
    assert "1 of 26 games, 1 further game" in page


def test_runs_of_a_suite_without_published_scores_stand_alone(tmp_path):
    write_score_file(tmp_path / "runs" / "own.csv", "Catch-v0", "mlr", 1, {500: [0.5]}, suite="gymnasium")
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == {"gymnasium_Catch_v0_curve"}
    assert {path.stem for path in (tmp_path / "out" / "tables").iterdir()} >= {"gymnasium", "provenance"}


def test_sizes_are_never_mixed(tmp_path):
    """A smaller preset, another fidelity and a shorter training have columns and figures of their own."""
    for i, columns in enumerate(({}, {"preset": "cpu"}, {"preset": "cpu", "fidelity": "paper"})):
        for seed in (1, 2):
            path = tmp_path / "runs" / f"{i}_{seed}.csv"
            write_score_file(path, "boxing", "mlr", seed, {100_000 // (i + 1): [10.0 * i + seed]}, **columns)
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--repeats", "50"]) == 0
    (row,) = (row for row in read(tmp_path / "out" / "tables" / "atari.csv") if row["game"] == "boxing")
    ours = {name: float(row[f"ours: {name}"]) for name in ("MLR", "MLR, preset cpu", "MLR, preset cpu, fidelity paper")}
    assert list(ours.values()) == [1.5, 11.5, 21.5]
    for stem in ("full_released_100000", "cpu_released_50000", "cpu_paper_33333"):
        drawn = read(tmp_path / "out" / "figures" / f"atari_{stem}_aggregates.csv")
        assert len({line["group"] for line in drawn}) == 1
    assert "smaller than the paper" in (tmp_path / "out" / "index.html").read_text()


def test_files_of_an_earlier_report_are_named(tmp_path, capsys):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "old.svg").write_text("")
    assert report.main(["--out", str(tmp_path)]) == 0
    assert f"{tmp_path / 'figures' / 'old.svg'} is of an earlier report" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, line", [(["nowhere"], "nowhere"), (["--repeats", "0"], "at least 1"), (["--out", "file/x"], "file")]
)
def test_errors_are_one_line_and_exit_2(arguments, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert report.main(["--out", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert line in error and len(error.splitlines()) == 1


def test_a_missing_extra_is_named_with_its_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    assert report.main(["--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "rliable is missing" in error and "[report]" in error and not any(tmp_path.iterdir())


def test_no_torch_is_needed(runs, tmp_path):
    code = "import sys; from commands import report; print(report.main(sys.argv[1:]), 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(runs / "freeway"), "--out", str(tmp_path), "--repeats", "10"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG, check=False)
    assert result.stdout.splitlines()[-1:] == ["0 False"], result.stderr


class Browser:
    def __init__(self, folder: Path):
        self.folder = folder

    def look(self, page: Path, width: int, dark: bool) -> dict:
        """What the page is like in a window of this width, and a picture of all of it."""
        (self.folder / "page.html").write_text(page.read_text().replace("</body>", f"{MEASURE}</body>"))
        found = self._show(width, 900, dark, "--dump-dom")
        measured = json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', found, re.DOTALL)[1]))
        picture = self.folder / f"{width}_{'dark' if dark else 'light'}.png"
        self._show(width, measured["height"], dark, f"--screenshot={picture}")
        return {**measured, "picture": cv2.imread(str(picture))[:, :width]}

    def _show(self, width: int, height: int, dark: bool, action: str) -> str:
        frame = self.folder / "frame.html"
        frame.write_text(
            f"""<!doctype html><body style="margin: 0">
            <iframe src="page.html" style="border: 0; display: block; width: {width}px; height: {height}px"></iframe>
            <pre id="found"></pre>
            <script>onmessage = event => document.getElementById("found").textContent = event.data</script>"""
        )
        command = [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={self.folder / 'profile'}",
            f"--window-size={max(width, 500)},{height}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            action,
            frame.as_uri(),
        ]
        result = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
        assert result.returncode == 0, result.stderr[-2000:]
        return result.stdout


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("width, dark", [(390, False), (1280, True)])
def test_in_a_browser(built, tmp_path, width, dark):
    found = Browser(tmp_path).look(built / "index.html", width, dark)
    assert found["width"] == width
    assert found["scrollWidth"] <= width and found["overflowing"] == []
    tables = {name.removesuffix("-others") for name in found["tables"]}
    assert tables == {path.stem for path in (built / "tables").iterdir()}
    assert set(found["figures"]) == {path.stem for path in (built / "figures").iterdir()}
    assert found["smallest"] > 250
    assert found["images"] == []  # figures are drawn inline; an image would need a file
    assert [width for width, _ in found["videos"]] == [64, 64]
    assert all(values > 50 for _, values in found["videos"])  # noise is playing, not one colour
    assert found["wideBoxes"] >= (5 if width == 390 else 1)  # wide tables scroll in boxes of their own
    ground, *inks = (brightness(colour) for colour in (found["background"], *found["ink"]))
    assert (ground < 60) == dark
    assert all(abs(ink - ground) > 150 for ink in inks)
    picture = found["picture"]
    assert picture.shape == (found["height"], width, 3)
    assert abs(float(np.median(picture)) - ground) < 20 and picture.std() > 10


def brightness(colour: str) -> float:
    """Of an rgb() colour, 0 to 255."""
    return statistics.mean(map(int, re.findall(r"\d+", colour)[:3]))
