import copy
import functools

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.runner.checkpoint import get_state_dict, load_state_dict

from kdvit_mm.models.algorithms import LeanTeacherDistill
from kdvit_mm.registry import MODELS
from tests import tiny


def pair(options: dict | None = None, **changes):
    """mmrazor's algorithm with an eval-mode teacher, and ours."""
    theirs = tiny.build(kind='SingleTeacherDistill', **changes)
    theirs.init_weights()
    ours = tiny.build(**changes, **(options or {}))
    ours.student.load_state_dict(theirs.student.state_dict())
    ours.distiller.load_state_dict(theirs.distiller.state_dict())
    # Statistics that differ from the initial ones, as a trained teacher has.
    for module in theirs.teacher.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    ours.teacher.load_state_dict(theirs.teacher.state_dict())
    theirs.train()
    theirs.teacher.eval()
    ours.train()
    return theirs, ours


def losses(algorithm, batch=None) -> dict[str, torch.Tensor]:
    batch = batch or tiny.detection_batch()
    data = algorithm.data_preprocessor(copy.deepcopy(batch), True)
    # Recorded on both sides, so samplers draw the same proposals.
    torch.manual_seed(7)
    out = algorithm(**data, mode='loss')
    return {k: sum(v) if isinstance(v, list) else v for k, v in out.items()}


def teacher_records(algorithm) -> dict:
    recorders = algorithm.distiller.teacher_recorders.recorders
    return {name: rec.data_buffer for name, rec in recorders.items()}


def flatten(record) -> list[torch.Tensor]:
    if isinstance(record, torch.Tensor):
        return [record]
    if isinstance(record, (list, tuple)):
        return [tensor for item in record for tensor in flatten(item)]
    return []


def assert_equal_records(theirs, ours, exact=True):
    a, b = teacher_records(theirs), teacher_records(ours)
    assert a.keys() == b.keys()
    for name in a:
        left, right = flatten(a[name]), flatten(b[name])
        assert len(left) == len(right) > 0
        for x, y in zip(left, right, strict=True):
            if exact:
                assert torch.equal(x, y)
            else:
                assert (x - y).abs().max() <= 1e-5 * x.abs().max()


def test_same_losses_and_records_as_mmrazor():
    theirs, ours = pair()
    expected, found = losses(theirs), losses(ours)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)
    assert_equal_records(theirs, ours)


@pytest.mark.parametrize(
    'options',
    [
        dict(fold_batch_norm=True),
        dict(channels_last=True),
        dict(inference_mode=True),
        dict(
            fold_batch_norm=True,
            channels_last=True,
            inference_mode=True,
        ),
    ],
    ids=lambda options: '+'.join(options),
)
def test_exact_options_keep_the_records(options):
    theirs, ours = pair(options)
    losses(theirs)
    total = sum(v for k, v in losses(ours).items() if 'loss' in k)
    assert_equal_records(theirs, ours, exact=False)
    for tensor in flatten(teacher_records(ours)['rec']):
        assert tensor.is_contiguous() and not tensor.is_inference()
    total.backward()
    assert all(p.grad is None for p in ours.teacher.parameters())


def test_folding_removes_the_norms():
    _, ours = pair(dict(fold_batch_norm=True))
    losses(ours)
    kinds = [type(m) for m in ours.teacher.backbone.modules()]
    assert torch.nn.BatchNorm2d not in kinds


def test_folding_leaves_recorded_convolutions_alone():
    recorder = tiny.distiller('backbone.layer2.0.conv1', 0)
    recorder['connectors'] = dict(
        wide=dict(
            type='ConvModuleConnector',
            in_channel=16,
            out_channel=32,
            act_cfg=None,
        )
    )
    recorder['loss_forward_mappings']['loss_0']['preds_S']['connector'] = (
        'wide'
    )
    theirs, ours = pair(dict(fold_batch_norm=True), distiller=recorder)
    losses(theirs), losses(ours)
    assert_equal_records(theirs, ours, exact=False)
    block = ours.teacher.backbone.layer2[0]
    assert isinstance(block.bn1, torch.nn.BatchNorm2d)
    assert not isinstance(
        ours.teacher.backbone.layer1[0].bn1, torch.nn.BatchNorm2d
    )


def test_folding_that_changes_the_records_is_refused():
    _, ours = pair(dict(fold_batch_norm=True))
    # Something between a convolution and its norm that folding cannot see.
    ours.teacher.backbone.conv1.register_forward_hook(
        lambda module, args, output: 2 * output
    )
    with pytest.raises(ValueError, match='turn fold_batch_norm off'):
        losses(ours)


def test_bfloat16_teacher_is_close_and_records_are_float32():
    theirs, ours = pair(dict(autocast_dtype='bfloat16'))
    losses(theirs), losses(ours)
    for exact, rough in zip(
        flatten(teacher_records(theirs)['rec']),
        flatten(teacher_records(ours)['rec']),
        strict=True,
    ):
        assert rough.dtype == torch.float32
        error = (exact - rough).norm() / exact.norm()
        assert 0 < error < 0.05


def test_compiled_teacher_keeps_the_records(monkeypatch):
    # Inductor would take a minute to build its kernels.
    compiler = functools.partial(torch.compile, backend='aot_eager')
    monkeypatch.setattr(torch, 'compile', compiler)
    theirs, ours = pair(dict(compile_teacher=True))
    losses(theirs), losses(ours)
    assert_equal_records(theirs, ours, exact=False)
    assert 'forward' in vars(ours.teacher.backbone)


def count_calls(module) -> list:
    calls = []
    # Before the forward: the last record leaves it by an exception.
    module.register_forward_pre_hook(lambda *args: calls.append(1))
    return calls


@pytest.mark.parametrize(
    ('source', 'levels', 'runs', 'stops'),
    [
        ('backbone', 4, 'backbone', 'neck'),
        ('neck', 5, 'neck', 'bbox_head.cls_convs.0'),
        ('neck.fpn_convs.1', 0, 'neck.fpn_convs.1', 'neck.fpn_convs.2'),
    ],
)
def test_nothing_runs_after_the_last_record(source, levels, runs, stops):
    recorder = tiny.distiller(source, levels)
    teacher = tiny.gfl(8 if source == 'backbone' else 16)
    theirs, ours = pair(distiller=recorder, teacher=teacher)
    last = count_calls(ours.teacher.get_submodule(runs))
    after = count_calls(ours.teacher.get_submodule(stops))
    losses(theirs), losses(ours)
    assert last == [1] and after == []
    assert_equal_records(theirs, ours)


def test_records_of_methods_functions_and_repeated_modules():
    """The teacher runs until the first of its targets is there."""
    recorders = dict(
        scale=dict(type='ModuleOutputs', source='bbox_head.gfl_reg'),
        inputs=dict(
            type='MethodInputs',
            source='mmdet.models.dense_heads.gfl_head.GFLHead.loss_by_feat',
        ),
        targets=dict(
            type='FunctionOutputs',
            source='mmdet.models.dense_heads.gfl_head.unmap',
        ),
    )
    scale = dict(recorder='scale', record_idx=4)
    config = dict(
        type='ConfigurableDistiller',
        student_recorders=dict(scale=recorders['scale']),
        teacher_recorders=recorders,
        distill_losses=dict(loss_reg=dict(type='L2Loss')),
        loss_forward_mappings=dict(
            loss_reg=dict(
                s_feature=dict(from_student=True, **scale),
                t_feature=dict(from_student=False, **scale),
            )
        ),
    )
    theirs, ours = pair(distiller=config)
    expected, found = losses(theirs), losses(ours)
    assert found['distill.loss_reg'] > 0
    torch.testing.assert_close(
        found['distill.loss_reg'], expected['distill.loss_reg']
    )
    # Nothing asks for the other nine.
    assert len(teacher_records(ours)['targets']) == 1
    del teacher_records(theirs)['targets'][1:]
    assert_equal_records(theirs, ours)


def test_two_stage_teacher_records_its_proposals():
    source = 'roi_head.bbox_head.fc_cls'
    config = dict(
        type='ConfigurableDistiller',
        student_recorders=dict(rec=dict(type='ModuleOutputs', source=source)),
        teacher_recorders=dict(rec=dict(type='ModuleOutputs', source=source)),
        distill_losses=dict(loss_kd=dict(type='KLDivergence')),
        loss_forward_mappings=dict(
            loss_kd=dict(
                preds_S=dict(recorder='rec', from_student=True),
                preds_T=dict(recorder='rec', from_student=False),
            )
        ),
    )
    ours = tiny.build(
        architecture=tiny.faster_rcnn(8),
        teacher=tiny.faster_rcnn(16),
        distiller=config,
    )
    ours.train()
    after = count_calls(ours.teacher.roi_head.bbox_head.fc_reg)
    found = losses(ours)
    assert torch.isfinite(found['distill.loss_kd'])
    assert teacher_records(ours)['rec'][0].shape == (32, tiny.CLASSES + 1)
    assert after == []


def test_deliveries_hand_over_the_teachers_targets():
    """mmrazor's deliveries still fill up before the teacher stops."""
    method = 'mmdet.models.dense_heads.gfl_head.GFLHead.get_targets'
    config = tiny.distiller()
    config['distill_deliveries'] = dict(
        targets=dict(type='MethodOutputs', method_path=method, max_keep_data=1)
    )
    theirs, ours = pair(distiller=config)
    expected, found = losses(theirs), losses(ours)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_teacher_is_in_eval_mode_and_frozen():
    ours = tiny.build()
    ours.train()
    assert ours.student.training
    assert not any(module.training for module in ours.teacher.modules())
    assert not any(p.requires_grad for p in ours.teacher.parameters())


@pytest.mark.parametrize('name', ['gfl', 'faster_rcnn', 'fcn', 'resnet'])
def test_student_starts_as_if_it_were_alone(name):
    student = getattr(tiny, name)
    torch.manual_seed(3)
    alone = MODELS.build(student())
    alone.init_weights()
    after_alone = torch.rand(4)
    torch.manual_seed(3)
    config = tiny.algorithm(
        architecture=student(),
        teacher=student(16),
        distiller=tiny.distiller('backbone', 0),
    )
    together = MODELS.build(config)
    together.init_weights()
    assert torch.equal(after_alone, torch.rand(4))
    for key, value in alone.state_dict().items():
        assert torch.equal(value, together.student.state_dict()[key]), key


def test_loss_draws_nothing_from_the_students_stream():
    """Not even a teacher that samples, and a connector that masks."""
    config = tiny.distiller('neck', 0)
    config['distill_losses'] = dict(
        loss_0=dict(type='kdvit_mm.MGDLoss', alpha_mgd=1e-3)
    )
    config['connectors'] = dict(
        mgd=dict(
            type='MGDGenerator',
            student_channels=16,
            teacher_channels=16,
            lambda_mgd=0.5,
        )
    )
    mapping = config['loss_forward_mappings']['loss_0']
    mapping['preds_S'].update(data_idx=0, connector='mgd')
    mapping['preds_T'].update(data_idx=0)
    ours = tiny.build(distiller=config)
    ours.train()
    alone = tiny.build().student.train()
    alone.load_state_dict(ours.student.state_dict())
    data = ours.data_preprocessor(tiny.detection_batch(), True)
    torch.manual_seed(5)
    alone(**data, mode='loss')
    expected = torch.rand(4)
    torch.manual_seed(5)
    first = ours(**data, mode='loss')['distill.loss_0']
    assert torch.equal(expected, torch.rand(4))
    second = ours(**data, mode='loss')['distill.loss_0']
    assert first != second, 'every step draws a mask of its own'


def test_checkpoint_leaves_the_teacher_out_and_loads_strictly():
    ours = tiny.build()
    for state in (ours.state_dict(), get_state_dict(ours)):
        assert not any(key.startswith('teacher.') for key in state)
        other = tiny.build(seed=1)
        teacher = copy.deepcopy(other.teacher.state_dict())
        other.load_state_dict(state, strict=True)
        load_state_dict(other, copy.copy(state), strict=True)
        for key, value in other.student.state_dict().items():
            assert torch.equal(value, ours.student.state_dict()[key])
        for key, value in other.teacher.state_dict().items():
            assert torch.equal(value, teacher[key])


def test_checkpoint_can_keep_the_teacher():
    ours = tiny.build(teacher_in_checkpoint=True)
    other = tiny.build(seed=1, teacher_in_checkpoint=True)
    other.load_state_dict(ours.state_dict(), strict=True)
    for key, value in ours.teacher.state_dict().items():
        assert torch.equal(value, other.teacher.state_dict()[key])


def test_moving_average_of_the_algorithm():
    ours = tiny.build()
    average = ExponentialMovingAverage(ours, momentum=0.5)
    with torch.no_grad():
        next(ours.student.parameters()).add_(1)
    average.update_parameters(ours)
    assert isinstance(average.module, LeanTeacherDistill)
    assert losses(ours)['distill.loss_0'] > 0


def save_teacher(path, model=None, **changes):
    state = (model or MODELS.build(tiny.gfl(16))).state_dict()
    state.update(changes)
    torch.save({'state_dict': state}, path)
    return state


def test_teacher_checkpoint_is_loaded(tmp_path):
    path = str(tmp_path / 'teacher.pth')
    state = save_teacher(path)
    ours = tiny.build(seed=9, teacher_ckpt=path)
    ours.init_weights()
    for key, value in ours.teacher.state_dict().items():
        assert torch.equal(value, state[key])


def test_wrong_teacher_checkpoints_stop_the_run(tmp_path):
    path = str(tmp_path / 'teacher.pth')
    with pytest.raises(FileNotFoundError, match=r'Set model\.teacher_ckpt'):
        tiny.build(teacher_ckpt=path)
    save_teacher(path, extra=torch.zeros(1))
    with pytest.raises(ValueError, match='0 missing, 1 unexpected'):
        tiny.build(teacher_ckpt=path)
    state = MODELS.build(tiny.gfl(16)).state_dict()
    total = len(state)
    del state['backbone.conv1.weight']
    torch.save(state, path)
    message = rf'{total - 1} of {total} keys matched, 1 missing \(such as'
    with pytest.raises(ValueError, match=message):
        tiny.build(teacher_ckpt=path)
    save_teacher(path, MODELS.build(tiny.gfl(8)))
    with pytest.raises(ValueError, match=r'does not fit model\.teacher'):
        tiny.build(teacher_ckpt=path)
    torch.save({'state_dict': tiny.build().state_dict()}, path)
    with pytest.raises(ValueError, match='export_student'):
        tiny.build(teacher_ckpt=path)
    whole = tmp_path / 'teacher.pth'
    whole.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(RuntimeError, match='truncated'):
        tiny.build(teacher_ckpt=path)


def test_inherit_starts_neck_and_head_from_the_teacher():
    ours = tiny.build(inherit=['neck', 'bbox_head'], architecture=tiny.gfl(16))
    ours.init_weights()
    student, teacher = ours.student.state_dict(), ours.teacher.state_dict()
    for key, value in student.items():
        if key.startswith(('neck.', 'bbox_head.')):
            assert torch.equal(value, teacher[key]), key
    assert not torch.equal(
        student['backbone.conv1.weight'], teacher['backbone.conv1.weight']
    )
    whole = tiny.build(inherit=True, architecture=tiny.gfl(16))
    whole.init_weights()
    assert torch.equal(
        whole.student.neck.fpn_convs[0].conv.weight,
        whole.teacher.neck.fpn_convs[0].conv.weight,
    )


def test_inherit_refuses_other_shapes_and_unknown_modules():
    narrow = tiny.build(inherit=True)
    with pytest.raises(ValueError, match=r'lateral.*\(16, 16, 1, 1\)'):
        narrow.init_weights()
    unknown = tiny.build(inherit=['head'])
    with pytest.raises(ValueError, match='Leave it out of inherit'):
        unknown.init_weights()


def test_wrong_configs_say_so():
    with pytest.raises(TypeError, match='Did you mean "inherit"'):
        tiny.build(inherrit=True)
    with pytest.raises(ValueError, match='cannot be combined'):
        tiny.build(teacher_in_checkpoint=True, fold_batch_norm=True)
    with pytest.raises(ValueError, match='not a torch dtype'):
        tiny.build(autocast_dtype='half-ish')
    config = tiny.distiller('nek')
    with pytest.raises(AssertionError, match='Closest: neck'):
        tiny.build(distiller=config)


def test_channel_mismatch_names_the_connector():
    ours = tiny.build(architecture=tiny.gfl(8, fpn=8))
    ours.train()
    message = (
        r'"loss_0".*preds_S \(2, 8, 16, 16\), preds_T \(2, 16, 16, 16\)'
        r'(.|\n)*in_channel=8, out_channel=16'
    )
    with pytest.raises(ValueError, match=message):
        losses(ours)


def test_stopped_distillation_trains_the_student_alone():
    ours = tiny.build()
    ours.train()
    calls = count_calls(ours.teacher.backbone)
    ours.distillation_stopped = True
    found = losses(ours)
    assert calls == []
    assert found.keys() == {
        'student.loss_cls',
        'student.loss_bbox',
        'student.loss_dfl',
    }
