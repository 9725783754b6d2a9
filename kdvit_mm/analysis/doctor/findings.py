"""What an examination of a config finds."""

from dataclasses import dataclass, field


@dataclass
class ModuleInfo:
    """A module of student or teacher.

    Attributes:
        name (str): Its name, as a recorder's ``source``.
        type (str): Its class.
        params (int): Number of parameters in it.
        shape (str): Shape of its first output; '' if its hooks never ran.
        calls (int): How often its hooks ran in one forward.
    """

    name: str
    type: str
    params: int
    shape: str = ''
    calls: int = 0


@dataclass
class ModelInfo:
    """Student or teacher.

    Attributes:
        type (str): Its class.
        params (int): Number of parameters.
        flops (float | None): Multiply-adds for one image of the batch's size,
            as mmdet counts FLOPs; None if it has no plain forward.
        image (tuple[int, ...]): Shape (C, H, W) of that image.
        modules (list[ModuleInfo]): Its modules.
    """

    type: str
    params: int
    flops: float | None
    image: tuple[int, ...]
    modules: list[ModuleInfo]


@dataclass
class RecorderInfo:
    """A recorder after the forward of its side.

    Attributes:
        side (str): 'student' or 'teacher'.
        name (str): Its key in the config.
        source (str): What it listens to.
        count (int): Number of records.
        shapes (list[str]): Shape of every record.
    """

    side: str
    name: str
    source: str
    count: int
    shapes: list[str]


@dataclass
class LossInfo:
    """A loss on the batch.

    Attributes:
        name (str): Its name in the log.
        value (float): Its value, weight included.
        grad_norm (float): L2 norm of its gradient at the student's trained
            parameters.
        weight (float | None): The distill loss's ``loss_weight``.
        value_ratio (float | None): Value over the summed task loss.
        unweighted_ratio (float | None): The same with a ``loss_weight`` of 1.
        grad_ratio (float | None): Gradient norm over the task loss's.
    """

    name: str
    value: float
    grad_norm: float
    weight: float | None = None
    value_ratio: float | None = None
    unweighted_ratio: float | None = None
    grad_ratio: float | None = None


@dataclass
class CacheInfo:
    """A cache of the teacher's records.

    Attributes:
        teacher (str): Whose it is: 'teacher', or 'teacher.NAME' of several.
        hits (float): Share of the images whose records would be there in the
            fourth epoch.
        same_pixels (float): The same if all batches had one shape.
        image_bytes (float): Size of an image's records, in bytes.
        epoch_bytes (float): Size of those of all images, in bytes.
        max_bytes (int): The most that is kept.
        free_bytes (int): Space that is left where the folder is.
    """

    teacher: str
    hits: float
    same_pixels: float
    image_bytes: float
    epoch_bytes: float
    max_bytes: int
    free_bytes: int


@dataclass
class Findings:
    """The findings of an examination.

    Attributes:
        student (ModelInfo | None): The student.
        teacher (ModelInfo | None): The teacher.
        recorders (list[RecorderInfo]): Recorders of both sides.
        task (LossInfo | None): The student's own losses, summed.
        losses (list[LossInfo]): Every loss.
        teacher_loss (float | None): The teacher's own task loss in eval mode.
        fresh_loss (float | None): The lowest task loss of three freshly
            initialised models of the teacher's architecture.
        weights (dict[str, str]): By side, what its weights are loaded from.
        caches (list[CacheInfo]): The caches of teachers' records.
        errors (list[str]): Why the config cannot train.
        warnings (list[str]): What is probably not meant.
    """

    student: ModelInfo | None = None
    teacher: ModelInfo | None = None
    recorders: list[RecorderInfo] = field(default_factory=list)
    task: LossInfo | None = None
    losses: list[LossInfo] = field(default_factory=list)
    teacher_loss: float | None = None
    fresh_loss: float | None = None
    weights: dict[str, str] = field(default_factory=dict)
    caches: list[CacheInfo] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """1 if the config cannot train, else 0."""
        return int(bool(self.errors))
