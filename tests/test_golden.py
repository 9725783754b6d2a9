"""The recorded values that the repository has of each method."""

import re

import pytest

from tests.golden import FOLDER, read_file

FILES = sorted(FOLDER.glob('*.npz'))


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_cases_are_small_and_described(file):
    assert file.stat().st_size <= 50_000
    cases = read_file(file)
    assert 2 <= len(cases) <= 4
    for case in cases.values():
        assert case.inputs and case.outputs
        tensors = [*case.inputs.values(), *case.outputs.values()]
        assert not any(tensor.isnan().any() for tensor in tensors)
    text = (FOLDER / 'README.md').read_text()
    rows = re.findall(rf'^\| `{file.stem}` \| `(\w+)` \| ', text, re.M)
    assert rows == list(cases)


def test_every_file_is_described():
    text = (FOLDER / 'README.md').read_text()
    described = re.findall(r'^\| `(\w+)` \| `\w+` \| ', text, re.M)
    assert sorted(set(described)) == [file.stem for file in FILES]
