"""Training: tasks, the loop, hooks, runs."""

from voder.data.randomness import fold
from voder.train.loop import Hook, LoopConfig, State
from voder.train.optim import OptimizerConfig, ScheduleConfig
from voder.train.task import Loss, Task, TensorBatch

__all__ = [
    "Hook",
    "Loss",
    "LoopConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "State",
    "Task",
    "TensorBatch",
    "fold",
]
