"""Training: tasks, the loop, hooks, runs."""

from voder.data.randomness import fold
from voder.train.loop import Hook, LoopConfig, State
from voder.train.optim import OptimizerConfig, ScheduleConfig
from voder.train.stages import Stage, freeze_all_but
from voder.train.task import Loss, Task, TensorBatch

__all__ = [
    "Hook",
    "Loss",
    "LoopConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "Stage",
    "State",
    "Task",
    "TensorBatch",
    "fold",
    "freeze_all_but",
]
