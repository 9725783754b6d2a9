"""The level selection is a wing: nothing else in the package imports it."""

import re
from pathlib import Path

import kdvit_mm

PACKAGE = Path(kdvit_mm.__file__).parent


def test_nothing_else_imports_it():
    importing = [
        file.relative_to(PACKAGE).parts
        for file in PACKAGE.rglob('*.py')
        if re.search(
            r'import .*\bselection\b|kdvit_mm\.selection', file.read_text()
        )
    ]
    assert {parts[0] for parts in importing} == {'__init__.py', 'selection'}
