"""The networks that an algorithm trains."""

from typing import Any

from mmengine.model import BaseModel

from kdvit_mm.models.utils.scope import in_own_scope
from kdvit_mm.registry import MODELS


def build_student(
    architecture: dict | BaseModel, data_preprocessor: Any
) -> tuple[BaseModel, Any]:
    """Builds a student as it would be built alone, from the same stream.

    Args:
        architecture (dict | BaseModel): The student.
        data_preprocessor (dict | nn.Module | None): The algorithm's.

    Returns:
        tuple[BaseModel, Any]: The student, and the data preprocessor that is
        left for the algorithm.
    """
    if isinstance(architecture, dict):
        architecture = in_own_scope(architecture)
        if 'data_preprocessor' not in architecture:
            # The runner hands a preprocessor at the config's top level to
            # the algorithm; the student knows its type and scope.
            architecture['data_preprocessor'] = data_preprocessor
            data_preprocessor = None
        architecture = MODELS.build(architecture)
    return architecture, data_preprocessor


def students_of(algorithm: Any) -> dict[str, BaseModel]:
    """Finds the students of a distillation algorithm.

    Args:
        algorithm (BaseAlgorithm): Such as ``LeanTeacherDistill``, which has
            one, or ``MutualDistill``, which has several.

    Returns:
        dict[str, BaseModel]: The students by name, ``'student'`` first.
    """
    peers = getattr(algorithm, 'peers', None) or {}
    return {'student': algorithm.architecture, **dict(peers.items())}
