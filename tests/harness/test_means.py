import json

import pytest
import torch

from harness.means import MetricMeans


def test_means_since_the_last_reading_and_after_a_restore():
    means = MetricMeans()
    assert means.read() == {}
    for value in (1.0, 3.0):
        means.add({"a": torch.tensor(value), "b": torch.tensor(-value)})
    saved = json.loads(json.dumps(means.state()))  # as a checkpoint keeps it
    assert means.read() == {"a": 2.0, "b": -2.0}
    assert means.read() == {}
    unread = MetricMeans()
    unread.load_state(saved)
    assert unread.read() == {"a": 2.0, "b": -2.0}
    restored = MetricMeans()
    restored.load_state(saved)
    restored.add({"a": torch.tensor(8.0), "b": torch.tensor(0.0)})
    assert restored.read() == {"a": 4.0, "b": -4 / 3}


def test_updates_of_two_kinds_give_their_own_metrics():
    values, means, restored = torch.rand(6, 2, dtype=torch.float64), MetricMeans(), MetricMeans()
    for number, (both, odd) in enumerate(values):
        metrics = {"both": both.float(), **({"odd": odd} if number % 2 else {})}
        means.add(metrics)
        restored.add(metrics)
        metrics["both"].fill_(7)  # as the next replay of a recording does
        saved = json.loads(json.dumps(restored.state()))
        restored = MetricMeans()
        restored.load_state(saved)
    assert means.state() == restored.state()
    both, odd = values[:, 0].float().double().mean(), values[1::2, 1].mean()
    assert means.read() == pytest.approx({"both": both.item(), "odd": odd.item()}, rel=1e-12)
    assert means.read() == {} and means.state() == {}
