import json

import torch

from mlr.training.means import MetricMeans


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
