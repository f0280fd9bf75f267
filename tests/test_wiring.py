"""How environment, loop, replay and agent are wired: a scripted environment numbers its frames, and what arrives where
is compared with what the environment showed and what the agent did.

Reference updates of other tests replace views, masks and noise, and so cannot see whether they are connected.
"""

from contextlib import closing
from dataclasses import dataclass, replace

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from auxiliaries.slot import Reads
from harness.agent import Agent
from harness.loop import Parts, TrainingLoop
from harness.parts import evaluate_weights
from harness.schedule import ReplayRatio
from harness.weights import write_weights
from tests.conftest import make_config, make_dmcontrol_config
from tests.operations import make_agent_and_replay
from tests.recipes import ATARI, DMCONTROL

CPU = torch.device("cpu")
SUITES = {"atari": (ATARI, make_config), "dmcontrol": (DMCONTROL, make_dmcontrol_config)}
STEPS = 60
# Last steps of episodes, and steps at which a life is lost, counted over all episodes.
ENDS = {9: "terminated", 19: "truncated", 34: "terminated", 41: "truncated"}
LIVES_LOST = {4, 24, 25}


class Numbered(gymnasium.Env):
    """Shows pictures that tell their number, and remembers all that passed. The raw reward is -10 times the reward.

    With `ends` empty and `numbered` false it shows one picture for ever, in an episode without an end.
    """

    def __init__(self, config, ends=ENDS, numbered=True):
        self.shape = config.observation_shape
        self.channels = self.shape[0] // config.environment.frame_stack
        self.zeros_before_the_first = config.suite == "atari"
        self.ends, self.numbered, self.number = ends, numbered, 0
        self.steps, self.observation = [], None

    def reset(self, *, seed=None, options=None):
        self._show(first=True)
        return self.observation, {}

    def step(self, action):
        index, before = len(self.steps), self.observation
        end, life_lost = self.ends.get(index), bool(self.ends) and index in LIVES_LOST
        self._show(first=life_lost and self.zeros_before_the_first)
        reward = 0.25 * (index + 1)
        step = Step(before, action, reward, self.observation, end == "terminated", end == "truncated", life_lost)
        self.steps.append(step)
        info = {"raw_reward": -10 * reward, "life_lost": life_lost}
        return self.observation, reward, step.terminated, step.truncated, info

    def _show(self, first):
        rows, columns = np.indices(self.shape[1:])
        picture = np.stack([rows * 7 + columns * 13 + 50 * channel for channel in range(self.channels)])
        self.number += self.numbered
        picture = ((picture + 31 * self.number) % 256).astype(np.uint8)
        if first or self.observation is None:
            stack = self.shape[0] // self.channels
            padding = np.zeros_like(picture) if self.zeros_before_the_first and self.numbered else picture
            self.observation = np.concatenate([*[padding] * (stack - 1), picture])
        else:
            self.observation = np.concatenate([self.observation[self.channels :], picture])


@dataclass
class Step:
    observation: np.ndarray
    action: int | np.ndarray
    reward: float  # for learning
    following: np.ndarray
    terminated: bool
    truncated: bool
    life_lost: bool


class Scripted(Agent):
    """An agent that takes another action at each step, and remembers what it was shown."""

    def __init__(self, discrete):
        self.discrete, self.shown = discrete, []

    def act(self, observation, step, first):
        self.shown.append((observation, step, first))
        return step % 6 if self.discrete else np.array([step / 100], np.float32)

    def update(self, replay, step, kind):
        pytest.fail("no update is due")


def played(name, config, replay, order="released", **script):
    """Environment, agent and loop after STEPS steps without updates."""
    environment, agent = Numbered(config, **script), Scripted(name == "atari")
    parts = Parts(agent, environment, replay, ReplayRatio(0, 0), None, None, [])
    loop = TrainingLoop(parts, order)
    loop.start()
    for _ in range(STEPS):
        loop.step()
    return environment, agent, loop


@pytest.fixture(params=["overlapped", "released"])
def order(request):
    return request.param


# From the environment to the replay


@pytest.mark.parametrize("name", SUITES)
def test_the_agent_sees_each_observation_and_where_episodes_begin(name, order):
    recipe, make = SUITES[name]
    config = make("unused", "auxiliary=none")
    environment, agent, loop = played(name, config, make_agent_and_replay(recipe, config, CPU)[1], order)
    begins = {0} | {end + 1 for end in ENDS}
    for index, ((observation, step, first), passed) in enumerate(zip(agent.shown, environment.steps, strict=True)):
        assert np.array_equal(observation, passed.observation)
        assert (step, first) == (index, index in begins)
    episodes = np.split(np.arange(1, STEPS + 1), sorted(end + 1 for end in ENDS))
    assert loop.position.finished == [-2.5 * steps.sum() for steps in episodes[:-1]]  # raw returns
    assert loop.position.episode_return == -2.5 * episodes[-1].sum() and loop.position.episodes == len(ENDS)


def test_atari_s_replay_gives_what_was_shown_and_done(order):
    config = make_config("unused", "auxiliary=none")
    replay = make_agent_and_replay(ATARI, config, CPU)[1]
    passed = played("atari", config, replay, order)[0].steps
    reads = Reads("windows", config.replay.window, ("frames", "actions", "rewards", "first", "ended"))
    starts = range(replay.history, STEPS - replay.lag)
    batch = replay.gather(torch.tensor(starts), 1.0, reads)
    for place, start in enumerate(starts):
        assert np.array_equal(batch.obs[place], passed[start].observation)
        window = passed[start : start + config.replay.window]
        over = False
        for t, step in enumerate(window):
            if not over:
                assert np.array_equal(batch.frames[t, place], step.observation)
                assert batch.rewards[t, place] == step.reward
            begins = start + t == 0 or ended(passed[start + t - 1])
            assert (batch.actions[t, place], batch.first[t, place]) == (step.action, begins)
            over = over or ended(step)
            assert batch.ended[t, place] == over
    flags = replay.rows(0, STEPS)["flags"]
    assert flags.tolist() == [[step.terminated, step.truncated, step.life_lost] for step in passed]


def ended(step):
    return step.terminated or step.truncated or step.life_lost


def test_dmcontrol_s_replay_gives_what_was_shown_and_done(order):
    config = make_dmcontrol_config("unused", "auxiliary=none")
    replay = make_agent_and_replay(DMCONTROL, config, CPU)[1]
    passed = played("dmcontrol", config, replay, order)[0].steps
    by_picture = {step.observation.tobytes(): index for index, step in enumerate(passed)}
    generator = torch.Generator().manual_seed(1)
    batch, seen = replay.sample(1000, generator), set()
    for place in range(1000):
        index = by_picture[batch.obs[place].numpy().tobytes()]
        seen.add(index)
        step = passed[index]
        assert np.array_equal(batch.next_obs[place], step.following)
        assert (batch.reward[place], batch.action[place].numpy()) == (step.reward, step.action)
        assert batch.bootstrap[place] == (not step.terminated)
    assert seen == set(range(STEPS))
    reads = Reads("windows", config.replay.window, ("frames", "actions", "rewards", "first", "ended"))
    windows = replay.windows(200, generator, reads)
    for place in range(200):
        start = by_picture[windows.frames[0, place].numpy().tobytes()]
        for t, step in enumerate(passed[start : start + config.replay.window]):
            assert np.array_equal(windows.frames[t, place], step.observation)
            assert (windows.actions[t, place], windows.rewards[t, place]) == (step.action, step.reward)
            assert windows.first[t, place] == (start + t == 0 or start + t - 1 in ENDS)
            assert windows.ended[t, place] == (start + t in ENDS)


# From the replay to the networks


def filled(name, *overrides, **script):
    recipe, make = SUITES[name]
    config = make("unused", *overrides)
    agent, replay = make_agent_and_replay(recipe, config, CPU)
    played(name, config, replay, **script)
    return config, agent, replay


def test_an_update_writes_the_priorities_of_its_batch():
    config, agent, replay = filled("atari", "auxiliary=none", "agent.batch_size=12")
    learn, learned = agent.learn, []

    def learning(batch):
        kl, metrics = learn(batch)
        learned.append((batch.indices.tolist(), kl.tolist()))
        return kl, metrics

    agent.learn = learning
    expected = replay.priorities.leaves.tolist()
    for step in (STEPS, STEPS + 1):
        agent.update(replay, step, "update")
        for slot, kl in reversed(list(zip(*learned[-1], strict=True))):  # a slot that occurs twice takes the first
            expected[slot] = kl**config.replay.alpha
        assert replay.priorities.leaves.tolist() == pytest.approx(expected, rel=1e-6)
    assert len(set(expected)) > 10


def test_beta_rises_from_its_first_to_its_last_value_and_weights_follow():
    config, agent, replay = filled("atari", "auxiliary=none", "agent.batch_size=8")
    replay.priorities.leaves.mul_(torch.rand(replay.capacity, generator=torch.Generator().manual_seed(1)).double())
    sample, betas = replay.sample, []

    def sampling(*arguments):
        batch = sample(*arguments)
        weights = replay.priorities.leaves[batch.indices] + config.replay.priority_eps
        betas.append(-np.polyfit(weights.log(), batch.weights.double().log(), 1)[0])
        return batch

    replay.sample = sampling
    start, end = config.loop.learning_starts, config.agent_steps
    steps = np.linspace(start, end - 1, 5).astype(int)
    for step in steps:
        agent.update(replay, int(step), "update")
    assert betas == pytest.approx([0.4 + 0.6 * max(step - 1 - start, 0) / (end - start) for step in steps], abs=1e-3)
    assert betas[0] == pytest.approx(0.4, abs=1e-3) and betas[-1] > 0.97


def test_the_auxiliary_s_weight_scales_its_share_of_atari_s_gradients():
    gradients = []
    for weight in (1, 2, 3):
        _, agent, replay = filled("atari", f"mlr.weight={weight}", "agent.clip_norm=1e9")
        agent.update(replay, STEPS, "update")
        modules = (agent.encoder, agent.auxiliary.owned["decoder"], agent.auxiliary.owned["predictor"])
        gradients.append([torch.cat([p.grad.flatten() for p in module.parameters()]) for module in modules])
    for one, two, three in zip(*gradients, strict=True):
        assert not torch.equal(one, two)
        torch.testing.assert_close(three - two, two - one, rtol=1e-3, atol=1e-4 * float(one.abs().max()))
    for one, two, _ in list(zip(*gradients, strict=True))[1:]:  # of the auxiliary alone
        torch.testing.assert_close(two, 2 * one, rtol=1e-3, atol=1e-5 * float(one.abs().max()))


class Inputs:
    """Pixels that a module receives, call by call."""

    def __init__(self, module):
        self.calls = []
        module.register_forward_pre_hook(lambda module, inputs: self.calls.append(inputs[0].detach().clone()))

    def take(self):
        calls, self.calls = self.calls, []
        return calls


def views(name, agent):
    """A function that makes an update and gives the pixels of its views by name."""
    online = Inputs(agent.encoder if name == "atari" else agent.encoder.convolutions)
    target = Inputs(agent.auxiliary.targets["encoder"])

    def update(replay, step):
        agent.update(replay, step, "update")
        calls, (whole,) = online.take(), target.take()
        if name == "atari":
            obs, following, masked = calls
            target_view, online_view = following.chunk(2)
            return {"obs": obs, "next": target_view, "next online": online_view, "masked": masked, "whole": whole}
        following, obs, masked = calls[:3]
        return {"obs": obs, "next": following, "masked": masked, "whole": whole}

    return update


@pytest.mark.parametrize("name", SUITES)
def test_every_view_is_augmented_on_its_own(name):
    """The replay holds one picture, so whatever differs between two pixels inputs comes from augmentation."""
    config, agent, replay = filled(name, "agent.batch_size=6", ends={}, numbered=False)
    mask = agent.auxiliary.objective.mask()
    agent.auxiliary.objective.mask = lambda: torch.zeros_like(mask)  # hides nothing
    update, seen = views(name, agent), []
    for step in (STEPS, STEPS + 1):
        found = update(replay, step)
        for view, images in found.items():
            assert len(images.unique(dim=0)) > 1, f"all images of {view} are alike"
        seen += [images[:6] for images in found.values()]
    for index, images in enumerate(seen):
        for other in seen[:index]:
            assert not torch.equal(images, other), "two views, or a view of two updates, are alike"


@pytest.mark.parametrize("name, auxiliary", [
    (name, auxiliary) for name in SUITES for auxiliary in ("spr", "playvirtual", "curl")
])  # fmt: skip
def test_targets_of_every_auxiliary_see_a_view_of_their_own(name, auxiliary):
    """The replay holds one picture, as above."""
    config, agent, replay = filled(name, f"auxiliary={auxiliary}", "agent.batch_size=6", ends={}, numbered=False)
    online, seen = Inputs(agent.encoder if name == "atari" else agent.encoder.convolutions), []
    target = Inputs(agent.auxiliary.targets["encoder"] if agent.auxiliary.targets else agent.target_encoder)
    for step in (STEPS, STEPS + 1):
        agent.update(replay, step, "update")
        targets, others = target.take()[-1:], online.take()
        assert len(targets[0].unique(dim=0)) > 1
        assert not any(torch.equal(targets[0][:6], batch[:6]) for batch in others)
        seen += targets
    assert not torch.equal(*seen)


@pytest.mark.parametrize("name", SUITES)
def test_every_update_draws_a_mask(name, monkeypatch):
    from mlr import objective

    _, agent, replay = filled(name)
    hide, masks = objective.hide, []
    monkeypatch.setattr(objective, "hide", lambda frames, mask: masks.append(mask) or hide(frames, mask))
    for step in range(STEPS, STEPS + 4):
        agent.update(replay, step, "update")
    assert len(masks) == 4 and len({mask.numpy().tobytes() for mask in masks}) == 4
    assert all(0 < mask.float().mean() < 1 for mask in masks)


@pytest.mark.parametrize("name", SUITES)
def test_the_mask_hides_pixels_of_the_masked_view_alone(name):
    _, agent, replay = filled(name, ends={}, numbered=False)
    update, hides_all = views(name, agent), torch.ones_like(agent.auxiliary.objective.mask())
    for step, mask in ((STEPS, hides_all), (STEPS + 1, ~hides_all)):
        agent.auxiliary.objective.mask = lambda mask=mask: mask
        found = update(replay, step)
        assert found["masked"].any() != mask.any() and found["whole"].any()


# Evaluation


@pytest.mark.parametrize("name", SUITES)
def test_a_player_takes_no_noise(name, tmp_path):
    """Neither a second call nor larger deviations change its actions; the means do."""
    _, make = SUITES[name]
    config, agent, replay = filled(name, "auxiliary=none", *["evaluation.epsilon=0"] * (name == "atari"))
    path = tmp_path / "weights" / "000000001.safetensors"
    write_weights(agent.acting, path)
    observations = np.random.default_rng(0).integers(0, 256, (20, *config.observation_shape), np.uint8)
    first, tensors = np.ones(20, bool), load_file(path)
    deviations = [key for key in tensors if "sigma" in key] if name == "atari" else ["actor.policy.4"]
    assert deviations
    method = SUITES[name][0].method

    def play(changed):
        save_file(changed, path)
        player = method.make_player(config, path, 1, CPU)
        actions = player(observations, first)
        assert np.array_equal(actions, player(observations, first))
        return actions

    actions = play(tensors)
    if name == "atari":
        louder = {key: 50 * value if key in deviations else value for key, value in tensors.items()}
        means = {key: -value if "out.mean" in key else value for key, value in tensors.items()}
    else:
        half = torch.tensor([1.0] * agent.action_size + [9.0] * agent.action_size)
        scale = {"actor.policy.4.weight": half[:, None], "actor.policy.4.bias": half}
        louder = {key: value * scale.get(key, 1) for key, value in tensors.items()}
        means = {key: value * (-1 if key in scale else 1) for key, value in tensors.items()}
    assert np.array_equal(play(louder), actions)
    assert not np.array_equal(play(means), actions)


@pytest.mark.parametrize("name", ["atari", pytest.param("dmcontrol", marks=pytest.mark.gl)])
def test_evaluation_environments_do_not_continue_the_training_s(name, tmp_path):
    recipe, make = SUITES[name]
    short = {
        "atari": ["evaluation.horizon=2"],
        "dmcontrol": ["environment.episode_env_steps=16", "replay.window=1", "loop.learning_starts=8"],
    }
    config = make(tmp_path, "auxiliary=none", *short[name])
    streams = []

    def make_environment(*arguments, **named):
        environment = recipe.suite.make_environment(*arguments, **named)
        streams.append(random_stream(environment.state()))
        return environment

    with closing(make_environment(config, config.seed, 0, True)):
        agent, _ = make_agent_and_replay(recipe, config, CPU)
        path = tmp_path / "weights" / "000000001.safetensors"
        path.parent.parent.mkdir(exist_ok=True)
        write_weights(agent.acting, path)
        spying = replace(recipe, suite=replace(recipe.suite, make_environment=make_environment))
        for index in (0, 1):
            evaluate_weights(config, spying, CPU, path, index, None, lambda finished: None)
    assert len(streams) == 5 and len(set(streams)) == 5, "two environments draw the same random numbers"


def random_stream(state):
    """What the random start of an episode is drawn from."""
    if "random" in state:
        return str(state["random"]["state"]["key"].tolist())
    return str([np.asarray(value).tolist() for key, value in sorted(state.items()) if key.startswith("noop")])
