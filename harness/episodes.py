"""Evaluation episodes as rows of episodes.csv: all that is needed to play them again.

Columns: agent_steps, episode, environment_seed, actions, sha256. Nothing here imports torch.
"""

import csv
import hashlib
import io
import zlib
from base64 import b85decode, b85encode
from collections.abc import Mapping

import numpy as np

PLAYED = "played"  # key of a row of an evaluation, beside the columns of evaluations.csv
STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY)  # repetitive actions, and others
LARGEST = 2**26  # bytes of an episode's actions, so that no file fills the memory

csv.field_size_limit(LARGEST)  # an episode's actions are one field


def pack(actions: list) -> str:
    """Actions as one word without commas or quotes: a compressed array of indices, or of float32 [steps, A]."""
    array = np.array(actions)
    kind = np.float32 if array.dtype.kind == "f" else np.min_scalar_type(array.max(initial=0))
    file = io.BytesIO()
    np.save(file, array.astype(kind), allow_pickle=False)
    streams = (zlib.compressobj(9, strategy=strategy) for strategy in STRATEGIES)
    return b85encode(min((each.compress(file.getvalue()) + each.flush() for each in streams), key=len)).decode()


def unpack(text: str) -> np.ndarray:
    """The actions of `pack`. Raises ValueError for anything else."""
    try:
        content = zlib.decompressobj().decompress(b85decode(text), LARGEST)
        return np.atleast_1d(np.load(io.BytesIO(content), allow_pickle=False))
    except (ValueError, EOFError, MemoryError, OSError, zlib.error) as error:
        raise ValueError("the actions are damaged") from error


def checksum(row: Mapping) -> str:
    """Finds an action that was changed to one of the same effect. It proves nothing: anybody can compute it."""
    names = ("agent_steps", "episode", "environment_seed", "actions")
    return hashlib.sha256(" ".join(str(row[name]) for name in names).encode()).hexdigest()[:16]


def taken(agent_steps: int, rows: list[dict]) -> list[dict]:
    """Takes what was played out of the rows of an evaluation: rows of episodes.csv."""
    played = [{"agent_steps": agent_steps, "episode": row["episode"], **row.pop(PLAYED)} for row in rows]
    return [row | {"sha256": checksum(row)} for row in played]


def own_columns(row: dict) -> list[str]:
    """Names of a row's columns that the environment reported."""
    names = list(row)
    return names[names.index("episode_agent_steps") + 1 :]
