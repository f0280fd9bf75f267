"""The recipes that tests run."""

from atari.method import RAINBOW
from atari.suite import ATARI as ATARI_SUITE
from dmcontrol.method import SAC
from dmcontrol.suite import DMCONTROL as DMCONTROL_SUITE
from harness.recipe import Recipe

ATARI = Recipe(ATARI_SUITE, RAINBOW)
DMCONTROL = Recipe(DMCONTROL_SUITE, SAC)
