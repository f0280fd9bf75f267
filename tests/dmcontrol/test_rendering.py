import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmcontrol import rendering
from dmcontrol.rendering import CHOICES
from harness.config import ConfigError

ROOT = Path(__file__).parents[2]
choose_backend = rendering.choose_backend.__wrapped__  # without its memory


@pytest.fixture
def unset(monkeypatch):
    """A shell in which nobody chose a backend."""
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID", "LP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that what the test sets is undone
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def without_drivers(unset, tmp_path):
    """A machine whose EGL finds no driver, and on which OSMesa does not come into question."""
    unset.delenv("__EGL_VENDOR_LIBRARY_FILENAMES", raising=False)
    unset.setenv("__EGL_VENDOR_LIBRARY_DIRS", str(tmp_path))
    unset.setenv("PYOPENGL_PLATFORM", "egl")
    return unset


@pytest.mark.parametrize(
    ("working", "chosen"), [({"egl", "osmesa"}, "egl"), ({"osmesa"}, "osmesa"), ({"egl", "glfw"}, "egl")]
)
def test_egl_comes_first_and_osmesa_is_second(unset, working, chosen):
    unset.setattr(rendering, "renders", lambda backend: backend in working)
    assert choose_backend() == chosen
    assert os.environ["MUJOCO_GL"] == chosen


@pytest.mark.parametrize(
    ("visible", "order", "there", "drawing"),
    [("2", "PCI_BUS_ID", True, "2"), ("2", "PCI_BUS_ID", False, None), ("2", "FASTEST_FIRST", True, None),
     ("0,1", "PCI_BUS_ID", True, None), ("GPU-1f", "PCI_BUS_ID", True, None)],
)  # fmt: skip
def test_a_run_with_one_gpu_draws_on_it(unset, visible, order, there, drawing):
    unset.setenv("CUDA_VISIBLE_DEVICES", visible)
    unset.setenv("CUDA_DEVICE_ORDER", order)
    unset.setattr(rendering, "renders", lambda backend: there or rendering.EGL_DEVICE not in os.environ)
    assert choose_backend() == "egl"
    assert os.environ.get(rendering.EGL_DEVICE) == drawing


def test_the_users_choice_is_taken(unset):
    unset.setattr(rendering, "renders", lambda backend: True)
    unset.setenv("MUJOCO_GL", "osmesa")
    assert choose_backend() == "osmesa"
    assert os.environ["MUJOCO_GL"] == "osmesa"


@pytest.mark.parametrize("name", ["vulkan", "off"])
def test_a_backend_that_does_not_exist_is_refused(unset, name):
    unset.setenv("MUJOCO_GL", name)
    with pytest.raises(ConfigError, match=f"^MUJOCO_GL={name} is not one of egl, osmesa, glfw$"):
        choose_backend()


def test_software_rendering_keeps_to_one_thread_unless_told(unset):
    unset.setattr(rendering, "renders", lambda backend: True)
    choose_backend()
    assert os.environ["LP_NUM_THREADS"] == "0"
    unset.setenv("LP_NUM_THREADS", "4")
    choose_backend()
    assert os.environ["LP_NUM_THREADS"] == "4"


def test_a_machine_without_a_driver_is_told_what_to_install(without_drivers):
    with pytest.raises(ConfigError, match=r"^no OpenGL backend .*apt-get install libegl1 libgl1 \(or libosmesa6\)"):
        choose_backend()
    without_drivers.setenv("MUJOCO_GL", "egl")
    with pytest.raises(ConfigError, match="^MUJOCO_GL=egl does not render .*apt-get install libegl1 libgl1, or leave"):
        choose_backend()


def test_an_environment_without_a_driver_is_refused_in_one_line(without_drivers):
    program = (
        "from dmcontrol.config import EnvironmentConfig\nfrom dmcontrol.environment import DMControlEnv\n"
        "DMControlEnv('reacher', 'easy', EnvironmentConfig(16, 3, 4, 0, 1000, 0), seed=1)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    refusal = "harness.config.ConfigError: no OpenGL backend renders on this machine"
    assert done.stderr.splitlines()[-1].startswith(refusal)


@pytest.mark.parametrize("probe", ["import os; os.abort()", "import time; time.sleep(30)", "raise SystemExit(1)"])
def test_a_driver_that_crashes_or_hangs_does_not_render(monkeypatch, probe):
    monkeypatch.setattr(rendering, "PROBE", probe)
    monkeypatch.setattr(rendering, "PROBE_SECONDS", 0.5)
    assert not rendering.renders("egl")


@pytest.mark.gl
def test_the_renderer_has_the_name_that_opengl_gives_it():
    from dm_control import _render, suite
    from OpenGL import GL

    physics = suite.load("pendulum", "swingup").physics
    name = rendering.renderer_name(physics)
    physics.free()
    with _render.Renderer(8, 8).make_current() as context:
        assert name == context.call(GL.glGetString, GL.GL_RENDERER).decode() != ""


def test_software_beside_a_gpu_is_worth_a_word():
    with_advice, software, card = rendering.with_advice, "llvmpipe (LLVM 15.0.6, 256 bits)", "NVIDIA H200/PCIe/SSE2"
    assert with_advice(software, "cuda").startswith(f"{software}: slow")
    assert with_advice(software, "cpu") == software
    assert with_advice(card, "cuda") == card


@pytest.mark.gl
@pytest.mark.parametrize("backend, name", [("", CHOICES[0]), ("egl", CHOICES[0]), ("egl", CHOICES[1])])
def test_a_wrong_choice_is_named_before_what_is_installed_already(unset, backend, name):
    value = {"PYOPENGL_PLATFORM": "nonsense", "MUJOCO_EGL_DEVICE_ID": "99"}[name]
    unset.setenv("MUJOCO_GL", backend)
    unset.setenv(name, value)
    with pytest.raises(ConfigError, match=f"this machine: unset {name}={value}, or else apt-get install"):
        choose_backend()


def test_the_probe_asks_also_without_assertions():
    assert "assert" not in rendering.PROBE


@pytest.mark.gl
def test_triton_loads_after_a_picture_was_rendered():
    pytest.importorskip("triton")
    code = "import torch; from dmcontrol.environment import load_from_suite as load; "
    code += "load('cartpole', 'swingup', 0).physics.render(8, 8); import torch._dynamo, triton; print('done')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
