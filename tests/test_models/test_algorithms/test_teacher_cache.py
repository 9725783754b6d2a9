import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger

from tests import tiny
from tests.test_models.test_algorithms.test_lean_teacher_distill import (
    count_calls,
    flatten,
    losses,
    teacher_records,
)

HITS = 'teacher.cache_hits'


def cached(folder, dtype='float32', **changes):
    cache = dict(dir=str(folder), dtype=dtype, **changes.pop('cache', {}))
    return tiny.build(cache=cache, **changes)


def chosen(batch: dict, images: list[int]) -> dict:
    return {key: [value[n] for n in images] for key, value in batch.items()}


def assert_same(found: dict, expected: dict, **tolerance) -> None:
    tolerance = tolerance or dict(rtol=0, atol=0)
    keys = expected.keys() - {HITS}
    assert found.keys() - {HITS} == keys
    for key in keys:
        torch.testing.assert_close(found[key], expected[key], **tolerance)


def test_records_come_back_exactly(tmp_path):
    expected = losses(tiny.build())
    ours = cached(tmp_path)
    first = losses(ours)
    calls = count_calls(ours.teacher.backbone)
    second = losses(ours)
    assert calls == []
    assert (first[HITS], second[HITS]) == (0, 1)
    assert first['distill.loss_0'] > 0
    assert_same(first, expected)
    assert_same(second, expected)
    # Another run with the same teacher.
    again = cached(tmp_path)
    assert losses(again)[HITS] == 1


def test_the_teacher_runs_on_the_misses_alone(tmp_path):
    batch = tiny.detection_batch(4)
    ours = cached(tmp_path)
    losses(ours, chosen(batch, [0, 2]))
    seen = []
    ours.teacher.backbone.register_forward_pre_hook(
        lambda module, args: seen.append(len(args[0]))
    )
    found = losses(ours, batch)
    assert seen == [2] and found[HITS] == 0.5
    assert_same(found, losses(tiny.build(), batch), rtol=1e-5, atol=1e-6)
    order = chosen(batch, [3, 1, 2, 0])
    found = losses(ours, order)
    assert seen == [2] and found[HITS] == 1
    assert_same(found, losses(tiny.build(), order), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_half_precision_does_not_depend_on_hits(tmp_path, dtype):
    expected = losses(tiny.build())
    ours = cached(tmp_path, dtype)
    first, second = losses(ours), losses(ours)
    assert (first[HITS], second[HITS]) == (0, 1)
    assert_same(second, first)
    bound = 1e-3 if dtype == 'float16' else 1e-2
    assert_same(second, expected, rtol=bound, atol=1e-6)
    assert second['distill.loss_0'] != expected['distill.loss_0']
    for tensor in flatten(teacher_records(ours)['rec']):
        assert tensor.dtype == torch.float32


def test_what_is_too_large_for_the_dtype_is_kept_exactly(tmp_path):
    plain, ours = tiny.build(), cached(tmp_path, 'float16')
    for model in (plain, ours):
        with torch.no_grad():
            model.teacher.neck.fpn_convs[0].conv.weight.mul_(1e7)
    expected, first, second = losses(plain), losses(ours), losses(ours)
    assert teacher_records(plain)['rec'][0][0].abs().max() > 65504
    assert second[HITS] == 1
    assert torch.equal(first['distill.loss_0'], expected['distill.loss_0'])
    assert_same(second, first)


def hits_after(ours, batch, change) -> float:
    """Whether a changed image is found where the original is kept."""
    losses(ours, batch)
    changed = copy.deepcopy(batch)
    change(changed)
    return losses(ours, changed)[HITS]


def test_every_pixel_counts(tmp_path):
    def change(batch):
        batch['inputs'][0][2, 127, 127] ^= 1

    batch = tiny.detection_batch(1)
    assert hits_after(cached(tmp_path), batch, change) == 0


def test_padding_counts(tmp_path):
    batch = tiny.detection_batch(1)
    other = tiny.detection_batch(1, size=160, seed=1)

    def change(batch):
        for key in batch:
            batch[key] += other[key]

    ours = cached(tmp_path)
    losses(ours, other)
    # Of the two, only the larger: around the smaller are other zeros.
    assert hits_after(ours, batch, change) == 0.5
    assert hits_after(ours, batch, change) == 1


def test_the_shape_that_a_sample_names_counts(tmp_path):
    """Transformers mask by it what pixels do not tell from black borders."""

    def change(batch):
        batch['data_samples'][0].set_metainfo(dict(img_shape=(128, 120)))

    batch = tiny.detection_batch(1)
    assert hits_after(cached(tmp_path), batch, change) == 0


def test_names_and_ground_truth_do_not_count(tmp_path):
    def change(batch):
        sample = batch['data_samples'][0]
        sample.set_metainfo(dict(img_id=77, img_path='elsewhere.png'))
        sample.gt_instances = sample.gt_instances[:1]

    batch = tiny.detection_batch(1)
    assert hits_after(cached(tmp_path), batch, change) == 1


def other_weights(ours):
    with torch.no_grad():
        ours.teacher.neck.fpn_convs[4].conv.bias[0] += 1e-3


def other_statistics(ours):
    ours.teacher.backbone.bn1.running_mean[0] += 1e-3


@pytest.mark.parametrize('change', [other_weights, other_statistics])
def test_another_teacher_is_never_found(tmp_path, change):
    ours = cached(tmp_path)
    losses(ours)
    assert losses(ours)[HITS] == 1
    # Even if it changes within a run.
    change(ours)
    assert losses(ours)[HITS] == 0
    plain = tiny.build()
    change(plain)
    assert_same(losses(ours), losses(plain))


@pytest.mark.parametrize(
    'changes',
    [
        dict(fold_batch_norm=True),
        dict(channels_last=True),
        dict(autocast_dtype='bfloat16'),
        dict(distiller=tiny.distiller('neck.fpn_convs.0', 0)),
        dict(cache=dict(levels=[2, 3, 4])),
        dict(dtype='float16'),
        dict(teacher=dict(tiny.gfl(16), test_cfg=dict(nms_pre=7))),
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_setting_is_never_found(tmp_path, changes):
    losses(cached(tmp_path))
    assert losses(cached(tmp_path))[HITS] == 1
    if 'cache' in changes:
        changes['distiller'] = distiller_of([2, 3, 4])
    assert losses(cached(tmp_path, **changes))[HITS] == 0


def test_mixed_precision_is_another_setting(tmp_path):
    ours = cached(tmp_path)
    losses(ours)
    with torch.autocast('cpu', torch.bfloat16):
        first, second = losses(ours), losses(ours)
        expected = losses(tiny.build())
    assert (first[HITS], second[HITS]) == (0, 1)
    assert_same(first, expected)
    assert_same(second, expected)
    assert losses(ours)[HITS] == 1


def test_other_code_of_the_teacher_is_never_found(tmp_path, monkeypatch):
    file = tmp_path / 'my_neck.py'
    code = (
        'from mmdet.models import FPN\n'
        'class MyFPN(FPN):\n'
        '    def forward(self, x):\n'
        '        return tuple(SCALE * y for y in super().forward(x))\n'
    )
    file.write_text(code + 'SCALE = 1\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_neck

    teacher = tiny.gfl(16)
    teacher.neck.type = my_neck.MyFPN
    folder = tmp_path / 'cache'
    losses(cached(folder, teacher=teacher))
    assert losses(cached(folder, teacher=teacher))[HITS] == 1
    file.write_text(code + 'SCALE = 2\n')
    assert losses(cached(folder, teacher=teacher))[HITS] == 0


def test_damaged_files_are_computed_again(tmp_path):
    ours = cached(tmp_path)
    expected = losses(ours)
    for file in tmp_path.rglob('*.record'):
        file.write_bytes(file.read_bytes()[:1000])
    found = losses(ours)
    assert found[HITS] == 0
    assert_same(found, expected)
    assert losses(ours)[HITS] == 1


def test_training_goes_on_where_nothing_can_be_written(tmp_path, monkeypatch):
    warnings = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'warning', warnings.append)
    (tmp_path / 'file').write_text('')
    ours = cached(tmp_path / 'file')
    found = [losses(ours) for _ in range(2)]
    assert [x[HITS] for x in found] == [0, 0]
    assert_same(found[1], losses(tiny.build()))
    assert len(warnings) == 1 and 'nothing more is written' in warnings[0]


def test_only_the_newest_fit(tmp_path):
    batch = tiny.detection_batch(3)
    losses(cached(tmp_path / 'a'), chosen(batch, [0]))
    (file,) = (tmp_path / 'a').rglob('*.record')
    limit = int(2.5 * file.stat().st_size)
    ours = cached(tmp_path / 'b', cache=dict(max_bytes=limit))
    for n in (0, 1, 2):
        losses(ours, chosen(batch, [n]))
    kept = [*(tmp_path / 'b').rglob('*.record')]
    assert sum(x.stat().st_size for x in kept) <= limit
    assert losses(ours, chosen(batch, [2]))[HITS] == 1


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
def test_goes_with_the_other_options(tmp_path, options):
    expected = losses(tiny.build(**options))
    ours = cached(tmp_path, **options)
    first, second = losses(ours), losses(ours)
    assert (first[HITS], second[HITS]) == (0, 1)
    total = sum(v for k, v in second.items() if 'loss' in k)
    total.backward()
    assert_same(first, expected, rtol=1e-5, atol=1e-6)
    assert_same(second, first)


def distiller_of(levels):
    config = tiny.distiller()
    for n in set(range(5)) - set(levels):
        del config.distill_losses[f'loss_{n}']
        del config.loss_forward_mappings[f'loss_{n}']
    return config


def test_coarse_levels_take_less_room(tmp_path):
    config = distiller_of([2, 3, 4])
    expected = losses(tiny.build(distiller=config))
    ours = cached(tmp_path / 'a', distiller=config)
    coarse = cached(
        tmp_path / 'b', distiller=config, cache=dict(levels=[2, 3, 4])
    )
    for model in (ours, coarse):
        assert_same(losses(model), expected)
        again = losses(model)
        assert again[HITS] == 1
        assert_same(again, expected)

    def bytes_in(folder):
        return sum(x.stat().st_size for x in folder.rglob('*.record'))

    # At 128 px, P3 and P4 are 95 % of the cells.
    assert bytes_in(tmp_path / 'b') < 0.4 * bytes_in(tmp_path / 'a')


def record_of(recorder, which=None):
    """An L2 loss on what a recorder gets on both sides."""
    mapping = dict(recorder='rec', **(which or {}))
    return dict(
        type='ConfigurableDistiller',
        student_recorders=dict(rec=recorder),
        teacher_recorders=dict(rec=recorder),
        distill_losses=dict(loss_l2=dict(type='L2Loss')),
        loss_forward_mappings=dict(
            loss_l2=dict(
                s_feature=dict(from_student=True, **mapping),
                t_feature=dict(from_student=False, **mapping),
            )
        ),
    )


def dino_pair():
    model = tiny.dino()
    return dict(
        architecture=model,
        teacher=copy.deepcopy(model),
        distiller=record_of(
            dict(type='MatchingQueries', source='bbox_head.cls_branches.1')
        ),
    ), tiny.detection_batch(2, 96)


def classifier_pair():
    parts = [
        dict(source='head.fc'),
        dict(source='backbone.layer2.0.relu', inputs=True, record_idx=1),
    ]
    return dict(
        architecture=tiny.resnet(),
        teacher=tiny.resnet(),
        distiller=record_of(
            dict(type='ModuleTuple', parts=parts), dict(data_idx=1)
        ),
    ), classification_batch()


def classification_batch():
    from mmengine.dataset import pseudo_collate
    from mmpretrain.structures import DataSample

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        256, (3, 3, 32, 32), generator=generator, dtype=torch.uint8
    )
    return pseudo_collate(
        [
            dict(inputs=image, data_samples=DataSample().set_gt_label(n))
            for n, image in enumerate(images)
        ]
    )


def segmentor_pair():
    return dict(
        architecture=tiny.fcn(),
        teacher=tiny.fcn(16),
        distiller=record_of(
            dict(type='ModuleOutputs', source='decode_head.conv_seg')
        ),
    ), tiny.segmentation_batch()


def level_selection():
    recorder = dict(type='FPNLevelSelection', source='neck')
    return dict(
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=dict(fpn=recorder),
            teacher_recorders=dict(fpn=recorder),
            distill_losses=dict(
                loss_levels=dict(
                    type='SelectedLevelsLoss',
                    selector=dict(type='FixedLevels', levels=[0, 2]),
                    loss=dict(type='kdvit_mm.CWDLoss'),
                    num_levels=5,
                )
            ),
            loss_forward_mappings=dict(
                loss_levels=dict(
                    preds_S=dict(recorder='fpn', from_student=True),
                    preds_T=dict(recorder='fpn', from_student=False),
                )
            ),
        )
    ), tiny.detection_batch()


def repeated_module():
    return dict(
        distiller=record_of(
            dict(type='ModuleOutputs', source='bbox_head.gfl_reg'),
            dict(record_idx=3),
        )
    ), tiny.detection_batch()


@pytest.mark.parametrize(
    'make',
    [
        dino_pair,
        classifier_pair,
        segmentor_pair,
        level_selection,
        repeated_module,
    ],
)
def test_any_record_of_one_row_per_image(tmp_path, make):
    changes, batch = make()
    plain = tiny.build(**copy.deepcopy(changes))
    ours = cached(tmp_path, **changes)
    for model in (plain, ours):
        for module in model.teacher.modules():
            if hasattr(module, 'level_embed'):
                # Until init_weights, mmdet leaves here what the memory held.
                torch.nn.init.ones_(module.level_embed)
    expected = losses(plain, batch)
    first = losses(ours, batch)
    calls = count_calls(ours.teacher)
    second = losses(ours, batch)
    assert calls == [] and second[HITS] == 1
    names = [k for k in expected if k.startswith('distill.')]
    assert names
    for name in names:
        assert expected[name] > 0
        assert torch.equal(first[name], expected[name])
        assert torch.equal(second[name], expected[name])


def test_copies_share_the_folder(tmp_path):
    ours = cached(tmp_path)
    losses(ours)
    assert losses(copy.deepcopy(ours))[HITS] == 1


def test_nothing_is_drawn_from_the_students_stream(tmp_path):
    ours = cached(tmp_path)
    alone = tiny.build().student.train()
    alone.load_state_dict(ours.student.state_dict())
    data = ours.data_preprocessor(tiny.detection_batch(), True)
    states = []
    for model in (alone, ours, ours):
        torch.manual_seed(5)
        model(**data, mode='loss')
        states.append(torch.rand(4))
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_two_stage_heads_are_refused(tmp_path):
    source = 'roi_head.bbox_head.fc_cls'
    ours = cached(
        tmp_path,
        architecture=tiny.faster_rcnn(8),
        teacher=tiny.faster_rcnn(16),
        distiller=record_of(dict(type='ModuleOutputs', source=source)),
    )
    with pytest.raises(ValueError, match='not one row per image'):
        losses(ours)


def test_a_teacher_that_mixes_images_is_refused(tmp_path):
    ours = cached(tmp_path)
    ours.teacher.backbone.conv1.register_forward_hook(
        lambda module, args, output: output - output.mean(0, keepdim=True)
    )
    with pytest.raises(ValueError, match='depends on the other images'):
        losses(ours, tiny.detection_batch(1))


def test_samples_of_the_teacher_are_refused(tmp_path):
    config = tiny.distiller()
    config.teacher_recorders.samples = dict(type='ModuleInputs', source='')
    with pytest.raises(ValueError, match='Record it of the student'):
        losses(cached(tmp_path, distiller=config))


def test_wrong_configs_say_so(tmp_path):
    with pytest.raises(ValueError, match="dtype 'half-ish' is not"):
        cached(tmp_path, 'half-ish')
    with pytest.raises(ValueError, match="dtype 'int8' is not"):
        cached(tmp_path, 'int8')
    with pytest.raises(ValueError, match='max_bytes is 0'):
        cached(tmp_path, cache=dict(max_bytes=0))
    with pytest.raises(TypeError, match='Did you mean "max_bytes"'):
        cached(tmp_path, cache=dict(maxbytes=1))
    with pytest.raises(ValueError, match=r'loss_0.preds_T reads data_idx=0'):
        cached(tmp_path, cache=dict(levels=[2, 3, 4]))
    missing = cached(
        tmp_path, distiller=distiller_of([4]), cache=dict(levels=[4, 5])
    )
    with pytest.raises(ValueError, match=r'levels=\[4, 5\] are not in the'):
        losses(missing)
    config = tiny.distiller()
    method = 'mmdet.models.dense_heads.gfl_head.GFLHead.get_targets'
    config['distill_deliveries'] = dict(
        targets=dict(type='MethodOutputs', method_path=method, max_keep_data=1)
    )
    with pytest.raises(ValueError, match='distill_deliveries hand over'):
        cached(tmp_path, distiller=config)


@pytest.mark.slow
@pytest.mark.usefixtures('forked')
def test_two_ranks_share_a_folder(tmp_path):
    script = str(Path(__file__).with_name('cache_on_two_ranks.py'))
    ranks = [
        subprocess.Popen(
            [sys.executable, script, tmp_path, str(rank)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=600)
        assert rank.returncode == 0, errors[-2000:]
    first, second = (
        json.loads((tmp_path / f'{rank}.json').read_text()) for rank in (0, 1)
    )
    # The second epoch has the images of the other rank.
    assert first['hits'] == second['hits'] == [0, 0, 1, 1]
    # Running statistics of batch norms are each rank's own.
    assert first['cached'] == first['plain']
    assert second['cached'] == second['plain']
