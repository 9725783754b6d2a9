"""Records in a folder of bounded size that several processes share."""

import io
import uuid
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.logging import MMLogger

DIGEST = 16


class RecordStore:
    """Keeps records by name, the newest that fit into ``max_bytes``.

    A file is complete or not there: it is written under another name and then
    renamed, and begins with a digest of its content. So ranks and runs may
    share a folder, and a damaged file counts as none. After a record could
    not be written, as on a full disk, this process writes no other.

    Args:
        folder (str | Path): The folder, which need not exist.
        max_bytes (int): The most that its records may take. Each further run
            that writes at the same time may exceed it by 1/32.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._writes = True
        # What may be written until the folder is looked through again.
        self._allowance = max_bytes // 32
        # At first the folder has to be.
        self._written = max_bytes

    def get(self, group: str, name: str) -> Any | None:
        """Reads a record.

        Args:
            group (str): What it belongs to, a folder.
            name (str): Its name.

        Returns:
            Any | None: The record, on the CPU, or None if there is none.
        """
        try:
            content = memoryview(self._file(group, name).read_bytes())
        except OSError:
            return None
        digest, content = content[:DIGEST], content[DIGEST:]
        if blake2b(content, digest_size=DIGEST).digest() != digest:
            return None
        return torch.load(
            io.BytesIO(content), map_location='cpu', weights_only=True
        )

    def put(self, group: str, name: str, record: Any) -> None:
        """Writes a record and, where room is needed, removes the oldest.

        Args:
            group (str): What it belongs to, a folder.
            name (str): Its name.
            record (Any): Nested lists, tuples and dicts of tensors, numbers,
                strings and dtypes.
        """
        if not self._writes:
            return
        buffer = io.BytesIO()
        torch.save(record, buffer)
        content = buffer.getbuffer()
        file = self._file(group, name)
        draft = file.with_suffix(f'.record-{uuid.uuid4().hex}')
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with draft.open('xb') as out:
                    out.write(blake2b(content, digest_size=DIGEST).digest())
                    out.write(content)
                # Another process may have made room of it.
                with suppress(FileNotFoundError):
                    draft.replace(file)
            except OSError:
                draft.unlink(missing_ok=True)
                raise
        except OSError as error:
            self._writes = False
            MMLogger.get_current_instance().warning(
                f'cache: nothing more is written to "{self.folder}" '
                f'({error}). Training goes on; the teacher is run for all '
                'images that have no record yet.'
            )
            return
        self._written += DIGEST + len(content)
        if self._written * get_world_size() > self._allowance:
            self._make_room()

    def _file(self, group: str, name: str) -> Path:
        return self.folder / group / f'{name}.record'

    def _make_room(self) -> None:
        """Removes the oldest files, so that the allowance fits in, too."""
        files = []
        # Drafts, too, which a run that was killed left behind.
        for file in self.folder.glob('*/*.record*'):
            try:
                status = file.stat()
            except OSError:  # another process removed it
                continue
            files.append((status.st_mtime_ns, status.st_size, file))
        room = self.max_bytes - self._allowance
        taken = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if taken <= room:
                break
            try:
                file.unlink(missing_ok=True)
            except OSError:  # another user's
                continue
            taken -= size
        self._written = 0
