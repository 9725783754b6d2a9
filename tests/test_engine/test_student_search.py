"""Searches of a student, in real runs."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from kdvit_mm.models.algorithms.diswot import DisWOT
from tests import tiny
from tests.loss_checks import classification_batch

CLASSIFIERS = dict(
    width={
        str(base): {
            'backbone.base_channels': base,
            'backbone.stem_channels': base,
            'head.in_channels': 8 * base,
        }
        for base in (2, 4, 8)
    }
)
DETECTORS = dict(
    depth={'18': {'backbone.depth': 18}, '34': {'backbone.depth': 34}},
    width={
        str(base): {
            'backbone.base_channels': base,
            'neck.in_channels': [base * 2**i for i in range(4)],
        }
        for base in (4, 8)
    },
)


def samples(batch: dict) -> list[dict]:
    return [
        dict(inputs=image, data_samples=sample)
        for image, sample in zip(
            batch['inputs'], batch['data_samples'], strict=True
        )
    ]


def runner_of(folder: Path, task: str = 'cls', model=None, **loop) -> Runner:
    """A search with the network of four channels in the student's file."""
    is_cls = task == 'cls'
    folder.mkdir(exist_ok=True)
    file = folder / 'student.py'
    student = tiny.resnet(4) if is_cls else tiny.gfl(8)
    file.write_text(Config(dict(model=student)).pretty_text)
    batch = classification_batch() if is_cls else tiny.detection_batch(3, 64)
    scorer = dict(
        type='DisWOT',
        teacher=tiny.resnet(8) if is_cls else tiny.gfl(16),
        classifier='head.fc' if is_cls else 'bbox_head.gfl_cls',
        mutator=dict(
            type='ConfigMutator',
            config=str(file),
            choices=CLASSIFIERS if is_cls else DETECTORS,
        ),
    )
    search = dict(
        type='kdvit_mm.StudentSearchLoop',
        max_epochs=3,
        num_candidates=6,
        top_k=2,
        num_mutation=2,
        num_crossover=2,
    )
    return Runner(
        model=scorer | (model or {}),
        train_cfg=search | loop,
        train_dataloader=DataLoader(
            samples(batch), 8, collate_fn=pseudo_collate
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=None, logger=None),
        randomness=dict(seed=0),
        default_scope='kdvit_mm',
        work_dir=str(folder / 'run'),
        log_level='WARNING',
        experiment_name=str(folder),
    )


def search(*args, **kwargs):
    runner = runner_of(*args, **kwargs)
    runner.train()
    return runner.train_loop


def test_ranks_what_it_scored(tmp_path):
    loop = search(tmp_path, model=dict(draws=2))
    ranking = loop.ranking
    assert {x['choices']['width'] for x in ranking} == {'2', '4', '8'}
    scores = [x['score'] for x in ranking]
    assert scores == sorted(scores, reverse=True) and len({*scores}) == 3
    for found in ranking:
        total = found['relation'] + found['semantic']
        assert found['score'] == pytest.approx(-total)
        model = MODELS.build(loop.model.mutator.model_config(found['choices']))
        params = sum(p.numel() for p in model.parameters())
        assert found['params'] == pytest.approx(params / 1e6, rel=1e-6)
    flops = {x['choices']['width']: x['flops'] for x in ranking}
    assert 12 < flops['8'] / flops['2'] < 16


def test_the_teacher_itself_has_no_distance(tmp_path):
    """Both draw the weights of one seed."""
    loop = search(tmp_path)
    found = {x['choices']['width']: x['score'] for x in loop.ranking}
    assert found['8'] == 0 > found['4']


def test_draws_are_averaged_and_depend_on_the_seed_alone(tmp_path):
    one, two = (
        search(tmp_path / str(draws), model=dict(draws=draws))
        for draws in (1, 2)
    )
    one.model._seed += 1
    one.see_batch()
    for found in two.ranking:
        config = two.model.mutator.model_config(found['choices'])
        two.model.draws = 2
        assert two.model.score(config)['score'] == found['score']
        second = one.model.score(config)['score']
        first = next(
            x['score'] for x in one.ranking if x['choices'] == found['choices']
        )
        assert found['score'] == pytest.approx((first + second) / 2, rel=1e-4)


def test_detectors(tmp_path):
    loop = search(tmp_path, 'det')
    assert len(loop.ranking) >= 3
    for found in loop.ranking:
        assert -3 < found['score'] < 0
    deep = [x['flops'] for x in loop.ranking if x['choices']['depth'] == '34']
    flat = [x['flops'] for x in loop.ranking if x['choices']['depth'] == '18']
    assert max(deep) > max(flat)


def test_constraints(tmp_path):
    plain = search(tmp_path / 'a')
    params = sorted(x['params'] for x in plain.ranking)
    limit = (params[1] + params[2]) / 2
    loop = search(tmp_path / 'b', constraints_range=dict(params=(0, limit)))
    assert {x['choices']['width'] for x in loop.ranking} == {'2', '4'}


def test_no_student_within_constraints(tmp_path):
    with pytest.raises(ValueError, match=r'none of 1000 students.*params='):
        search(tmp_path, constraints_range=dict(params=(5, 6)))


@pytest.mark.parametrize(
    ('change', 'error', 'words'),
    [
        (dict(constraints_range=dict(speed=(0, 1))), ValueError, 'speed'),
        (
            dict(model=dict(maps='neck.0')),
            ValueError,
            r'teacher \(ImageClassifier\) has no module "neck.0"; set maps',
        ),
        (dict(model=dict(classifier='fc')), ValueError, 'set classifier'),
        (
            dict(model=dict(teacher=tiny.resnet(8) | dict(head=dict(
                type='LinearClsHead', num_classes=12, in_channels=64)))),
            ValueError,
            'as many classes',
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_says_so(change, error, words, tmp_path):
    with pytest.raises(error, match=words):
        search(tmp_path, **change)


def test_it_is_not_trained(tmp_path):
    model = runner_of(tmp_path).model
    assert isinstance(model, DisWOT)
    with pytest.raises(NotImplementedError, match='StudentSearchLoop'):
        model(None)
