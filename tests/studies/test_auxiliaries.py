"""The table and the picture that set the auxiliaries side by side."""

import pytest

from auxiliaries import AUXILIARIES
from studies import auxiliaries as study
from tests.conftest import ROOT


def test_costs_of_curl_are_those_counted_by_hand():
    """At preset=tiny: B 4, latent 16, two convolutions of 4 filters on 34 pixels; the key has no gradient."""
    found = study.cost("dmcontrol", "tiny", "curl")
    convolutions = 4 * 9 * (9 * 16**2 + 4 * 7**2)
    first, linear = 4 * 9 * 9 * 16**2, 4 * 7**2 * 16
    online = 3 * (convolutions + linear) - first  # the input of the first layer needs no gradient
    contrast = 3 * 4 * 16 * 4 + 2 * 16 * 16 * 4  # anchors with W z_k, and W with the keys, whose gradient is not needed
    assert found.parameters == 16**2
    assert found.added == 2 * (4 * (online + convolutions + linear) + contrast)


def test_what_a_suite_does_not_have_costs_nothing():
    assert study.cost("atari", "tiny", "autoencoder") is None


def test_the_page_has_every_auxiliary_and_its_numbers(monkeypatch, tmp_path):
    assert AUXILIARIES.keys() <= study.DESCRIPTIONS.keys()
    page = (ROOT / "docs" / "auxiliaries.md").read_text()
    header = page.split(study.BEGIN)[1].splitlines()[1]
    labels = [each.label for name, each in study.DESCRIPTIONS.items() if name in AUXILIARIES]
    assert header == f"|  | {' | '.join(labels)} |"
    baseline = study.cost("dmcontrol", "cpu", "none").operations
    curl = study.gflop(study.cost("dmcontrol", "cpu", "curl").added)
    (row,) = [
        line
        for line in page.splitlines()
        if line.startswith(f"| DMControl `cpu`: GFLOP added to {study.gflop(baseline)}")
    ]
    assert row.split(" | ")[1 + labels.index("CURL")].strip() == f"+{curl}"


def test_the_table_goes_between_the_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{study.BEGIN}\nold\n{study.END}\nafter\n")
    study.write_docs(page, [["", "A"], ["x", "1"]])
    assert page.read_text() == f"before\n{study.BEGIN}\n|  | A |\n|---|---|\n| x | 1 |\n{study.END}\nafter\n"


@pytest.mark.parametrize("name", study.DESCRIPTIONS)
def test_every_arrow_joins_boxes_and_every_box_leads_to_a_loss(name):
    description = study.DESCRIPTIONS[name]
    following = {start: [] for start in range(len(description.boxes))}
    for start, end in description.arrows:
        following[start].append(end)
    for start, box in enumerate(description.boxes):
        place = start
        while following[place]:
            place = following[place][-1]
        assert description.boxes[place].kind == "loss", box.text


def test_the_picture_is_drawn(tmp_path):
    study.draw(tmp_path / "flows.png")
    assert (tmp_path / "flows.png").stat().st_size > 10_000
