import copy
import logging

import pytest
import torch
from torch import nn

from kdvit_mm.models.losses.feature.hcl import HCLLoss
from kdvit_mm.models.recorders import ModuleTupleRecorder
from kdvit_mm.registry import MODELS
from tests import tiny
from tests.loss_checks import classification_batch


class Net(nn.Module):
    """Calls its parts in another order than it has them, one twice."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(2, 2)
        self.relu = nn.ReLU(inplace=True)
        self.first = nn.Linear(2, 2)

    def forward(self, x):
        return self.relu(self.last(self.relu(self.first(x))))


def record(model, parts, x):
    recorder = ModuleTupleRecorder(parts)
    recorder.initialize(model)
    for _ in range(3):  # copies are kept in the first forward alone
        with recorder:
            model(x)
        records = recorder.get_record_data()
    return recorder, records


def test_parts_in_their_order_and_before_they_are_overwritten():
    torch.manual_seed(0)
    model, x = Net(), torch.randn(5, 2)
    recorder, records = record(
        model,
        [
            dict(source='relu', inputs=True, record_idx=1),
            dict(source='relu'),
            dict(source='first'),
            dict(source='relu', inputs=True),
        ],
        x,
    )
    first = model.first(x)
    last = model.last(first.relu())
    assert (first < 0).any() and (last < 0).any()
    expected = (last, first.relu(), first, first)
    assert len(records) == len(expected)
    for ours, theirs in zip(records, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    torch.testing.assert_close(recorder.get_record_data(0, 1), records[1])


def test_a_copy_feeds_its_own_recorder():
    torch.manual_seed(0)
    model, x = Net(), torch.randn(5, 2)
    recorder, before = record(model, [dict(source='first')], x)
    other, copied = copy.deepcopy((model, recorder))
    with copied:
        other(2 * x)
    torch.testing.assert_close(copied.get_record_data()[0], model.first(2 * x))
    assert torch.equal(recorder.get_record_data()[0], before[0])


def test_errors():
    with pytest.raises(ValueError, match=r"a part is a dict.*'index': 1"):
        ModuleTupleRecorder([dict(source='first', index=1)])
    with pytest.raises(AssertionError, match=r'"frist" is not in.*first'):
        ModuleTupleRecorder([dict(source='frist')]).initialize(Net())
    recorder = ModuleTupleRecorder(
        [dict(source='first'), dict(source='relu', record_idx=2)]
    )
    model = Net()
    recorder.initialize(model)
    with recorder:
        model(torch.ones(1, 2))
    with pytest.raises(
        ValueError, match=r'"relu" \(record_idx=2, called 2 times\)'
    ):
        recorder.get_record_data()
    _, recorded = record(model, [dict(source='first')], torch.ones(1, 2))
    assert len(recorded) == 1
    with pytest.raises(ValueError, match='number 0'):
        recorder.get_record_data(1)


STAGES = dict(
    type='kdvit_mm.ModuleTuple',
    parts=[
        dict(source=f'backbone.layer{i}.1.relu', inputs=True, record_idx=1)
        for i in (1, 2, 3, 4)
    ]
    + [dict(source='neck.gap')],
)


def review(**options):
    """ReviewKD for classifiers, as it is in the paper."""
    torch.manual_seed(0)
    student, teacher = tiny.resnet(4), tiny.resnet(8)
    # Blocks that start as the identity put out nothing negative.
    teacher.backbone.zero_init_residual = False
    return MODELS.build(
        dict(
            type='kdvit_mm.LeanTeacherDistill',
            architecture=student,
            teacher=teacher,
            distiller=dict(
                type='ConfigurableDistiller',
                student_recorders=dict(stages=STAGES),
                teacher_recorders=dict(stages=STAGES),
                connectors=dict(
                    review=dict(
                        type='kdvit_mm.ReviewKDConnector',
                        in_channels=[4, 8, 16, 32, 32],
                        out_channels=[8, 16, 32, 64, 64],
                        mid_channels=32,
                    )
                ),
                distill_losses=dict(
                    loss_reviewkd=dict(type='kdvit_mm.HCLLoss')
                ),
                loss_forward_mappings=dict(
                    loss_reviewkd=dict(
                        preds_S=dict(
                            recorder='stages',
                            from_student=True,
                            connector='review',
                        ),
                        preds_T=dict(recorder='stages', from_student=False),
                    )
                ),
            ),
            **options,
        )
    )


def step(algorithm):
    data = algorithm.data_preprocessor(classification_batch(), True)
    return data, algorithm(**data, mode='loss')['distill.loss_reviewkd']


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def by_hand(model, images):
    """The stages of a ResNet-18 before their last ReLU, and their mean."""
    x = model.backbone.relu(model.backbone.bn1(model.backbone.conv1(images)))
    stages = []
    for i in (1, 2, 3, 4):
        before, block = getattr(model.backbone, f'layer{i}')
        x = before(x)
        out = block.relu(block.bn1(block.conv1(x)))
        stages.append(block.bn2(block.conv2(out)) + x)
        x = stages[-1].relu()
    return [*stages, x.mean((2, 3), keepdim=True)]


def test_review_of_classifiers():
    algorithm = review()
    algorithm.train()
    calls = []
    algorithm.teacher.head.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        data, loss = step(algorithm)
    assert not calls  # the teacher stops after its pooling
    loss.backward()
    teacher = algorithm.distiller.teacher_recorders.recorders['stages']
    teacher = teacher.get_record_data()
    with torch.no_grad():
        expected = by_hand(algorithm.teacher, data['inputs'])
    assert all((x < 0).any() for x in expected[:4])
    for ours, theirs in zip(teacher, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    student = algorithm.distiller.get_record('stages', True)
    connected = algorithm.distiller.connectors['review'](student)
    assert [tuple(x.shape[1:]) for x in connected] == [
        tuple(x.shape[1:]) for x in teacher
    ]
    torch.testing.assert_close(loss, HCLLoss()(connected, teacher))
    for part in (algorithm.student.backbone, algorithm.distiller.connectors):
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        assert gradients and all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(
    'option', ['fold_batch_norm', 'channels_last', 'inference_mode']
)
def test_a_lean_teacher_has_the_same_records(option):
    algorithms = [review(), review(**{option: True})]
    for _ in range(2):
        values = [step(algorithm)[1] for algorithm in algorithms]
        torch.testing.assert_close(*values, rtol=1e-4, atol=0)


def test_a_part_that_is_not_called_is_named():
    algorithm = review()
    recorder = algorithm.distiller.teacher_recorders.recorders['stages']
    recorder.parts[1] = recorder.parts[1]._replace(record_idx=7)
    with pytest.raises(
        ValueError, match=r'"backbone\.layer2\.1\.relu" \(record_idx=7'
    ):
        step(algorithm)
