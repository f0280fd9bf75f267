"""Tasks of the DeepMind control suite from pixels: action repeat, frame stack, exact state.

`A` action size, `K` stacked frames, `H, W` pixels. dm_control and mujoco are imported inside the functions, as late as
the OpenGL backend is chosen. Nothing here imports torch: environment workers stay small.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np

from dmcontrol.config import RGB, DMControlConfig, EnvironmentConfig
from dmcontrol.rendering import prepare, renderer_name
from dmcontrol.tasks import require_task
from harness.config import require
from harness.errors import NotFinite
from harness.seeding import environment_seed
from harness.spans import span

RENDER_SCALE = 3  # render() gives a picture this many times larger than an observation: its pictures are for people
FIXED_ARRAYS = ("tex_", "mesh_", "skin_", "bvh_")  # prefixes of a model's arrays that no task changes; megabytes


class DMControlEnv(gymnasium.Env):
    """One task of the suite with the conventions of dmc2gym: repeated actions, the last frames as observation.

    Observations are uint8 [3K, H, W], old to new; actions float32 [A] in [-1, 1]. The reward is the sum over the
    repeated environment steps. An episode that ends with discount 0 is terminated, one that ends with another is
    truncated. Only the task's random state, which `seed` starts and resets continue, drives the physics. Without
    `pictures` observations stay blank. Raises ConfigError for an unknown task or camera and where nothing can render,
    NotFinite from a step at which the physics diverges.
    """

    def __init__(self, domain: str, task_name: str, config: EnvironmentConfig, seed: int, pictures: bool = True):
        require_task(domain, task_name)
        self.task = f"{domain}_{task_name}"
        self.render_mode = "rgb_array"
        self._config, self._pictures = config, pictures
        self._suite = load_from_suite(domain, task_name, seed, pictures)
        model = self._physics.model
        require(
            config.camera < model.ncam,
            f"environment.camera={config.camera}: {domain} has the cameras 0 to {model.ncam - 1}",
        )
        # The suite has no public way to these: dm_control is pinned to the version whose private names are used here.
        self._suite._step_limit = config.episode_env_steps
        if config.shadow_size:
            model.vis.quality.shadowsize = config.shadow_size
        # The framebuffer is made with the first picture, and a larger one than needed takes time to clear.
        model.vis.global_.offwidth = model.vis.global_.offheight = RENDER_SCALE * config.image_size
        self._built = {name: array.copy() for name, array in model_arrays(self._physics)}
        self._stack = np.zeros((RGB * config.frame_stack, config.image_size, config.image_size), dtype=np.uint8)
        bounds = self._suite.action_spec()
        self._low, self._high = bounds.minimum, bounds.maximum
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, bounds.shape, np.float32, seed=seed)
        self.observation_space = gymnasium.spaces.Box(0, 255, self._stack.shape, np.uint8)
        self.fps = 1 / (self._suite.control_timestep() * config.action_repeat)  # agent steps per simulated second
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": self.fps}

    @property
    def renderer(self) -> str:
        """Name of the renderer, such as a GPU's."""
        return renderer_name(self._physics)

    @property
    def model(self) -> Any:
        """Physics' model; later pictures show what is changed in it."""
        return self._physics.model

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Starts an episode; a `seed` starts the task's draws over, as in an environment that is built with it."""
        super().reset(seed=seed)
        if seed is not None:
            self._suite.task.random.seed(task_seed(seed))
        self._suite.reset()
        self._stack.reshape(-1, RGB, *self._stack.shape[1:])[:] = self._frame()
        return self._stack.copy(), {"physics_state": self._physics.get_state(), "discount": 1.0, "raw_reward": 0.0}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Repeats the action until the episode ends; `info["physics_state"]` is from before the step."""
        if not self.action_space.contains(action):
            raise ValueError(f"action {action} is not in {self.action_space}")
        if self._suite._reset_next_step:
            raise gymnasium.error.ResetNeeded("the episode is over, or none was started: call reset()")
        physics_state = self._physics.get_state()
        share = (action.astype(np.float64) + 1) / 2  # 0 at the task's lower bounds, 1 at its upper ones
        control, reward = (share * (self._high - self._low) + self._low).astype(np.float32), 0.0
        for _ in range(self._config.action_repeat):
            time_step = step_physics(self._suite, control, self.task)
            reward += time_step.reward or 0.0  # a task may give None
            if time_step.last():
                break
        self._stack[:-RGB] = self._stack[RGB:]
        self._stack[-RGB:] = self._frame()
        terminated = time_step.last() and time_step.discount == 0
        truncated = time_step.last() and not terminated
        info = {"physics_state": physics_state, "discount": float(time_step.discount), "raw_reward": float(reward)}
        return self._stack.copy(), float(reward), terminated, truncated, info

    def render(self) -> np.ndarray:
        """Current picture of the observations' camera, uint8 [3H, 3W, 3]."""
        return self._large_camera.render().copy()

    def close(self) -> None:
        """Gives the memory of the physics and of its rendering context back; the environment is of no use then."""
        self._physics.free()

    def state(self) -> dict:
        """Nested dict of JSON values and numpy arrays; a fresh object that loads it goes on exactly."""
        task = vars(self._suite.task)
        return {
            "task": self.task,
            "physics": physics_state(self._physics),
            "model": {
                name: array.copy()
                for name, array in model_arrays(self._physics)
                if not np.array_equal(array, self._built[name])
            },
            "attributes": {name: value for name, value in task.items() if name != "_random"},
            "random": self._suite.task.random.get_state(legacy=False),
            "step_count": self._suite._step_count,
            "reset_next_step": self._suite._reset_next_step,
            "stack": self._stack.copy(),
            "action_space": self.action_space.np_random.bit_generator.state,
        }

    def load_state(self, state: dict) -> None:
        """Takes over a `state()` of the same task and settings; raises ValueError for another task's."""
        if state["task"] != self.task:
            raise ValueError(f"the state is of {state['task']}, this environment is of {self.task}")
        changed = state.get("model", {})  # most tasks change nothing, and a checkpoint has no place for an empty dict
        for name, array in model_arrays(self._physics):
            array[...] = changed.get(name, self._built[name])
        load_physics_state(self._physics, state["physics"])
        for name, value in state["attributes"].items():
            setattr(self._suite.task, name, np.asarray(value) if hasattr(value, "__array__") else value)
        generator = state["random"]["state"]
        self._suite.task.random.set_state(
            state["random"] | {"state": {"key": np.asarray(generator["key"]), "pos": generator["pos"]}}
        )
        self._suite._step_count = state["step_count"]
        self._suite._reset_next_step = state["reset_next_step"]
        self._stack[:] = np.asarray(state["stack"])
        self.action_space.np_random.bit_generator.state = state["action_space"]

    @property
    def _physics(self):
        return self._suite.physics

    @cached_property
    def _camera(self):
        return make_camera(self._physics, self._config.image_size, self._config.camera)

    @cached_property
    def _large_camera(self):
        return make_camera(self._physics, RENDER_SCALE * self._config.image_size, self._config.camera)

    def _frame(self) -> np.ndarray | np.uint8:
        """The current picture, uint8 [3, H, W], in memory that the next one overwrites."""
        if not self._pictures:
            return np.uint8(0)
        with span("render"):
            return self._camera.render().transpose(2, 0, 1)


def make_environment(
    config: DMControlConfig, seed: int, episode: int, training: bool, pictures: bool = True
) -> DMControlEnv:
    """Evaluation episodes have environments of their own, whose starts depend on `seed` and `episode` alone.

    Without `pictures` it needs no OpenGL.
    """
    seed = environment_seed(seed, episode, training)
    return DMControlEnv(config.domain, config.task_name, config.environment, seed, pictures)


def load_from_suite(domain: str, task_name: str, seed: int, pictures: bool = True):
    prepare(pictures)
    from dm_control import suite

    return suite.load(domain, task_name, task_kwargs={"random": task_seed(seed)})


def task_seed(seed: int) -> int:
    """Seed of a task's random state, which has room for 32 bits."""
    return seed % 2**32


def make_camera(physics, size: int, camera: int):
    from dm_control.mujoco import Camera

    return Camera(physics, height=size, width=size, camera_id=camera)


def model_arrays(physics) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of a physics' model that a task may change, by name; writing to one changes the model."""
    model = physics.model.ptr
    for name in dir(model):
        if not name.startswith(("_", *FIXED_ARRAYS)) and isinstance(getattr(model, name), np.ndarray):
            yield name, getattr(model, name)


def step_physics(suite: Any, control: np.ndarray, name: str) -> Any:
    """Time step of an environment of dm_control. Raises NotFinite where the physics of the task `name` diverges."""
    from dm_control.rl.control import PhysicsError

    try:
        return suite.step(control)
    except PhysicsError as error:
        raise NotFinite(f"the physics of {name} diverged: {error}") from error


def integration_state(model: Any, data: Any) -> np.ndarray:
    """All that MuJoCo's integration reads, bodies that follow the action and the solver's warm start included."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION.value
    values = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, values, kind)
    return values


def set_integration_state(model: Any, data: Any, values: Any) -> None:
    import mujoco

    mujoco.mj_setState(model, data, np.asarray(values), mujoco.mjtState.mjSTATE_INTEGRATION.value)


def physics_state(physics) -> dict[str, np.ndarray]:
    """The integration's state and the sensors, which were read before the step was complete."""
    model, data = physics.model.ptr, physics.data.ptr
    return {"integration": integration_state(model, data), "sensors": data.sensordata.copy()}


def load_physics_state(physics, state: dict) -> None:
    """Takes over a `physics_state()` and all that follows from it, also in the rendering context."""
    import mujoco

    model, data = physics.model.ptr, physics.data.ptr
    set_integration_state(model, data, state["integration"])
    mujoco.mj_step1(model, data)  # computes the quantities that follow from the state, as a step of dm_control ends
    data.sensordata[:] = np.asarray(state["sensors"])
    with physics.contexts.gl.make_current() as context:
        for field in range(model.nhfield):  # a context has its own copy of a terrain
            context.call(mujoco.mjr_uploadHField, model, physics.contexts.mujoco.ptr, field)
