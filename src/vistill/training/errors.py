"""How a run ends early with a fault that names its place."""

from vistill.errors import Failure


class TrainingError(Failure):
    """A run cannot go on; the message says where and why."""
