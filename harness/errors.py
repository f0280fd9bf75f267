"""Errors of a run under way. Each message is one line."""


class CheckpointError(Exception):
    """A checkpoint that cannot be used."""


class NotFinite(Exception):
    """A NaN or an infinity where only numbers belong; the message says where."""


class Miscounted(Exception):
    """A run that did not do what its configuration says; the message says what."""


class WorkerLost(Exception):
    """A worker process that died or stays silent. Its work can be done again."""
