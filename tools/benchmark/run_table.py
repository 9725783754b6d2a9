"""Runs methods x seeds and writes their table as Markdown, CSV and JSON.

The table file names the configs; docs/benchmark.md describes it. A finished
cell is not run again, an interrupted one is resumed: after a crash or Ctrl-C
the same command goes on.
"""

import kdvit_mm  # noqa: F401  isort: skip  (before torch: its threads)

import argparse
import copy
import fcntl
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean, median
from typing import IO, Any

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger

from kdvit_mm.analysis.configs import ConfigError
from kdvit_mm.analysis.table import (
    Line,
    Row,
    Table,
    TableError,
    Teacher,
    compare,
    read_table,
    reference,
    render_csv,
    render_json,
    render_markdown,
    slug,
)
from kdvit_mm.analysis.timing import (
    build_training_step,
    tensor_memory,
    time_in_turn,
)
from kdvit_mm.datasets.preparation import data_options, prepare_data
from kdvit_mm.processes import (
    Stopped,
    end_children,
    start_child,
    stop_on_signals,
)
from kdvit_mm.visualization import read_scalars

ROOT = Path(__file__).resolve().parents[2]
# Data sets that are made or looked for before the first cell.
DATA = {'data/digit_scenes': 'digits', 'data/bccd': 'bccd'}
TEACHER_SEED = 0
# Hooks that change nothing of a result.
WATCHING = {'kdvit_mm.DistillWatchHook'}
POLL_SECONDS = 0.2
SHOWN_LINES = 15
# What mmengine logs of every validation, whatever its metrics.
TIMES = {'step', 'time', 'data_time'}


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('table', help='YAML file of the table')
    parser.add_argument(
        '--out', help='output folder; default work_dirs/benchmark/<table>'
    )
    parser.add_argument('--data-root', help='folder of the data set')
    parser.add_argument(
        '--jobs', type=int, default=1, help='cells to run at once'
    )
    parser.add_argument(
        '--gpus', help='such as 0,1: a cell on each; 0,0: two on one'
    )
    parser.add_argument(
        '--shard',
        default='1/1',
        help='i/n: the i-th of n parts, counted from 1, for n machines',
    )
    parser.add_argument(
        '--rows', nargs='+', help='names of the rows and teachers to run'
    )
    parser.add_argument(
        '--timing-rounds',
        type=int,
        default=10,
        help='rounds of the step time measurement; 0 leaves it out',
    )
    parser.add_argument(
        '--report-only',
        action='store_true',
        help='run nothing, write the table of what is there',
    )
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error('--jobs must be at least 1')
    if args.gpus and args.jobs > 1:
        parser.error('--jobs is for one device; --gpus says how many cells')
    part, _, parts = args.shard.partition('/')
    if not (
        part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)
    ):
        parser.error(f'--shard must be i/n with 1 <= i <= n: {args.shard}')
    args.shard = int(part), int(parts)
    args.out = Path(
        args.out or Path('work_dirs', 'benchmark', Path(args.table).stem)
    )
    return args


@dataclass(eq=False)
class Cell:
    """A row or teacher with one seed.

    Attributes:
        name (str): Name of the row or teacher.
        seed (int): Its seed.
        folder (Path): Its work directory.
        config (Path): Its config.
        options (dict[str, Any]): Config options.
        data (dict[str, str]): Config options that name the data's folder.
        needs (dict[str, Cell]): Cells whose checkpoints options name.
        given (str | None): A checkpoint that is there already; the cell is
            then evaluated and not trained.
    """

    name: str
    seed: int
    folder: Path
    config: Path
    options: dict[str, Any]
    data: dict[str, str]
    needs: dict[str, 'Cell'] = field(default_factory=dict)
    given: str | None = None

    def __str__(self) -> str:
        return f'{self.name}, seed {self.seed}'

    @property
    def result_file(self) -> Path:
        """Where its result is once it is finished."""
        return self.folder / 'result.json'

    @property
    def result(self) -> dict[str, Any] | None:
        """Its result; None if it is not finished."""
        if not self.result_file.is_file():
            return None
        return json.loads(self.result_file.read_text())

    @property
    def checkpoint(self) -> str:
        """Its last checkpoint, wherever its folder has been moved."""
        if self.given:
            return self.given
        last = (self.folder / 'last_checkpoint').read_text().strip()
        return str(self.folder / Path(last).name)

    def resolve(self) -> Config:
        """Reads its config with all its options."""
        return _resolve(self.config, self._all_options())

    def _all_options(self) -> list[str]:
        needed = {key: cell.checkpoint for key, cell in self.needs.items()}
        seed = {'randomness.seed': self.seed}
        return _write_options(self.options | self.data | needed | seed)

    @cached_property
    def fingerprint(self) -> str:
        """Stands for all that its result depends on, on any machine."""
        needed = {key: cell.fingerprint for key, cell in self.needs.items()}
        seed = {'randomness.seed': self.seed}
        options = _write_options(self.options | needed | seed)
        content = _resolve(self.config, options).to_dict()
        hooks = content.pop('custom_hooks', None) or []
        hooks = [hook for hook in hooks if hook.get('type') not in WATCHING]
        if hooks:
            content['custom_hooks'] = hooks
        if self.given:
            content['given'] = Path(self.given).name
        text = json.dumps(content, sort_keys=True, default=str)
        for folder in (ROOT, Path.cwd()):
            text = text.replace(f'{folder}/', '')
        return hashlib.sha256(text.encode()).hexdigest()

    def check_fingerprint(self) -> None:
        """Refuses what another config or other options left in its folder."""
        result = self.result
        started = self.folder / 'fingerprint'
        if result is not None:
            found = result['fingerprint']
        elif started.is_file():
            found = started.read_text()
        else:
            return
        if found != self.fingerprint:
            raise TableError(
                f'"{self}" was run with another config or other options than '
                f'it has now. Remove {self.folder}, or choose another --out.'
            )

    def command(self) -> list[str]:
        """The process that makes its result, or goes on making it."""
        if self.given:
            tool = ['test.py', str(self.config), self.given]
        else:
            tool = ['train.py', str(self.config), '--resume']
        return [
            sys.executable, str(ROOT / 'tools' / tool[0]), *tool[1:],
            '--work-dir', str(self.folder),
            '--cfg-options', *self._all_options(),
        ]  # fmt: skip

    def closing_records(self) -> list[dict[str, float]]:
        """What was logged after the last training step: a validation."""
        # A test is logged in a file of its own.
        pattern = '[0-9]*.json' if self.given else 'vis_data/scalars.json'
        closing: list[dict[str, float]] = []
        for file in sorted(self.folder.glob(f'*/{pattern}')):
            for line in file.read_text().splitlines():
                record = json.loads(line)
                closing = [] if 'loss' in record else [*closing, record]
        return closing


def _write_options(options: dict[str, Any]) -> list[str]:
    """Writes options as ``--cfg-options`` reads them."""

    def write(value: Any) -> str:
        if isinstance(value, list):
            return f'[{",".join(map(write, value))}]'
        return str(value)

    return [f'{key}={write(value)}' for key, value in options.items()]


@cache
def _read(config: Path) -> Config:
    return Config.fromfile(config)


def _resolve(config: Path, options: list[str]) -> Config:
    """Reads a config as the tools do."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    cfg = copy.deepcopy(_read(config))
    args = parser.parse_args(['--cfg-options', *options])
    cfg.merge_from_dict(args.cfg_options)
    return cfg


def make_cells(table: Table, out: Path, root: str | None) -> list[Cell]:
    """All cells of a table; a cell comes after those that it needs.

    Args:
        table (Table): The table.
        out (Path): Folder of the table's output.
        root (str | None): Folder of the data set, if not the configs' own.

    Returns:
        list[Cell]: The teachers' cells, then the rows'.

    Raises:
        TableError: If a config cannot be read, or distils from no teacher
            though its row names one.
    """
    cells: dict[tuple[str, int], Cell] = {}
    for teacher in table.teachers:
        _add_cells(cells, table, teacher, [TEACHER_SEED], out, root)
    for row in table.rows:
        _add_cells(cells, table, row, table.seeds, out, root)
    return [*cells.values()]


def _add_cells(
    cells: dict[tuple[str, int], Cell],
    table: Table,
    entry: Teacher | Row,
    seeds: list[int],
    out: Path,
    root: str | None,
) -> None:
    where = f'{table.file}: "{entry.name}"'
    teacher = entry.teacher if isinstance(entry, Row) else None
    names = {k: n for k, v in entry.options.items() if (n := reference(v))}
    try:
        cfg = _read(entry.config)
        data = data_options(entry.config, root)
    except Exception as error:
        raise TableError(
            f'{where}: {entry.config} cannot be used, '
            f'{type(error).__name__}: {error}'
        ) from error
    if teacher:
        if 'teacher' not in cfg.get('model', {}):
            raise TableError(
                f'{where} has a teacher, but {entry.config} has no '
                'model.teacher.'
            )
        names['model.teacher_ckpt'] = teacher
    for seed in seeds:
        needs = {
            key: cells.get((name, seed)) or cells[name, TEACHER_SEED]
            for key, name in names.items()
        }
        cells[entry.name, seed] = Cell(
            name=entry.name,
            seed=seed,
            folder=out / slug(entry.name) / f'seed_{seed}',
            config=entry.config,
            options=entry.options,
            data=data,
            needs=needs,
            given=entry.checkpoint if isinstance(entry, Teacher) else None,
        )


def choose_cells(
    table: Table,
    cells: list[Cell],
    names: list[str] | None,
    shard: tuple[int, int],
) -> list[Cell]:
    """This machine's part of the named rows, and all that it needs.

    Args:
        table (Table): The table.
        cells (list[Cell]): All of its cells.
        names (list[str] | None): Names of rows and teachers; None for all
            rows.
        shard (tuple[int, int]): Which part, counted from 1, of how many.

    Returns:
        list[Cell]: The cells to run, in their order.

    Raises:
        TableError: If a name is not in the table.
    """
    known = {cell.name for cell in cells}
    for name in names or ():
        if name not in known:
            raise TableError(
                f'--rows: {table.file} has no "{name}", only {sorted(known)}.'
            )
    chosen = names or [row.name for row in table.rows]
    part, parts = shard
    mine = {c for c in cells if c.name in chosen}
    mine = {*[c for c in cells if c in mine][part - 1 :: parts]}
    for cell in reversed(cells):
        if cell in mine:
            mine.update(cell.needs.values())
    return [cell for cell in cells if cell in mine]


def prepare(cells: list[Cell], root: str | None) -> None:
    """Makes the embedded data set if it is needed and missing."""
    roots = {str(_read(c.config).get('data_root')) for c in cells}
    for name in {DATA.get(found.rstrip('/')) for found in roots} - {None}:
        # What is in a folder of the user's own is not made anew.
        if root is None or not Path(root, 'annotations').is_dir():
            prepare_data(str(name), root)


def make_slots(gpus: str | None, jobs: int) -> list[dict[str, str]]:
    """Environment of each of the cells that run at once."""
    devices = gpus.split(',') if gpus else [None] * jobs
    threads = max(1, (os.cpu_count() or 1) // len(devices))
    shared = {'OMP_NUM_THREADS': str(threads)} | os.environ
    return [
        shared | ({} if gpu is None else {'CUDA_VISIBLE_DEVICES': gpu})
        for gpu in devices
    ]


def describe_machine() -> str:
    """Processor, and GPU if there is one, in words."""
    model = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith('model name'):
                model = line.partition(':')[2].strip()
                break
    words = f'{os.cpu_count()} cores of {model}'
    if torch.cuda.is_available():
        words += f', {torch.cuda.get_device_name()}'
    return words


def read_metric(table: Table, record: dict[str, float]) -> float:
    """The table's metric in a validation's record, scaled."""
    if table.metric.key not in record:
        raise TableError(
            f'{table.file}: metric.key "{table.metric.key}" was never logged; '
            f'the validation logged {", ".join(sorted(record))}. Correct it: '
            'the same command takes up what is finished.'
        )
    return table.metric.scale * record[table.metric.key]


@dataclass
class Job:
    """A cell that is running."""

    cell: Cell
    process: subprocess.Popen
    lock: IO
    slot: dict[str, str]
    start: float


class Pool:
    """Runs cells, each in a process of its own.

    Args:
        table (Table): The table.
        cells (list[Cell]): The cells to run; those with a result are passed
            over.
        slots (list[dict[str, str]]): Environments of the cells that run at
            once.
    """

    def __init__(
        self, table: Table, cells: list[Cell], slots: list[dict[str, str]]
    ) -> None:
        self.table = table
        self.total = len(cells)
        self.parallel = len(slots)
        self.waiting = [cell for cell in cells if cell.result is None]
        self.free = [*slots]
        self.running: list[Job] = []
        self.failed: list[Cell] = []
        self.repeated: list[Cell] = []
        self.seconds: list[float] = []

    def run(self) -> list[Cell]:
        """Runs all cells and returns those that failed."""
        finished = self.total - len(self.waiting)
        print(f'{finished} of {self.total} cells are finished.', flush=True)
        try:
            while self.waiting or self.running:
                for job in [*self.running]:
                    if job.process.poll() is not None:
                        self._collect(job)
                for cell in [*self.waiting]:
                    if self.free:
                        self._try(cell)
                time.sleep(POLL_SECONDS)
        finally:
            end_children(*(job.process for job in self.running))
        return self.failed

    def _try(self, cell: Cell) -> None:
        """Starts a waiting cell if nothing speaks against it."""
        needs = cell.needs.values()
        if any(need in self.failed for need in needs):
            self.waiting.remove(cell)
            self.failed.append(cell)
            print(f'{cell} failed: what it needs has failed.', flush=True)
        elif all(need.result for need in needs):
            cell.folder.mkdir(parents=True, exist_ok=True)
            lock = (cell.folder / 'lock').open('w')
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another process is at it
                lock.close()
                return
            self.waiting.remove(cell)
            if cell.result is None:
                self.running.append(self._start(cell, lock))
            else:
                lock.close()

    def _start(self, cell: Cell, lock: IO) -> Job:
        (cell.folder / 'fingerprint').write_text(cell.fingerprint)
        slot = self.free.pop(0)
        with (cell.folder / 'output.log').open('a') as output:
            process = start_child(
                cell.command(),
                env=slot,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Should this process be killed, its orphan keeps the lock for
                # as long as it takes it to stop.
                pass_fds=[lock.fileno()],
            )
        return Job(cell, process, lock, slot, time.time())

    def _collect(self, job: Job) -> None:
        """Takes the result of a cell whose process has ended."""
        self.running.remove(job)
        self.free.append(job.slot)
        cell, closing = job.cell, job.cell.closing_records()
        if job.process.returncode:
            log = (cell.folder / 'output.log').read_text().splitlines()
            self._fail(cell, '\n'.join(log[-SHOWN_LINES:]))
        elif closing:
            key = self.table.metric.key
            having = (r for r in reversed(closing) if key in r)
            validation = next(having, closing[-1])
            if validation.keys() <= TIMES:
                self._fail(
                    cell,
                    'Its last validation logged no metric. mmdet logs none '
                    'where nothing is detected.',
                )
            else:
                self._write_result(job, validation)
        elif not cell.given and cell not in self.repeated:
            # Killed before its last validation, and resumed after it: without
            # the last checkpoint the end of the training is repeated.
            self.repeated.append(cell)
            Path(cell.checkpoint).unlink(missing_ok=True)
            self.waiting.insert(0, cell)
        else:
            self._fail(cell, f'{cell.config} did not end with a validation.')
        job.lock.close()

    def _write_result(self, job: Job, record: dict[str, float]) -> None:
        seconds = time.time() - job.start
        result = {
            'metrics': record,
            'seconds': round(seconds, 1),
            'torch': torch.__version__,
            'machine': describe_machine(),
            'fingerprint': job.cell.fingerprint,
        }
        unfinished = job.cell.result_file.with_suffix('.tmp')
        unfinished.write_text(json.dumps(result, indent=2))
        os.replace(unfinished, job.cell.result_file)
        self.seconds.append(seconds)
        left = len(self.waiting) + len(self.running)
        minutes = left * fmean(self.seconds) / self.parallel / 60
        print(
            f'[{self.total - left}/{self.total}] {job.cell}: '
            f'{self.table.metric.name} {read_metric(self.table, record):.2f} '
            f'in {seconds:.0f} s; about {minutes:.0f} min left',
            flush=True,
        )

    def _fail(self, cell: Cell, why: str) -> None:
        self.failed.append(cell)
        print(f'{cell} failed, see {cell.folder}:\n{why}', flush=True)


def measure(table: Table, cells: list[Cell], rounds: int, file: Path) -> None:
    """Measures the training steps of all rows that have a result.

    Args:
        table (Table): The table.
        cells (list[Cell]): All of its cells.
        rounds (int): Rounds in which the rows are measured in turn.
        file (Path): Where the measurement is saved, and not made again if it
            is of the same rows.
    """
    first = {
        row.name: next(c for c in cells if c.name == row.name and c.result)
        for row in table.rows
        if any(c.name == row.name and c.result for c in cells)
    }
    prints = {name: cell.fingerprint for name, cell in first.items()}
    saved = json.loads(file.read_text()) if file.is_file() else {}
    if saved.get('fingerprints') == prints and saved['rounds'] == rounds:
        return
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    print(f'Measuring {len(first)} training steps in turn.', flush=True)
    MMLogger.get_current_instance().setLevel('WARNING')
    steps = {
        name: build_training_step(cell.resolve(), cell.checkpoint, device)
        for name, cell in first.items()
    }
    timing = {
        'seconds': time_in_turn(steps, rounds, device),
        'memory': {
            name: tensor_memory(step, device) for name, step in steps.items()
        },
        'rounds': rounds,
        'device': device,
        'threads': torch.get_num_threads(),
        'machine': describe_machine(),
        'fingerprints': prints,
    }
    file.write_text(json.dumps(timing, indent=2))


def make_lines(table: Table, cells: list[Cell]) -> list[Line]:
    """Reads the results of all cells that are finished."""
    lines = []
    entries: list[Teacher | Row] = [*table.teachers, *table.rows]
    for entry in entries:
        own = [cell for cell in cells if cell.name == entry.name]
        line = Line(entry.name, len(own))
        for cell in own:
            if cell.result is None:
                continue
            metrics = cell.result['metrics']
            line.values[cell.seed] = read_metric(table, metrics)
            records = read_scalars(cell.folder) if table.columns else []
            for column in table.columns:
                value = column.take(records)
                if value is not None:
                    by_seed = line.columns.setdefault(column.name, {})
                    by_seed[cell.seed] = value
        if isinstance(entry, Row):
            line.against = entry.against
            line.published, line.source = entry.published, entry.source
        lines.append(line)
    compare(lines)
    return lines


def add_timing(table: Table, lines: list[Line], timing: dict) -> None:
    """Sets step times, relative to the row compared with, and memory."""
    seconds = timing['seconds']
    for line in lines:
        line.step_memory = timing['memory'].get(line.name)
        if line.name in seconds:
            base = seconds.get(line.against or line.name)
            if base:
                line.step_ratio = median(
                    own / other
                    for own, other in zip(
                        seconds[line.name], base, strict=True
                    )
                )


def write_report(
    table: Table, lines: list[Line], facts: dict[str, str], out: Path
) -> None:
    """Writes table.md, table.csv and table.json, and prints the first."""
    out.mkdir(parents=True, exist_ok=True)
    markdown = render_markdown(table, lines, facts)
    (out / 'table.md').write_text(markdown)
    (out / 'table.csv').write_text(render_csv(table, lines))
    (out / 'table.json').write_text(render_json(table, lines, facts))
    print(f'\n{markdown}\nIn {out}: table.md, table.csv, table.json')


def list_facts(
    table: Table, cells: list[Cell], timing: dict | None
) -> dict[str, str]:
    """What has to be known about how the table came about."""
    arguments = [arg for arg in sys.argv[1:] if arg != '--report-only']
    results = [cell.result for cell in cells]
    facts = {
        'command': '`python tools/benchmark/run_table.py '
        f'{shlex.join(arguments)}`',
        'seeds': ', '.join(map(str, table.seeds)),
        'intervals': "95 %, by Student's t over seeds; differences are "
        'paired by seed',
    }
    if any(results):
        for key in ('machine', 'torch'):
            facts[key] = '; '.join(sorted({r[key] for r in results if r}))
    if timing:
        facts['step time and memory'] = (
            f'a training step, the median of {timing["rounds"]} rounds, '
            f'{timing["device"]}, {timing["threads"]} threads, '
            f'{timing["machine"]}'
        )
    return facts


def main() -> None:
    """Runs, measures and reports."""
    stop_on_signals()
    args = parse_args()
    failed: list[Cell] = []
    timing_file = args.out / 'timing.json'
    try:
        table = read_table(args.table)
        root = args.data_root or table.data_root
        cells = make_cells(table, args.out, root)
        for cell in cells:
            cell.check_fingerprint()
        if not args.report_only:
            mine = choose_cells(table, cells, args.rows, args.shard)
            prepare(mine, root)
            whole = args.rows is None and args.shard[1] == 1
            slots = make_slots(args.gpus, args.jobs)
            failed = Pool(table, mine, slots).run()
            if args.timing_rounds and whole:
                measure(table, cells, args.timing_rounds, timing_file)
        lines = make_lines(table, cells)
    except (TableError, ConfigError, FileNotFoundError) as error:
        sys.exit(str(error))
    except Stopped as signal:
        print(f'Stopped by {signal}. The same command goes on.')
        sys.exit(signal.status)
    timing = None
    if timing_file.is_file():
        timing = json.loads(timing_file.read_text())
        add_timing(table, lines, timing)
    write_report(table, lines, list_facts(table, cells, timing), args.out)
    if failed:
        sys.exit(f'Failed: {"; ".join(map(str, failed))}')


if __name__ == '__main__':
    main()
