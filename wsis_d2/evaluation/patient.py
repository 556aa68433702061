"""Evaluation that takes its time on the main process."""

from collections import OrderedDict
from collections.abc import Sequence

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from ..parallel import synchronize_patiently


class PatientEvaluators(DatasetEvaluators):
    """Detectron2's collection of evaluators, without a limit to the time that each may take.

    Most evaluators compute on the main process alone, while the others are ahead of it: in the next
    collective operation, which gives up after the job's timeout. On a set of COCO's size that is
    too soon.
    """

    def __init__(self, evaluators: Sequence[DatasetEvaluator]):
        """
        Args:
            evaluators: in the order in which they evaluate.
        """
        super().__init__([_Patient(evaluator) for evaluator in evaluators])


class _Patient(DatasetEvaluator):
    """An evaluator before and after whose evaluation the processes wait for each other."""

    def __init__(self, evaluator: DatasetEvaluator):
        self._evaluator = evaluator

    def reset(self) -> None:
        self._evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        self._evaluator.process(inputs, outputs)

    def evaluate(self) -> OrderedDict | None:
        synchronize_patiently()  # shares of the images take unequal times
        results = self._evaluator.evaluate()
        synchronize_patiently()
        return results
