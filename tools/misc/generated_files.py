"""Writes or checks the files of the generators beside it."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path


def write_or_check(
    description: str | None, documents: Mapping[Path, str]
) -> None:
    """Reads a generator's command line and writes or checks its files.

    Args:
        description (str | None): What the generator does.
        documents (Mapping[Path, str]): What each file should hold.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        '--check',
        action='store_true',
        help='write nothing; exit with 1 if a file is out of date',
    )
    check = parser.parse_args().check
    stale = {
        file: text
        for file, text in documents.items()
        if not file.is_file() or file.read_text() != text
    }
    for file, text in stale.items():
        if not check:
            file.write_text(text)
        print(f'{"out of date" if check else "written"}: {file}')
    if stale and check:
        sys.exit(f'Run python tools/misc/{Path(sys.argv[0]).name}')
