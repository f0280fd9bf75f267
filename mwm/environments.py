"""Tasks of Meta-world and DMControl as agents see them: one picture, repeated actions, episodes drawn from seeds.

`A` action size, `S` pixels a side. Simulators are imported inside the functions, as late as the OpenGL backend is
chosen. Nothing here imports torch: environment workers stay small.
"""

from functools import cached_property, partial
from typing import Any

import gymnasium
import numpy as np

from dmcontrol.config import EnvironmentConfig
from dmcontrol.environment import DMControlEnv, integration_state, set_integration_state, step_physics
from dmcontrol.rendering import choose_backend, prepare, renderer_name
from dmcontrol.tasks import named_tasks
from harness.own_environment import OwnEnvironment
from harness.seeding import environment_seed
from mwm.tasks import MANIPULATION_PREFIX, METAWORLD_TASKS, SUITE_PREFIX, require_task

CAMERA = "corner2"
CAMERA_POSITION = (0.75, 0.075, 0.7)  # nearer to the table than Meta-world's own
CAMERA_BY_DOMAIN = {"quadruped": 2}  # the others of DMControl look through their camera 0
POSITIONS = ("body_pos", "site_pos")  # all arrays of a Meta-world model that a reset changes
NUMBERS = (bool, int, float, np.generic)


def make_environment(config: Any, seed: int, episode: int, training: bool, pictures: bool = True) -> gymnasium.Env:
    """The training environment of a run, or that of episode `episode` of an evaluation.

    Observations are uint8 [3, S, S], actions float32 [A] in [-1, 1]. On Meta-world info["columns"] holds the episode's
    success so far. Without `pictures`, which Meta-world always has, observations stay blank. Raises ConfigError for a
    task whose simulator is missing and where nothing can render.
    """
    require_task(config.task)
    task, settings, own_seed = config.task, config.environment, environment_seed(seed, episode, training)
    if task.startswith(SUITE_PREFIX):
        return make_suite_task(task.removeprefix(SUITE_PREFIX), settings, own_seed, pictures)
    if task in METAWORLD_TASKS:
        make = partial(MetaworldTask, task, settings.image_size, settings.shadows)
    else:
        name = task.removeprefix(MANIPULATION_PREFIX)
        make = partial(ManipulationTask, name, settings.image_size, settings.shadows, pictures)
    return OwnEnvironment(task, config.environment_facts(training), own_seed, make)


def make_suite_task(name: str, settings: Any, seed: int, pictures: bool = True) -> DMControlEnv:
    """A task of DMControl's suite in the project's own environment."""
    domain, task_name = named_tasks()[name]
    config = EnvironmentConfig(
        image_size=settings.image_size,
        frame_stack=1,
        action_repeat=settings.action_repeat,
        camera=CAMERA_BY_DOMAIN.get(domain, 0),
        episode_env_steps=settings.episode_env_steps,
        shadow_size=0,
    )
    environment = DMControlEnv(domain, task_name, config, seed, pictures)
    if not settings.shadows:
        drop_shadows(environment.model)
    return environment


def drop_shadows(model: Any) -> None:
    """Takes shadows and reflections, most of a picture's cost in software, from a model's later pictures."""
    model.light_castshadow[:] = 0
    model.mat_reflectance[:] = 0


class MetaworldTask(gymnasium.Env):
    """A Meta-world task whose goal and objects are drawn anew in each episode.

    An action, float32 [4], is one environment step, an observation the simulator's own vector [39] with the goal.
    info["columns"] holds the success of the episode so far: 1 if any of its steps was one. `reset(seed)` decides all
    that follows. A fresh object that loads a `state()` goes on exactly.
    """

    def __init__(self, task: str, image_size: int, shadows: bool):
        choose_backend()
        from metaworld.env_dict import ENV_CLS_MAP

        self._size, self._successful = image_size, False
        self._task = ENV_CLS_MAP[f"{task.replace('_', '-')}-v3"]()
        self._task._partially_observable = False  # the goal is in the vector; the picture shows it in either case
        del self._task.sawyer_observation_space  # kept from before, it would cut the goal to zeros
        self._task._freeze_rand_vec, self._task.seeded_rand_vec = False, True  # goals from the seeded generator
        self._task._set_task_called = True
        model = self._task.model
        model.cam_pos[model.camera(CAMERA).id] = CAMERA_POSITION
        model.vis.global_.offwidth = model.vis.global_.offheight = image_size  # a larger one is cleared slower
        if not shadows:
            drop_shadows(model)
        self.action_space, self.observation_space = self._task.action_space, self._task.sawyer_observation_space
        self.render_mode = "rgb_array"
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": self._task.metadata["render_fps"]}

    @property
    def renderer(self) -> str:
        """Name of what renders the pictures."""
        from OpenGL import GL

        self._renderer.render()  # makes its context the current one
        return GL.glGetString(GL.GL_RENDERER).decode()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Starts an episode; without a `seed` the draws go on from the episode before."""
        super().reset(seed=seed)
        if seed is not None:
            self._task.seed(seed)
        observation, info = self._task.reset()
        self._successful = False
        return observation, self._info(info)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self._task.step(action)
        self._successful |= bool(info["success"])
        return observation, float(reward), terminated, truncated, self._info(info)

    def render(self) -> np.ndarray:
        """The picture uint8 [S, S, 3], upright: the camera hangs upside down, and the rows' order is reversed.

        Left and right stay exchanged, as in the pictures of the released code.
        """
        self._renderer.update_scene(self._task.data, camera=CAMERA)
        return self._renderer.render()[::-1]

    def close(self) -> None:
        if "_renderer" in vars(self):
            self._renderer.close()

    def state(self) -> dict:
        """Nested dict of JSON values and arrays."""
        task = self._task
        return {
            "successful": self._successful,
            "integration": integration_state(task.model, task.data),
            "positions": {name: getattr(task.model, name).copy() for name in POSITIONS},
            "numbers": {
                name: value.item() if isinstance(value, np.generic) else value
                for name, value in vars(task).items()
                if isinstance(value, NUMBERS)
            },
            "arrays": {name: value.copy() for name, value in vars(task).items() if is_own_array(value, task.data)},
        }

    def load_state(self, state: dict) -> None:
        """Takes over a `state()` of the same task. A reset comes first: arrays that view the physics arise there."""
        import mujoco

        self.reset(seed=0)
        task = self._task
        self._successful = state["successful"]
        for name in POSITIONS:
            getattr(task.model, name)[:] = np.asarray(state["positions"][name])
        arrays = {name: np.asarray(value).copy() for name, value in state["arrays"].items()}
        for name, value in {**state["numbers"], **arrays}.items():
            setattr(task, name, value)
        set_integration_state(task.model, task.data, state["integration"])
        mujoco.mj_forward(task.model, task.data)  # all that follows from the state, and another warm start
        set_integration_state(task.model, task.data, state["integration"])

    def _info(self, info: dict) -> dict:
        return {**info, "columns": {"success": float(self._successful)}}

    @cached_property
    def _renderer(self):
        import mujoco

        return mujoco.Renderer(self._task.model, self._size, self._size)


def is_own_array(value: Any, data: Any) -> bool:
    """Tells whether a value is an array, and no part of MuJoCo's data, which moves with the bodies."""
    parts = (data.xpos, data.site_xpos, data.geom_xpos)
    return isinstance(value, np.ndarray) and not any(np.shares_memory(value, part) for part in parts)


class ManipulationTask(gymnasium.Env):
    """A task of dm_control.manipulation: an arm on a table, its objects placed anew in each episode.

    An action, float32 [A] within the task's own bounds, is one environment step, an observation the task's features as
    one vector. `reset(seed)` decides all that follows. Raises NotFinite from a step at which the physics diverges.
    """

    def __init__(self, name: str, image_size: int, shadows: bool, pictures: bool):
        prepare(pictures)
        from dm_control import manipulation

        self._name, self._size, self._shadows, self._pictures = name, image_size, shadows, pictures
        self._task = manipulation.load(f"{name}_features", seed=0)
        bounds = self._task.action_spec()
        self.action_space = gymnasium.spaces.Box(
            bounds.minimum.astype(np.float32), bounds.maximum.astype(np.float32), dtype=np.float32
        )
        features = sum(int(np.prod(spec.shape)) for spec in self._task.observation_spec().values())
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (features,), np.float64)
        self.render_mode = "rgb_array"
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 1 / self._task.control_timestep()}

    @property
    def renderer(self) -> str:
        return renderer_name(self._task.physics)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Starts an episode; without a `seed` the draws go on from the episode before."""
        super().reset(seed=seed)
        if seed is not None:
            self._task.random_state.seed(seed)
        time_step = self._task.reset()
        if not self._shadows:
            drop_shadows(self._task.physics.model)  # every reset compiles the model anew
        return features_of(time_step), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        time_step = step_physics(self._task, action, self._name)
        terminated = time_step.last() and time_step.discount == 0
        truncated = time_step.last() and not terminated
        return features_of(time_step), float(time_step.reward), terminated, truncated, {}

    def render(self) -> np.ndarray:
        """The picture uint8 [S, S, 3] of the camera in front of the arm."""
        if not self._pictures:
            return np.zeros((self._size, self._size, 3), np.uint8)
        return self._task.physics.render(self._size, self._size, camera_id=0)

    def close(self) -> None:
        self._task.close()


def features_of(time_step: Any) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in time_step.observation.values()])
