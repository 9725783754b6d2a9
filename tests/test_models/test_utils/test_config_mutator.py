import random

import pytest
from mmengine.config import Config

from kdvit_mm.models.utils.config_mutator import ConfigMutator
from tests import tiny

CHOICES = dict(
    depth={'18': {'backbone.depth': 18}, '34': {'backbone.depth': 34}},
    width={
        str(base): {
            'backbone.base_channels': base,
            'neck.in_channels': [base * 2**i for i in range(4)],
        }
        for base in (4, 8, 16)
    },
)


@pytest.fixture
def mutator(tmp_path):
    file = tmp_path / 'student.py'
    file.write_text(Config(dict(model=tiny.gfl())).pretty_text)
    return ConfigMutator(str(file), CHOICES)


def test_all_that_can_be_chosen(mutator):
    found = mutator.all_choices()
    assert len(found) == 6
    assert found[1] == dict(depth='18', width='8')
    random.seed(0)
    drawn = [mutator.sample_choices() for _ in range(100)]
    assert all(found.count(choice) == 1 for choice in drawn)
    assert all(choice in drawn for choice in found)


def test_the_model_that_is_chosen(mutator):
    choices = dict(depth='34', width='16')
    mutator.set_choices(choices)
    assert mutator.current_choices == choices
    model = mutator.model_config(choices)
    assert model.backbone.depth == 34
    assert model.neck.in_channels == [16, 32, 64, 128]
    # All else is that of the config, which is left alone.
    assert model.bbox_head == tiny.gfl().bbox_head
    assert mutator.model_config(dict(depth='18')).neck.in_channels[0] == 8


def test_nothing_to_choose_is_refused(mutator):
    for choices, words in (
        ({}, 'choices of it has no option'),
        (dict(depth={}), 'choices of depth has no option'),
    ):
        with pytest.raises(ValueError, match=words):
            ConfigMutator(mutator.config, choices)
