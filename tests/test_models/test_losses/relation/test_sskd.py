import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmpretrain.structures import DataSample

from kdvit_mm.models.losses.relation.sskd import (
    VIEWS,
    SSKDLoss,
    kept,
    own_images,
    split_views,
    view_similarities,
)
from kdvit_mm.registry import MODELS
from tests import tiny
from tests.examples import Example, maps
from tests.golden import parametrize
from tests.loss_checks import (
    assert_golden,
    assert_robust,
    classification_batch,
)
from tests.resume_checks import DISTILLED, read_config, run, run_in_halves

EXAMPLES = [
    Example(
        dict(
            type='SSKDLoss',
            student_channels=32,
            teacher_channels=32,
            head_ckpt=None,
        ),
        lambda: dict(
            preds_S=maps(16, 5),
            preds_T=maps(16, 5),
            data_samples=samples(range(4)),
            feats_S=maps(16, 32),
            feats_T=maps(16, 32),
        ),
    )
]


def samples(labels):
    return [
        DataSample(metainfo=dict(view=view)).set_gt_label(int(label))
        for label in labels
        for view in VIEWS
    ]


def make_loss(**changes):
    torch.manual_seed(0)
    options = dict(student_channels=5, teacher_channels=7, head_ckpt=None)
    return SSKDLoss(**options | changes)


@parametrize('sskd')
def test_equals_official_code(case):
    options = case.settings
    loss = make_loss(
        tau=options['kd_T'],
        tf_tau=options['tf_T'],
        ss_tau=options['ss_T'],
        tf_ratio=options['ratio_tf'],
        ss_ratio=options['ratio_ss'],
        ce_weight=options['ce_weight'],
        kd_weight=options['kd_weight'],
        tf_weight=options['tf_weight'],
        ss_weight=options['ss_weight'],
    )
    # The record has what the heads have put out.
    loss._embed = lambda side, features, logits: features
    batch = samples(case.inputs['target'])

    def call(x):
        return loss(
            x['logits_s'], x['logits_t'], batch, x['rep_s'], x['rep_t']
        )

    assert_golden(call, case)
    x = case.inputs
    terms = loss.level_losses(
        [x['logits_s']],
        [x['logits_t']],
        (batch, x['rep_s'], x['rep_t']),
    )
    weights = [options[f'{key}_weight'] for key in ('ce', 'kd', 'tf', 'ss')]
    for n, (term, weight) in enumerate(zip(terms, weights, strict=True), 1):
        torch.testing.assert_close(
            term, weight * case.outputs[f'loss{n}'], rtol=1e-10, atol=0
        )
    targets = split_views(x['target'].repeat_interleave(4))[1]
    similar = view_similarities(x['rep_t'])
    for key, scores, right in (
        ('tf', split_views(x['logits_t'])[1], targets),
        ('ss', similar, own_images(similar)),
    ):
        chosen = kept(scores, right, options[f'ratio_{key}'])
        assert torch.equal(
            chosen.nonzero()[:, 0], case.outputs[f'distill_index_{key}']
        )


def make_batch(images=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(images)
    logits_s, logits_t, feats_s, feats_t = (
        torch.randn(4 * images, size, generator=generator, dtype=dtype)
        for size in (6, 6, 5, 7)
    )
    labels = torch.randint(6, (images,), generator=generator)
    return logits_s, logits_t, samples(labels), feats_s, feats_t


def test_equals_the_formula():
    """With all views distilled, which needs no ranks."""
    loss = make_loss(tf_ratio=1, ss_ratio=1, loss_weight=2.0).double()
    logits_s, logits_t, batch, feats_s, feats_t = make_batch(
        dtype=torch.float64
    )

    def kl(teacher, student, tau):
        p, q = (teacher / tau).softmax(1), (student / tau).softmax(1)
        return tau**2 * (p * (p / q).log()).sum(1).mean()

    def similarities(head, features):
        x = head[2](head[0](features).relu())
        rows = [
            [
                F.cosine_similarity(x[4 * i + view], x[4 * j], 0)
                for j in (0, 1, 2)
            ]
            for i in range(3)
            for view in (1, 2, 3)
        ]
        return torch.stack([torch.stack(row) for row in rows])

    normal = torch.arange(12) % 4 == 0
    labels = torch.cat([sample.gt_label for sample in batch])[normal]
    p = logits_s[normal].softmax(1)
    terms = (
        0.1 * -p[range(3), labels].log().mean(),
        0.9 * kl(logits_t[normal], logits_s[normal], 4),
        2.7 * kl(logits_t[~normal], logits_s[~normal], 4),
        10
        * kl(
            similarities(loss.proj_head_t, feats_t),
            similarities(loss.proj_head_s, feats_s),
            0.5,
        ),
    )
    value = loss(logits_s, logits_t, batch, feats_s, feats_t)
    torch.testing.assert_close(value, 2 * sum(terms))


def test_ranks():
    scores = torch.tensor(
        [[3.0, 2, 1], [3, 2, 1], [1, 2, 3], [2, 3, 1], [9, 0, 1]]
    )
    targets = torch.tensor([0, 2, 0, 0, 0])
    # Two right, two at the third place, one at the second.
    for ratio, expected in (
        (0, [1, 0, 0, 0, 1]),
        (0.4, [1, 0, 0, 1, 1]),
        (0.7, [1, 1, 0, 1, 1]),
        (1, [1, 1, 1, 1, 1]),
    ):
        found = kept(scores, targets, ratio)
        assert found.tolist() == [bool(x) for x in expected], ratio


def test_no_view_is_left():
    logits_s, logits_t, batch, feats_s, feats_t = make_batch()
    labels = torch.cat([sample.gt_label for sample in batch])
    # The teacher finds no class, and there is one image only.
    logits_t[range(12), labels] = -9
    loss = make_loss(tf_ratio=0, ce_weight=0, kd_weight=0, ss_weight=0)
    assert loss(logits_s, logits_t, batch, feats_s, feats_t) == 0


def test_a_batch_of_one():
    """Its views are similar to one image alone, to both networks."""
    logits_s, logits_t, batch, feats_s, feats_t = make_batch(1)
    loss = make_loss(ce_weight=0, kd_weight=0, tf_weight=0)
    assert loss(logits_s, logits_t, batch, feats_s, feats_t) == 0
    loss = make_loss()
    assert loss(logits_s, logits_t, batch, feats_s, feats_t) > 0


def test_the_teachers_head_is_not_trained():
    loss = make_loss()
    logits_s, logits_t, batch, feats_s, feats_t = make_batch()
    feats_s.requires_grad_()
    feats_t.requires_grad_()
    loss(logits_s, logits_t, batch, [feats_s], (feats_t,)).backward()
    assert feats_s.grad.abs().sum() > 0
    assert feats_t.grad is None
    assert all(x.grad.abs().sum() > 0 for x in loss.proj_head_s.parameters())
    assert not any(x.requires_grad for x in loss.proj_head_t.parameters())


@pytest.mark.parametrize(
    'dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
@pytest.mark.parametrize('images', [1, 3])
def test_hard_input(dtype, images):
    torch.manual_seed(0)
    rows = 4 * images
    # Features and logits in one tensor, whose gradients are compared.
    student, teacher = (
        (2e4 * torch.rand(rows, 11) - 1e4).to(dtype) for _ in range(2)
    )
    loss = make_loss(teacher_channels=5)
    batch = samples(range(images))

    def call(s, t):
        loss.to(torch.promote_types(s.dtype, torch.float32))
        return loss(s[:, :6], t[:, :6], batch, s[:, 6:], t[:, 6:])

    assert_robust(call, student.requires_grad_(), teacher)


def test_errors(tmp_path):
    loss = make_loss()
    logits_s, logits_t, batch, *feats = make_batch()
    with pytest.raises(ValueError, match=r'SSKDLoss needs the class.*Module'):
        loss(logits_s, logits_t, None, *feats)
    plain = [DataSample().set_gt_label(0)] * 12
    with pytest.raises(
        ValueError, match=r"12 rows.*\['None'\].*type='kdvit_mm.RotatedViews"
    ):
        loss(logits_s, logits_t, plain, *feats)
    with pytest.raises(ValueError, match=r'needs the views \(0, 90, 180, 2'):
        loss(logits_s, logits_t, batch[1:] + batch[:1], *feats)
    with pytest.raises(ValueError, match='remove Mixup or CutMix'):
        soft = [x.clone().set_gt_score(torch.rand(6)) for x in batch]
        loss(logits_s, logits_t, soft, *feats)
    with pytest.raises(ValueError, match='classes differ'):
        loss(logits_s, logits_t[:, :5], batch, *feats)
    with pytest.raises(ValueError, match='2 classes or more'):
        loss(logits_s[:, :1], logits_t[:, :1], batch, *feats)
    with pytest.raises(
        ValueError,
        match=r"student's features are NoneType.*\(12, 5\).*feats_S",
    ):
        loss(logits_s, logits_t, batch)
    with pytest.raises(
        ValueError, match=r"teacher's .*\(12, 5\).*\(12, 7\).*from_student=Fa"
    ):
        loss(logits_s, logits_t, batch, feats[0], feats[0])
    for options in dict(ss_tau=0), dict(tf_tau=-1), dict(tau=0):
        with pytest.raises(ValueError, match=f'{next(iter(options))}'):
            make_loss(**options)
    for options in dict(tf_ratio=1.1), dict(ss_ratio=-0.1):
        with pytest.raises(ValueError, match=r'shares in \[0, 1\]'):
            make_loss(**options)
    path = str(tmp_path / 'head.pth')
    torch.save(dict(state_dict={'proj_head.0.weight': torch.ones(7, 7)}), path)
    with pytest.raises(ValueError, match=r'holds the head .*SSKDHeadLearning'):
        make_loss(head_ckpt=path)


def learning(**changes):
    config = dict(
        _scope_='kdvit_mm',
        type='SSKDHeadLearning',
        architecture=rotated(tiny.resnet(8)),
        channels=64,
    )
    return MODELS.build(ConfigDict(config | changes))


def rotated(model):
    model.data_preprocessor.type = 'kdvit_mm.RotatedViewsDataPreprocessor'
    return model


def test_the_head_learns_and_nothing_else():
    torch.manual_seed(0)
    model = learning()
    before = {k: x.clone() for k, x in model.state_dict().items()}
    data = model.data_preprocessor(classification_batch(), True)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    values = []
    for _ in range(20):
        losses = model(**data, mode='loss')
        total, logged = model.parse_losses(losses)
        assert total == losses['loss_views']
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(total.item())
    assert values[-1] < values[0]
    assert 0 <= logged['accuracy_views'] <= 100
    changed = {
        k
        for k, x in model.state_dict().items()
        if not torch.equal(x, before[k])
    }
    assert changed == {
        f'proj_head.{n}.{x}' for n in (0, 2) for x in ('weight', 'bias')
    }


def test_the_heads_loss_is_the_cross_entropy_of_cosines():
    torch.manual_seed(0)
    model = learning()
    data = model.data_preprocessor(classification_batch(), True)
    losses = model(**data, mode='loss')
    with torch.no_grad():
        features = model.architecture.extract_feat(data['inputs'])[0]
        x = model.proj_head(features)
    terms, hits = [], 0
    for row in range(16):
        if row % 4:
            cosines = F.cosine_similarity(x[row], x[::4])
            terms.append(-cosines.log_softmax(0)[row // 4])
            hits += int(cosines.argmax() == row // 4)
    torch.testing.assert_close(
        losses['loss_views'].detach(), torch.stack(terms).mean()
    )
    assert losses['accuracy_views'] == 100 * hits / 12


def test_errors_of_the_first_stage():
    with pytest.raises(ValueError, match='no module "nek"; set source'):
        learning(source='nek')
    batch = classification_batch()
    for options, words in (
        (dict(channels=32), r'\[\(16, 64\)\].*channels makes them \(16, 32\)'),
        (dict(source='backbone'), r'after the pooling'),
    ):
        model = learning(**options)
        data = model.data_preprocessor(classification_batch(), True)
        with pytest.raises(ValueError, match=words):
            model(**data, mode='loss')
    model = learning(architecture=tiny.resnet(8))
    data = model.data_preprocessor(batch, True)
    with pytest.raises(ValueError, match=r'SSKDHeadLearning needs the views'):
        model(**data, mode='loss')


def distiller(head_ckpt):
    record = dict(
        logits=dict(type='ModuleOutputs', source='head.fc'),
        feats=dict(type='ModuleOutputs', source='neck'),
    )
    return dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            record, samples=dict(type='ModuleInputs', source='')
        ),
        teacher_recorders=record,
        distill_losses=dict(
            loss_sskd=dict(
                type='kdvit_mm.SSKDLoss',
                student_channels=32,
                teacher_channels=128,
                head_ckpt=head_ckpt,
            )
        ),
        loss_forward_mappings=dict(
            loss_sskd=dict(
                preds_S=dict(recorder='logits', from_student=True),
                preds_T=dict(recorder='logits', from_student=False),
                feats_S=dict(recorder='feats', from_student=True),
                feats_T=dict(recorder='feats', from_student=False),
                data_samples=dict(
                    recorder='samples', from_student=True, data_idx=1
                ),
            )
        ),
    )


def test_both_stages_train_and_resume_bit_for_bit(digits, tmp_path):
    cfg = read_config(
        'resnet18-w0.25_10e_digits-32', digits, tmp_path / 'head', 1
    )
    cfg.model = dict(
        type='kdvit_mm.SSKDHeadLearning',
        architecture=rotated(cfg.model),
        channels=128,
    )
    cfg.train_dataloader.batch_size = 8
    head = run(cfg).model.proj_head.state_dict()

    def config(name):
        cfg = read_config(DISTILLED['cls'], digits, tmp_path / name, 2)
        rotated(cfg.model.architecture)
        cfg.model.calculate_student_loss = False
        cfg.model.distiller = distiller(str(tmp_path / 'head' / 'epoch_1.pth'))
        return cfg

    straight = run(config('straight'))
    halves = run_in_halves(lambda: config('halves'))
    first, second = (x.model.state_dict() for x in (straight, halves))
    assert first.keys() == second.keys()
    assert all(torch.equal(x, second[key]) for key, x in first.items())
    loss = straight.model.distiller.distill_losses.loss_sskd
    for key, x in loss.proj_head_t.state_dict().items():
        assert torch.equal(x, head[key])
