"""Results of finished cells, as they are committed with their table."""

import fcntl
import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, get_origin, get_type_hints


@dataclass(frozen=True)
class Record:
    """What is kept of a finished cell.

    Attributes:
        name (str): Its row or teacher.
        seed (int): Its seed.
        fingerprint (str): Stands for its config, options, seed and teacher.
        data (str): Stands for the data set; '' if that is not known.
        metrics (dict[str, float]): What its validation logged.
        curve (list[list[float]]): Step and metric of each validation.
        columns (dict[str, float]): The table's further columns.
        seconds (float): How long it was trained.
        machine (str): Where that was.
        torch (str): Version of torch.
    """

    name: str
    seed: int
    fingerprint: str
    data: str
    metrics: dict[str, float]
    curve: list[list[float]]
    columns: dict[str, float]
    seconds: float
    machine: str
    torch: str


class Recorded(Protocol):
    """What a record is looked up by: a cell."""

    name: str
    seed: int

    @property
    def fingerprint(self) -> str:
        """Stands for its config, options, seed and teacher."""

    @property
    def data_identity(self) -> str:
        """Stands for the data set; '' if it is not there."""


class Records:
    """A file of records, one JSON object per line.

    A line counts for a cell if the fingerprints are equal, and what stands
    for the data, where both are known; a row may get another name. Any other
    line is named by :meth:`unused` and changes nothing.

    Args:
        file (Path): The file, which need not exist.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.corrupt: list[str] = []
        self.lines: list[tuple[int, Record]] = []
        text = file.read_text() if file.is_file() else ''
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                self.lines.append((number, _parse(line)))
            except (TypeError, ValueError) as error:
                self.corrupt.append(
                    f'{file}:{number} is no record of a cell ({error}). '
                    'Remove the line.'
                )

    def find(self, cell: Recorded) -> Record | None:
        """The first record of a cell.

        Args:
            cell (Recorded): The cell.

        Returns:
            Record | None: None if there is none.
        """
        matching = (r for _, r in self.lines if _is_of(r, cell))
        return next(matching, None)

    def add(self, record: Record) -> None:
        """Appends a record; several processes may do so.

        Args:
            record (Record): The record.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open('a+') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            # An editor or a crash may have left a line without its end.
            gap = '\n' if text and not text.endswith('\n') else ''
            file.write(f'{gap}{json.dumps(asdict(record))}\n')
        number = len(text.splitlines()) + 1
        self.lines.append((number, record))

    def unused(
        self, cells: Iterable[Recorded], undecided: Collection[str] = ()
    ) -> list[str]:
        """Names the lines that are of no cell.

        Args:
            cells (Iterable[Recorded]): All cells of the table.
            undecided (Collection[str]): Rows whose cells are not known yet.
                Defaults to none.

        Returns:
            list[str]: A sentence per line, the corrupt ones first.
        """
        cells = [*cells]
        keys = {(cell.name, cell.seed) for cell in cells}
        said = [*self.corrupt]
        for number, record in self.lines:
            if record.name in undecided or any(
                _is_of(record, cell) for cell in cells
            ):
                continue
            why = (
                'has another config, other options, another teacher or other '
                'data now'
                if (record.name, record.seed) in keys
                else 'is not in the table'
            )
            said.append(
                f'{self.file}:{number} is not used: "{record.name}, seed '
                f'{record.seed}" {why}. Remove the line.'
            )
        return said


def _parse(line: str) -> Record:
    content: Any = json.loads(line)
    if not isinstance(content, dict):
        raise TypeError('it is no JSON object')
    record = Record(**content)
    for name, hint in get_type_hints(Record).items():
        kind = get_origin(hint) or hint
        value = getattr(record, name)
        if not isinstance(value, (int, float) if kind is float else kind):
            raise TypeError(f'{name} is {value!r}')
    return record


def _is_of(record: Record, cell: Recorded) -> bool:
    same_data = '' in (record.data, cell.data_identity)
    return record.fingerprint == cell.fingerprint and (
        same_data or record.data == cell.data_identity
    )
