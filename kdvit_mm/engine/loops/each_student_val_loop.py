"""Validation of several students."""

from typing import Any

from mmengine.runner import ValLoop

from kdvit_mm.models.algorithms import MutualDistill
from kdvit_mm.models.utils.checkpoint_kind import unwrapped
from kdvit_mm.models.utils.students import students_of
from kdvit_mm.registry import LOOPS


@LOOPS.register_module()
class EachStudentValLoop(ValLoop):
    """Evaluates each student of a :class:`MutualDistill`.

    Metrics of the first student have their usual names, as hooks and
    ``save_best`` expect them; those of a peer begin with its name, such as
    ``'wide/accuracy/top1'``. Arguments are those of mmengine's ``ValLoop``.
    """

    def run(self) -> dict[str, float]:
        """Validates.

        Returns:
            dict[str, float]: The metrics of all students.

        Raises:
            TypeError: If the model is no ``MutualDistill``.
        """
        algorithm: Any = unwrapped(self.runner.model)
        if not isinstance(algorithm, MutualDistill):
            raise TypeError(
                'EachStudentValLoop needs a MutualDistill as model, but got '
                f"{type(algorithm).__name__}. Set val_cfg=dict(type='ValLoop')"
                '.'
            )
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        metrics: dict[str, float] = {}
        for name in students_of(algorithm):
            with algorithm.predicting(name):
                for index, batch in enumerate(self.dataloader):
                    self.run_iter(index, batch)
            found = self.evaluator.evaluate(len(self.dataloader.dataset))
            prefix = '' if name == 'student' else f'{name}/'
            metrics |= {f'{prefix}{key}': v for key, v in found.items()}
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics
