import pytest
from mmdet.registry import HOOKS as MMDET_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmrazor.models.losses import DKDLoss
from mmrazor.registry import HOOKS as MMRAZOR_HOOKS
from mmrazor.registry import MODELS as MMRAZOR_MODELS

from kdvit_mm.engine.hooks import DistillationLossDetachHook, EpochSeedHook
from kdvit_mm.models.algorithms import LeanTeacherDistill
from kdvit_mm.registry import MODELS


def test_scoped_names_resolve_from_every_scope():
    for registry in (ROOT_MODELS, MMRAZOR_MODELS, MODELS):
        found = registry.get('kdvit_mm.LeanTeacherDistill')
        assert found is LeanTeacherDistill
    assert MMDET_HOOKS.get('kdvit_mm.EpochSeedHook') is EpochSeedHook


def test_plain_names_resolve_in_mmrazors_scope():
    assert MMRAZOR_MODELS.get('LeanTeacherDistill') is LeanTeacherDistill
    # What the upstream recipe of RTMDet writes.
    found = MMDET_HOOKS.get('mmrazor.DistillationLossDetachHook')
    assert found is DistillationLossDetachHook
    assert MMRAZOR_HOOKS.get('StopDistillHook').__module__.startswith(
        'mmrazor'
    )


def test_mmrazors_own_classes_keep_their_names():
    assert MMRAZOR_MODELS.get('DKDLoss') is DKDLoss


@pytest.mark.parametrize('scope', ['mmdet', 'mmrazor', 'kdvit_mm'])
def test_building_inside_another_default_scope(scope):
    from kdvit_mm.registry import HOOKS

    with DefaultScope.overwrite_default_scope(scope):
        hook = HOOKS.build(
            dict(type='kdvit_mm.DistillationLossDetachHook', detach_epoch=3)
        )
    assert hook.schedules[0]['begin'] == 3


def test_unknown_key_names_the_closest():
    from kdvit_mm.registry import HOOKS

    with pytest.raises(TypeError, match='Did you mean "detach_epoch"'):
        HOOKS.build(
            dict(type='kdvit_mm.DistillationLossDetachHook', detach_epochs=3)
        )
