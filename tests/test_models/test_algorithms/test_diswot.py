import pytest
import torch

from kdvit_mm.models.algorithms.diswot import (
    relation_distance,
    semantic_distance,
)
from tests.golden import parametrize
from tests.loss_checks import assert_golden


@parametrize('diswot', 'relation')
def test_relation_equals_official_code(case):
    assert_golden(lambda x: relation_distance(x['f_s'], x['f_t']), case)


@parametrize('diswot', 'semantic')
def test_semantic_equals_official_code(case):
    assert_golden(lambda x: semantic_distance(x['f_s'], x['f_t']), case)


def test_gradients_of_classifiers_by_hand():
    """Classes relate as (1, 0), (0, 1) against (1, 1), (1, 1) over √2."""
    distance = semantic_distance(torch.eye(2), torch.ones(2, 5))
    expected = ((1 - 0.5**0.5) ** 2 + 0.5) * 2 / 2
    assert distance.item() == pytest.approx(expected)
    batch = semantic_distance(
        torch.stack([torch.eye(2)] * 3), torch.ones(3, 2, 5, 1)[..., 0]
    )
    torch.testing.assert_close(batch, distance)


def test_a_classifier_s_gradient_of_a_real_network():
    """Zero for equal networks, more for another width."""
    from mmengine.registry import MODELS

    from tests import tiny
    from tests.loss_checks import classification_batch

    records = []
    for base in (4, 4, 8):
        torch.manual_seed(0)
        model = MODELS.build(tiny.resnet(base))
        model.init_weights()
        data = model.data_preprocessor(classification_batch(), True)
        maps = model.backbone(data['inputs'])[-1]
        model(**data, mode='loss')['loss'].backward()
        records.append((maps, model.head.fc.weight.grad))
    for distance, side in ((relation_distance, 0), (semantic_distance, 1)):
        same, other = (
            distance(records[i][side], records[0][side]) for i in (1, 2)
        )
        assert same == 0
        assert other > 1e-4


def test_half_precision():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 6).half()
    for distance in (relation_distance, semantic_distance):
        value = distance(student, teacher)
        assert value.dtype == torch.float32
        torch.testing.assert_close(
            value, distance(student.double(), teacher.double()).float()
        )


def test_errors():
    with pytest.raises(ValueError, match=r'two images.*\(1, 3\)'):
        relation_distance(torch.ones(1, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r'the same.*\(2, 3\).*\(3, 3\)'):
        relation_distance(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match=r'classes.*\(2, 3\).*\(3, 3\)'):
        semantic_distance(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match=r'\(2, 3\).*\(1, 2, 3\)'):
        semantic_distance(torch.ones(2, 3), torch.ones(1, 2, 3))
