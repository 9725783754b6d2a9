import copy
import math

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner.checkpoint import get_state_dict
from torch import nn

from kdvit_mm.datasets import TeacherViews
from kdvit_mm.models.algorithms.multi_teacher_distill import (
    Teachers,
    confidence_weights,
)
from kdvit_mm.registry import MODELS
from tests import tiny
from tests.test_models.test_algorithms.test_lean_teacher_distill import (
    count_calls,
    flatten,
    losses,
    save_teacher,
    teacher_records,
)

NAMES = ('a', 'b')


def distiller(names=NAMES, source='neck', loss=None, index=0):
    """A loss on what ``source`` of each teacher and of the student gives."""
    which = {} if index is None else dict(data_idx=index)
    record = dict(type='ModuleOutputs', source=source)
    return dict(
        type='ConfigurableDistiller',
        student_recorders=dict(rec=record),
        teacher_recorders={
            name: dict(record, source=f'{name}.{source}') for name in names
        },
        distill_losses={
            f'loss_{name}': loss or dict(type='kdvit_mm.CWDLoss')
            for name in names
        },
        loss_forward_mappings={
            f'loss_{name}': dict(
                preds_S=dict(recorder='rec', from_student=True, **which),
                preds_T=dict(recorder=name, from_student=False, **which),
            )
            for name in names
        },
    )


def of(name, network=None, **options):
    return dict(name=name, teacher=network or tiny.gfl(16), **options)


def build(*teachers, seed=0, **changes):
    teachers = teachers or (of('a'), of('b', tiny.gfl(12)))
    torch.manual_seed(seed)
    model = MODELS.build(
        dict(
            type='kdvit_mm.MultiTeacherDistill',
            architecture=changes.pop('architecture', tiny.gfl(8)),
            teachers=teachers,
            distiller=changes.pop('distiller', distiller()),
            **changes,
        )
    )
    model.train()
    return model


def alone(model, name, **options):
    """One of the teachers alone, with the same student."""
    network = tiny.gfl(dict(a=16, b=12)[name])
    single = tiny.build(
        teacher=network,
        distiller=distiller(['x'])
        | dict(
            teacher_recorders=dict(x=dict(type='ModuleOutputs', source='neck'))
        ),
        **options,
    )
    single.student.load_state_dict(model.student.state_dict())
    single.teacher.load_state_dict(getattr(model.teacher, name).state_dict())
    return losses(single)['distill.loss_x']


def test_each_teacher_teaches_as_if_alone():
    model = build(weights=dict(a=1.0, b=1.0))
    found = losses(model)
    assert found['distill.loss_a'] == alone(model, 'a') > 0
    assert found['distill.loss_b'] == alone(model, 'b') > 0
    assert found['distill.loss_a'] != found['distill.loss_b']
    own = tiny.build()
    own.student.load_state_dict(model.student.state_dict())
    expected = losses(own)
    for name in ('student.loss_cls', 'student.loss_bbox'):
        assert found[name] == expected[name]


def test_equal_and_fixed_weights():
    model = build()
    plain = {name: alone(model, name) for name in NAMES}
    found = losses(model)
    for name in NAMES:
        assert found[f'distill.loss_{name}'] == plain[name] / 2
    fixed = build(weights=dict(a=0.25, b=3))
    found = losses(fixed)
    assert found['distill.loss_a'] == plain['a'] * 0.25
    assert found['distill.loss_b'] == plain['b'] * 3
    assert not any('weight' in name for name in found)


def test_confidence_weights():
    found = confidence_weights(torch.tensor([1.0, 2.0, 4.0]))
    total = math.e + math.e**2 + math.e**4
    for weight, loss in zip(found.tolist(), (1, 2, 4), strict=True):
        assert weight == pytest.approx((1 - math.e**loss / total) / 2)
    assert found.sum() == pytest.approx(1)
    assert confidence_weights(torch.tensor([5.0])).tolist() == [1]


def test_weights_by_loss():
    model = build(weights='loss')
    found = losses(model)
    data = model.data_preprocessor(tiny.detection_batch(), True)
    own = []
    for name in NAMES:
        teacher = getattr(model.teacher, name)
        with torch.no_grad():
            outputs = teacher(**copy.deepcopy(data), mode='loss')
        own.append(teacher.parse_losses(outputs)[0])
    weights = (1 - torch.stack(own).softmax(0)).tolist()
    assert sum(weights) == pytest.approx(1)
    for name, weight in zip(NAMES, weights, strict=True):
        assert found[f'teacher.{name}.weight'] == pytest.approx(weight)
        assert found[f'distill.loss_{name}'].item() == pytest.approx(
            alone(model, name).item() * weight, rel=1e-5
        )


def test_a_loss_of_two_teachers_has_no_weight():
    config = distiller()
    mapping = config['loss_forward_mappings']['loss_b']
    config['distill_losses'] = dict(loss_b=dict(type='L2Loss'))
    config['loss_forward_mappings'] = dict(
        loss_b=dict(
            s_feature=dict(mapping['preds_T'], recorder='a'),
            t_feature=mapping['preds_T'],
        )
    )
    model = build(distiller=config)
    found = losses(model)['distill.loss_b']
    records = teacher_records(model)
    a, b = (records[name][0][0] for name in NAMES)
    expected = MODELS.build(dict(type='mmrazor.L2Loss'))(a, b)
    assert found == expected > 0


def test_a_teacher_that_nothing_reads_any_more_is_not_run():
    model = build(weights='loss')
    losses(model)
    calls = {n: count_calls(getattr(model.teacher, n)) for n in NAMES}
    # As DistillScheduleHook stops a loss.
    del model.distiller.loss_forward_mappings['loss_b']
    found = losses(model)
    assert len(calls['a']) == 1 and calls['b'] == []
    assert 'distill.loss_b' not in found
    assert found['teacher.a.weight'] == 1


def test_each_stops_at_its_last_record():
    config = distiller()
    config['teacher_recorders']['b']['source'] = 'b.neck.fpn_convs.0'
    del config['loss_forward_mappings']['loss_b']['preds_T']['data_idx']
    model = build(distiller=config)
    after_a = count_calls(model.teacher.a.bbox_head.cls_convs[0])
    after_b = count_calls(model.teacher.b.neck.fpn_convs[1])
    losses(model)
    assert after_a == after_b == []


@pytest.mark.parametrize(
    'options',
    [
        dict(fold_batch_norm=True),
        dict(channels_last=True),
        dict(inference_mode=True),
        dict(autocast_dtype='bfloat16'),
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_are_each_teachers_own(options):
    plain = build()
    model = build(of('a', **options), of('b', tiny.gfl(12)))
    found, expected = losses(model), losses(plain)
    assert found['distill.loss_b'] == expected['distill.loss_b']
    bound = 0.05 if 'autocast_dtype' in options else 1e-4
    torch.testing.assert_close(
        found['distill.loss_a'],
        expected['distill.loss_a'],
        rtol=bound,
        atol=1e-7,
    )
    norms = [
        any(isinstance(m, nn.BatchNorm2d) for m in teacher.modules())
        for teacher in (model.teacher.a, model.teacher.b)
    ]
    assert norms == ['fold_batch_norm' not in options, True]


def test_each_has_its_own_cache(tmp_path):
    cache = dict(dir=str(tmp_path), dtype='float32')
    model = build(of('a', cache=cache), of('b', tiny.gfl(12), cache=cache))
    expected = losses(build())
    first, second = losses(model), losses(model)
    for name in NAMES:
        hits = f'teacher.{name}.cache_hits'
        assert (first[hits], second[hits]) == (0, 1)
        loss = f'distill.loss_{name}'
        assert first[loss] == second[loss] == expected[loss]
    # One of the two.
    mixed = build(of('a'), of('b', tiny.gfl(12), cache=cache))
    found = losses(mixed)
    assert 'teacher.a.cache_hits' not in found
    assert found['teacher.b.cache_hits'] == 1


def test_checkpoints_hold_the_teachers_that_are_to_be_in_them():
    model = build(of('a', teacher_in_checkpoint=True), of('b', tiny.gfl(12)))
    state = get_state_dict(model)
    assert {key.split('.')[1] for key in state if 'teacher' in key} == {'a'}
    other = build(
        of('a', teacher_in_checkpoint=True), of('b', tiny.gfl(12)), seed=1
    )
    kept = copy.deepcopy(other.teacher.b.state_dict())
    other.load_state_dict(state, strict=True)
    for key, value in model.teacher.a.state_dict().items():
        assert torch.equal(value, other.teacher.a.state_dict()[key])
    for key, value in kept.items():
        assert torch.equal(value, other.teacher.b.state_dict()[key])


def test_checkpoints_and_inherited_weights_of_each(tmp_path):
    file = str(tmp_path / 'b.pth')
    state = save_teacher(file, MODELS.build(tiny.gfl(12)))
    model = build(
        of('a', inherit=['neck', 'bbox_head']),
        of('b', tiny.gfl(12), teacher_ckpt=file),
        architecture=tiny.gfl(16),
    )
    model.init_weights()
    for key, value in model.teacher.b.state_dict().items():
        assert torch.equal(value, state[key])
    student = model.student.state_dict()
    for key, value in model.teacher.a.state_dict().items():
        if key.startswith(('neck.', 'bbox_head.')):
            assert torch.equal(value, student[key])
    with pytest.raises(ValueError, match='keys matched'):
        torch.save({'weight': torch.zeros(1)}, file)
        build(of('a'), of('b', tiny.gfl(12), teacher_ckpt=file))


def test_student_is_built_and_trained_as_if_alone():
    torch.manual_seed(3)
    student = MODELS.build(tiny.gfl())
    student.init_weights()
    after = torch.rand(4)
    torch.manual_seed(3)
    model = build(seed=3)
    model.init_weights()
    assert torch.equal(after, torch.rand(4))
    for key, value in student.state_dict().items():
        assert torch.equal(value, model.student.state_dict()[key])
    data = model.data_preprocessor(tiny.detection_batch(), True)
    torch.manual_seed(5)
    student.train()(**copy.deepcopy(data), mode='loss')
    after = torch.rand(4)
    torch.manual_seed(5)
    model(**data, mode='loss')
    assert torch.equal(after, torch.rand(4))


def test_teachers_are_frozen_and_no_submodules():
    model = build()
    assert not any('teacher' in key for key in model.state_dict())
    assert not any(module.training for module in model.teacher.modules())
    ours = {id(p) for p in model.parameters()}
    assert not ours & {id(p) for p in model.teacher.parameters()}
    total = sum(v for k, v in losses(model).items() if 'loss' in k)
    total.backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(not p.requires_grad for p in model.teacher.parameters())
    again = copy.deepcopy(model)
    assert again.teacher is model.teacher
    assert losses(again)['distill.loss_b'] == losses(model)['distill.loss_b']
    model.to(torch.float64)
    assert model.teacher.a.neck.fpn_convs[0].conv.weight.dtype == torch.float64


def test_autocast():
    model = build()
    expected = losses(model)
    with torch.autocast('cpu', torch.bfloat16):
        found = losses(model)
    for name in NAMES:
        key = f'distill.loss_{name}'
        torch.testing.assert_close(
            found[key].float(), expected[key], rtol=0.1, atol=1e-4
        )
        assert found[key] != expected[key]


def test_detectors_with_queries_among_others():
    config = distiller(
        source='bbox_head.cls_branches.1',
        loss=dict(type='mmrazor.KLDivergence'),
        index=None,
    )
    for recorder in (
        *config['student_recorders'].values(),
        *config['teacher_recorders'].values(),
    ):
        recorder['type'] = 'MatchingQueries'
    model = build(
        of('a', tiny.dino()),
        of('b', tiny.dino()),
        architecture=tiny.dino(),
        distiller=config,
    )
    for module in model.teacher.modules():
        if hasattr(module, 'level_embed'):
            nn.init.normal_(module.level_embed)
    found = losses(model, tiny.detection_batch(2, 96))
    assert torch.isfinite(found['distill.loss_a'])
    shapes = {x.shape for x in flatten(teacher_records(model)['a'])}
    assert shapes == {(2, 12, tiny.CLASSES)}


# What a teacher sees


def seen_by(teacher) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    teacher.backbone.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].clone())
    )
    return seen


def other_norm(base=12):
    network = tiny.gfl(base)
    network.data_preprocessor.update(
        mean=[10.0, 20.0, 30.0], std=[2.0] * 3, bgr_to_rgb=True
    )
    network.data_preprocessor.pad_size_divisor = 64
    return network


def test_a_preprocessor_of_its_own():
    model = build(
        of('a', tiny.gfl(16)),
        of('b', other_norm(), teacher_input=dict(own_preprocessor=True)),
    )
    seen = {name: seen_by(getattr(model.teacher, name)) for name in NAMES}
    batch = tiny.detection_batch()
    losses(model, batch)
    raw = torch.stack(batch['inputs'])
    torch.testing.assert_close(seen['a'][0], (raw - 127.0) / 60)
    mean = torch.tensor([10.0, 20, 30]).view(3, 1, 1)
    torch.testing.assert_close(seen['b'][0], (raw.flip(1) - mean) / 2)


def test_the_raw_batch_is_that_of_the_step():
    """Samples that the student's preprocessor writes into are not."""
    model = build(
        of('a'),
        of('b', other_norm(), teacher_input=dict(own_preprocessor=True)),
    )
    with pytest.raises(ValueError, match='Send it through'):
        model(torch.zeros(2, 3, 64, 64), [], mode='loss')
    data = model.data_preprocessor(tiny.detection_batch(3), True)
    with pytest.raises(ValueError, match='as train_step does'):
        model(data['inputs'][:2], data['data_samples'][:2], mode='loss')


def test_a_scale_of_its_own():
    """A teacher at twice the size: its P4 has the student's P3 size."""
    config = distiller()
    config['loss_forward_mappings']['loss_b']['preds_T']['data_idx'] = 1
    model = build(
        of('a'),
        of('b', tiny.gfl(12), teacher_input=dict(scale_factor=2.0)),
        distiller=config,
    )
    seen = seen_by(model.teacher.b)
    given = []
    model.teacher.b.register_forward_pre_hook(
        lambda module, args: given.append(args[1])
    )
    found = losses(model)
    assert found['distill.loss_b'] > 0
    assert seen[0].shape == (2, 3, 256, 256)
    sample = given[0][0]
    assert sample.img_shape == sample.batch_input_shape == (256, 256)
    assert 'gt_instances' not in sample
    small = nn.functional.avg_pool2d(seen[0], 2)
    data = model.data_preprocessor(tiny.detection_batch(), True)
    assert (small - data['inputs']).abs().mean() < 0.5


def classifiers(**teacher_input):
    source = 'head.fc'
    return build(
        of('a', tiny.resnet(8)),
        of('b', tiny.resnet(6), teacher_input=teacher_input),
        architecture=tiny.resnet(4),
        distiller=distiller(
            source=source, loss=dict(type='kdvit_mm.KDLoss'), index=None
        ),
    )


def test_a_view_of_its_own():
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        transform = TeacherViews(
            student=[dict(type='PackInputs')],
            views=dict(
                large=[
                    dict(type='Resize', scale=(64, 64)),
                    dict(type='PackInputs'),
                ]
            ),
        )
    images = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8).numpy()
    batch = pseudo_collate(
        [transform(dict(img=x, gt_label=1)) for x in images]
    )
    model = classifiers(view='large')
    seen = {name: seen_by(getattr(model.teacher, name)) for name in NAMES}
    found = losses(model, batch)
    assert found['distill.loss_b'] > 0
    assert seen['a'][0].shape == (3, 3, 32, 32)
    raw = torch.stack(batch['large']['inputs'])
    torch.testing.assert_close(seen['b'][0], (raw - 127.0) / 60)
    with pytest.raises(ValueError, match='no view "small", only inputs'):
        losses(classifiers(view='small'), batch)


def test_a_cache_of_what_the_teacher_sees(tmp_path):
    cache = dict(dir=str(tmp_path), dtype='float32')
    model = build(
        of('a'),
        of(
            'b',
            other_norm(),
            teacher_input=dict(own_preprocessor=True),
            cache=cache,
        ),
    )
    first, second = losses(model), losses(model)
    assert second['teacher.b.cache_hits'] == 1
    assert first['distill.loss_b'] == second['distill.loss_b']


def test_one_teacher_may_have_an_input_of_its_own():
    model = tiny.build(
        teacher=other_norm(16), teacher_input=dict(own_preprocessor=True)
    )
    seen = seen_by(model.teacher)
    batch = tiny.detection_batch()
    assert losses(model, batch)['distill.loss_0'] > 0
    raw = torch.stack(batch['inputs']).flip(1)
    mean = torch.tensor([10.0, 20, 30]).view(3, 1, 1)
    torch.testing.assert_close(seen[0], (raw - mean) / 2)


# What cannot be


@pytest.mark.parametrize(
    ('teachers', 'message'),
    [
        ([of('a'), of('a')], 'two are named "a"'),
        ([of('a')], 'has 1 of at least two'),
        ([], 'has 0 of at least two'),
        ([of('a'), dict(name='b')], r'teachers\[1\] has no teacher'),
        ([dict(teacher=tiny.gfl()), of('b')], r'teachers\[0\] has no name'),
        ([of('a'), of('b.c')], '"b.c" cannot be the name'),
        ([of('a'), of('train')], '"train" cannot be the name'),
        ([of('a'), of('lossy')], 'without "loss"'),
        ([of('a'), of('b'), of('c')], 'none of teacher_recorders is of "c"'),
    ],
    ids=lambda x: x if isinstance(x, str) else '',
)
def test_wrong_teachers_say_so(teachers, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(
            dict(
                type='kdvit_mm.MultiTeacherDistill',
                architecture=tiny.gfl(),
                teachers=teachers,
                distiller=distiller(),
            )
        )


def test_wrong_options_say_so(tmp_path):
    with pytest.raises(TypeError, match='Did you mean "inherit"'):
        build(of('a', inherrit=True), of('b'))
    with pytest.raises(TypeError, match='no config key "cach"'):
        build(of('a', cach=dict(dir='x')), of('b'))
    with pytest.raises(ValueError, match="weights has to be 'equal'"):
        build(weights='uncertain')
    with pytest.raises(ValueError, match='for each of a, b by name'):
        build(weights=dict(a=1))
    with pytest.raises(ValueError, match=r'a would have no loss'):
        build(of('a', cache=dict(dir=str(tmp_path))), of('b'), weights='loss')
    with pytest.raises(ValueError, match='scale_factor is 0'):
        build(of('a', teacher_input=dict(scale_factor=0)), of('b'))
    student = tiny.gfl()
    student.data_preprocessor.batch_augments = [
        dict(type='BatchFixedSizePad', size=(256, 256))
    ]
    with pytest.raises(ValueError, match='of the student alone'):
        build(
            of('a', teacher_input=dict(own_preprocessor=True)),
            of('b'),
            architecture=student,
        )


def test_wrong_distillers_say_so():
    config = distiller()
    config['teacher_recorders']['a']['source'] = 'neck'
    with pytest.raises(AssertionError, match=r'Closest: b\.neck, a\.neck'):
        build(distiller=config)
    method = 'mmdet.models.dense_heads.gfl_head.GFLHead.get_targets'
    config = distiller()
    config['teacher_recorders']['a'] = dict(
        type='MethodOutputs', source=method
    )
    with pytest.raises(ValueError, match='is not of one teacher'):
        build(distiller=config)
    config = distiller()
    config['distill_deliveries'] = dict(
        targets=dict(type='MethodOutputs', method_path=method, max_keep_data=1)
    )
    with pytest.raises(ValueError, match='Remove them'):
        build(distiller=config)


def test_a_teacher_without_losses_in_eval_mode_says_so():
    config = distiller(
        source='bbox_head.cls_branches.1',
        loss=dict(type='mmrazor.KLDivergence'),
        index=None,
    )
    model = build(
        of('a', tiny.dino()),
        of('b', tiny.dino()),
        architecture=tiny.dino(),
        distiller=config,
        weights='loss',
    )
    with pytest.raises(ValueError, match=r'teacher "a".* its losses'):
        losses(model, tiny.detection_batch(2, 96))


def test_a_shape_that_does_not_fit_names_the_connector():
    model = build(of('a'), of('b', tiny.gfl(12, fpn=8)))
    with pytest.raises(ValueError, match=r'"loss_b"(.|\n)*out_channel=8'):
        losses(model)


def test_all_as_one_network():
    networks = Teachers(dict(a=tiny.resnet(), b=tiny.resnet(8)))
    images = torch.rand(2, 3, 32, 32)
    found = networks(images, mode='tensor')
    assert found.keys() == {'a', 'b'}
    assert [module for module, _ in networks.named_children()] == [
        'data_preprocessor',
        'a',
        'b',
    ]
