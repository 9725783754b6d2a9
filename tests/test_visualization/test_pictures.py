import json

import mmcv
import numpy as np
import pytest
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from kdvit_mm.analysis.doctor import count_flops
from kdvit_mm.visualization import (
    draw_sample,
    plot_grid,
    plot_runs,
    read_scalars,
)
from tests.test_engine.test_training import PLAIN, read_config


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
def test_truth_and_prediction_are_drawn(task, digits, tmp_path):
    cfg = read_config(PLAIN[task], digits, tmp_path / f'draw_{task}', 1)
    if task == 'det':
        # An untrained head is sure of nothing.
        cfg.model.test_cfg.score_thr = 0.0
    runner = Runner.from_cfg(cfg)
    dataset = runner.test_dataloader.dataset
    runner.visualizer.dataset_meta = dataset.metainfo
    sample = runner.model.test_step(pseudo_collate([dataset[0]]))[0]
    image = mmcv.imread(sample.img_path)
    truth = draw_sample(runner.visualizer, sample, truth=True)
    prediction = draw_sample(runner.visualizer, sample, truth=False)
    scale = 6 if task == 'cls' else 1
    expected = (image.shape[0] * scale, image.shape[1] * scale, 3)
    assert truth.shape == prediction.shape == expected
    plain = np.kron(image[..., ::-1], np.ones((scale, scale, 1)))
    assert (truth != plain).any()
    file = tmp_path / 'grid.png'
    plot_grid([[truth, prediction]] * 2, ['truth', 'model'], file)
    assert mmcv.imread(file).std() > 0


def test_curves_of_a_resumed_run_count_a_step_once(tmp_path):
    def log(folder, steps, key):
        file = tmp_path / 'run' / folder / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True)
        records = [
            {'step': s, 'loss': 3.0 * s, 'student.loss_cls': 2.0 * s, key: s}
            for s in steps
        ]
        records.append({'step': steps[-1], 'mIoU': 10.0})
        file.write_text('\n'.join(map(json.dumps, records)))

    log('20260101_000000', [1, 2, 3], 'distill.loss_kd')
    log('20260102_000000', [2, 3, 4], 'distill.loss_kd')
    records = read_scalars(tmp_path / 'run')
    trained = [record['step'] for record in records if 'loss' in record]
    assert trained == [1, 2, 3, 4]
    assert [r['step'] for r in records if 'mIoU' in r] == [3, 4]
    file = tmp_path / 'curves.png'
    plot_runs({'run': tmp_path / 'run'}, 'mIoU', file)
    assert mmcv.imread(file).std() > 0


def test_flops_of_a_model_counted_by_hand(digits, tmp_path):
    """The first convolution of ResNet-18 and its share of the whole."""
    cfg = read_config(PLAIN['cls'], digits, tmp_path / 'flops', 1)
    cfg.model.backbone.update(base_channels=64, stem_channels=64)
    cfg.model.head.in_channels = 512
    runner = Runner.from_cfg(cfg)
    batch = pseudo_collate([runner.test_dataloader.dataset[0]])
    data = runner.model.data_preprocessor(batch, False)
    # 0.56 G multiply-adds, as published for ResNet-18 at 32 px.
    assert count_flops(runner.model, data) == pytest.approx(5.56e8, rel=0.01)
