import pytest
import torch

from harness.seeding import Generators, derive_seed, numpy_generator


def test_purposes_and_seeds_have_streams_of_their_own():
    seeds = {derive_seed(seed, purpose) for seed in range(20) for purpose in ("a", "b", "c")}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "evaluation", 23) != derive_seed(1, "evaluation", 2, 3)


def test_the_same_on_every_machine():
    assert derive_seed(1, "mask") == 5727072557901501594
    assert numpy_generator(1, "exploration").integers(1000) == numpy_generator(1, "exploration").integers(1000)


def test_drawing_from_one_generator_leaves_the_others_alone():
    device = torch.device("cpu")
    first, second = (Generators(3, device, ("a", "b")) for _ in range(2))
    torch.rand(5, generator=first["a"])
    assert torch.equal(torch.rand(5, generator=first["b"]), torch.rand(5, generator=second["b"]))


def test_state_restores_the_stream():
    generators = Generators(3, torch.device("cpu"), ("a",))
    state = generators.state()
    drawn = torch.rand(5, generator=generators["a"])
    generators.load_state(state)
    assert torch.equal(torch.rand(5, generator=generators["a"]), drawn)


def test_another_kind_of_device_is_refused():
    generators = Generators(3, torch.device("cpu"), ("a",))
    with pytest.raises(ValueError, match="device=cuda"):
        generators.load_state({**generators.state(), "device": "cuda"})
