"""Runs cells of a table, several at once."""

import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from mmengine.logging import print_log

from kdvit_mm.benchmark.cells import TIMES, Cell, read_metric
from kdvit_mm.benchmark.records import Records
from kdvit_mm.benchmark.table import Table
from kdvit_mm.benchmark.timing import describe_machine
from kdvit_mm.engine.stages import POLL_SECONDS, Training
from kdvit_mm.processes import end_children


def make_slots(gpus: str | None, jobs: int) -> list[dict[str, str]]:
    """Environment of each of the cells that run at once."""
    devices = gpus.split(',') if gpus else [None] * jobs
    threads = max(1, (os.cpu_count() or 1) // len(devices))
    shared = {'OMP_NUM_THREADS': str(threads)} | os.environ
    return [
        shared | ({} if gpu is None else {'CUDA_VISIBLE_DEVICES': gpu})
        for gpu in devices
    ]


@dataclass
class Job:
    """A cell that is running."""

    cell: Cell
    training: Training
    slot: dict[str, str]
    start: float


class Pool:
    """Runs cells, each in a process of its own.

    Args:
        table (Table): The table.
        cells (list[Cell]): The cells to run, each after those of them that
            it needs.
        slots (list[dict[str, str]]): Environments of the cells that run at
            once.
        records (Records): Where the results are kept.
    """

    def __init__(
        self,
        table: Table,
        cells: list[Cell],
        slots: list[dict[str, str]],
        records: Records,
    ) -> None:
        self.table = table
        self.records = records
        self.total = len(cells)
        self.parallel = len(slots)
        self.waiting = [*cells]
        self.free = [*slots]
        self.running: list[Job] = []
        self.failed: list[Cell] = []
        self.repeated: list[Cell] = []
        self.seconds: list[float] = []

    def run(self) -> list[Cell]:
        """Runs all cells and returns those that failed."""
        try:
            while self.waiting or self.running:
                for job in [*self.running]:
                    if job.training.process.poll() is not None:
                        self._collect(job)
                for cell in [*self.waiting]:
                    if self.free:
                        self._try(cell)
                time.sleep(POLL_SECONDS)
        finally:
            end_children(*(job.training.process for job in self.running))
        return self.failed

    def _try(self, cell: Cell) -> None:
        """Starts a waiting cell if nothing speaks against it."""
        needs = [need.stage for need in cell.needs.values()]
        if any(need in self.failed for need in needs):
            self.waiting.remove(cell)
            self.failed.append(cell)
            print_log(f'{cell} failed: what it needs has failed.')
        elif cell.finished:  # by another process
            self.waiting.remove(cell)
        elif all(need.finished for need in needs):
            training = cell.start(env=self.free[0])
            if training is not None:
                self.waiting.remove(cell)
                slot = self.free.pop(0)
                self.running.append(Job(cell, training, slot, time.time()))

    def _collect(self, job: Job) -> None:
        """Takes the result of a cell whose process has ended."""
        self.running.remove(job)
        self.free.append(job.slot)
        cell, closing = job.cell, job.cell.closing_records()
        if job.training.process.returncode:
            self._fail(cell, cell.last_lines())
        elif closing:
            validation = self._choose_validation(cell, closing)
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
        job.training.lock.close()

    def _choose_validation(
        self, cell: Cell, closing: list[dict[str, float]]
    ) -> dict[str, float]:
        """That of the checkpoint which the cell leaves, if it says enough."""
        key = self.table.metric.key
        if cell.keeps == 'best':
            best = max(
                cell.validations(key), key=lambda r: r[key], default=None
            )
            return best or closing[-1]
        having = (r for r in reversed(closing) if key in r)
        return next(having, closing[-1])

    def _write_result(self, job: Job, record: dict[str, float]) -> None:
        seconds = job.cell.trained_seconds()
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
        self._keep(job.cell)
        self.seconds.append(time.time() - job.start)
        left = len(self.waiting) + len(self.running)
        minutes = left * fmean(self.seconds) / self.parallel / 60
        print_log(
            f'[{self.total - left}/{self.total}] {job.cell}: '
            f'{self.table.metric.name} {read_metric(self.table, record):.2f} '
            f'in {seconds:.0f} s; about {minutes:.0f} min left',
        )

    def _keep(self, cell: Cell) -> None:
        """Adds a result to the records, or compares it with that there."""
        own = cell.record(self.table)
        if cell.recorded is None and own is not None:
            self.records.add(own)
            cell.recorded = own
        elif own and cell.recorded and own.metrics != cell.recorded.metrics:
            print_log(
                f'{cell}: trained again, with another result than the one in '
                f'{self.records.file}.',
                level=logging.WARNING,
            )

    def _fail(self, cell: Cell, why: str) -> None:
        self.failed.append(cell)
        print_log(f'{cell} failed, see {cell.folder}:\n{why}')
