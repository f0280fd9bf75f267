"""The OpenGL backend that renders the pictures. It has to be chosen before dm_control is imported."""

import functools
import os
import subprocess
import sys

from harness.config import ConfigError, require
from harness.libraries import load_triton_first

PACKAGES = {"egl": "libegl1 libgl1", "osmesa": "libosmesa6", "glfw": "libglfw3"}  # Debian packages by backend
EGL_DEVICE = "MUJOCO_EGL_DEVICE_ID"
CHOICES = ("PYOPENGL_PLATFORM", EGL_DEVICE)  # variables that may keep an installed backend from rendering
WINDOWLESS = ("egl", "osmesa")  # EGL first: it renders on a GPU where there is one, and else in software like OSMesa
PROBE = """
from dm_control import _render
from OpenGL import GL
with _render.Renderer(1, 1).make_current() as context:
    if not context.call(GL.glGetString, GL.GL_RENDERER):
        raise SystemExit(1)
"""
PROBE_SECONDS = 60  # a driver that hangs does not render


def prepare(pictures: bool) -> None:
    """Chooses the backend; without `pictures` there is none, for the life of this process, and no OpenGL is needed."""
    if pictures:
        choose_backend()
    else:
        os.environ.setdefault("MUJOCO_GL", "off")


@functools.cache
def choose_backend() -> str:
    """Sets MUJOCO_GL to a backend that renders on this machine, the user's own choice if there is one; returns it.

    Raises ConfigError with the packages to install if none does.
    """
    load_triton_first()
    os.environ.setdefault("LP_NUM_THREADS", "0")  # threads of software rendering fight over the cores
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    require(chosen in ("", *PACKAGES), f"MUJOCO_GL={chosen} is not one of {', '.join(PACKAGES)}")
    if chosen in ("", "egl") and renders_where_it_trains():
        backend = "egl"
    else:
        backend = next(filter(renders, [chosen] if chosen else WINDOWLESS), None)
    if backend is not None:
        os.environ["MUJOCO_GL"] = backend
        return backend
    if chosen:
        raise ConfigError(
            f"MUJOCO_GL={chosen} does not render on this machine: "
            f"{wrong_choices()}apt-get install {PACKAGES[chosen]}, or leave MUJOCO_GL unset"
        )
    raise ConfigError(
        f"no OpenGL backend renders on this machine: {wrong_choices()}apt-get install {PACKAGES['egl']} "
        f"(or {PACKAGES['osmesa']}), or set MUJOCO_GL to one that does"
    )


def renders_where_it_trains() -> bool:
    """Sets MUJOCO_EGL_DEVICE_ID to the one GPU that CUDA sees, if EGL renders on it: by itself EGL takes the first GPU.

    Only in the order PCI_BUS_ID do both count alike, and a container may show EGL fewer GPUs.
    """
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if EGL_DEVICE in os.environ or not gpu.isdigit() or os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return False
    os.environ[EGL_DEVICE] = gpu
    if renders("egl"):
        return True
    del os.environ[EGL_DEVICE]
    return False


def wrong_choices() -> str:
    """Advice on the variables of CHOICES that are set; empty if none is."""
    found = [f"{name}={os.environ[name]}" for name in CHOICES if name in os.environ]
    return f"unset {' and '.join(found)}, or else " if found else ""


def renders(backend: str) -> bool:
    """Tells whether dm_control gets a context from a backend; a process of its own asks, which a driver may crash."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            env=os.environ | {"MUJOCO_GL": backend},
            capture_output=True,
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def renderer_name(physics) -> str:
    """Name of a physics' renderer, such as a GPU's or "llvmpipe (...)" for software."""
    from OpenGL import GL

    with physics.contexts.gl.make_current() as context:
        return context.call(GL.glGetString, GL.GL_RENDERER).decode()


def with_advice(renderer: str, device_type: str) -> str:
    """The renderer's name, with what to do where frames are rendered in software beside a GPU that trains."""
    if device_type == "cpu" or "llvmpipe" not in renderer:
        return renderer
    return f"{renderer}: slow, OpenGL does not find the GPU; a container needs NVIDIA_DRIVER_CAPABILITIES=all"
