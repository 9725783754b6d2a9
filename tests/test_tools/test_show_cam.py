from functools import partial

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope

from kdvit_mm.visualization.pictures import plot_grid
from tests.test_tools.test_inference import Case
from tests.test_tools.test_scripts import load, run_here

TOOL = 'analysis/show_cam.py'
# In this process, where it can be looked into.
run = partial(run_here, TOOL)


@pytest.fixture(scope='module')
def cls(digits, tmp_path_factory) -> Case:
    return Case('cls', digits, tmp_path_factory.mktemp('cls'))


@pytest.fixture
def teacher(cls, tmp_path):
    """A checkpoint of a teacher to which everything is of class 6."""
    cfg = Config.fromfile(cls.config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model.teacher)
    torch.nn.init.constant_(model.head.fc.bias[6:7], 50)
    path = tmp_path / 'teacher.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture
def drawn(monkeypatch):
    """What the tool hands over to be drawn."""
    pictures = []

    def draw(rows, titles, file):
        pictures.append((rows, titles))
        plot_grid(rows, titles, file)

    monkeypatch.setattr('kdvit_mm.visualization.pictures.plot_grid', draw)
    return pictures


def test_shows_student_and_teacher(cls, teacher, drawn, tmp_path, capsys):
    out = tmp_path / 'new' / 'cam.png'
    for checkpoint in (cls.checkpoint, cls.exported):
        run(cls.config, checkpoint, cls.image, cls.image,
                 '--label', 4, '--out', out, '--cfg-options',
                 f'model.teacher_ckpt={teacher}')  # fmt: skip
        *lines, file = capsys.readouterr().out.splitlines()[-3:]
        assert file == str(out) and mmcv.imread(file).ndim == 3
        assert lines[0] == lines[1]
        assert lines[0].startswith(f'{cls.image}: class 4, student 0.')
    (rows, titles), (again, _) = drawn
    assert titles == ['image', 'student', 'teacher']
    pixels = mmcv.imread(cls.image, channel_order='rgb') / 255
    for row in rows + again:
        np.testing.assert_allclose(row[0], pixels)
        assert all(x.shape == pixels.shape for x in row)
        assert not np.array_equal(row[1], row[2])
    for one, other in zip(rows[0], again[0], strict=True):
        assert np.array_equal(one, other), 'the exported student is the same'


def test_class_is_the_teachers_unless_given(cls, teacher, tmp_path, capsys):
    run(cls.config, cls.checkpoint, cls.image,
             '--out', tmp_path / 'cam.png',
             '--cfg-options', f'model.teacher_ckpt={teacher}')  # fmt: skip
    line = capsys.readouterr().out.splitlines()[-2]
    assert line.startswith(f'{cls.image}: class 6, student 0.')
    assert line.endswith(', teacher 1.000')


def refusal(*arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    return str(stop.value)


def test_refuses_what_cannot_be_shown(cls, digits, tmp_path):
    given = (cls.config, cls.checkpoint)
    assert 'label 10: the classes are 0 to 9' in refusal(
        *given, cls.image, '--label', 10
    )
    assert 'not a distillation' in refusal(
        cls.student, cls.exported, cls.image
    )
    text = tmp_path / 'text.png'
    text.write_text('no image')
    assert f'{text} is not an image' in refusal(*given, text)
    assert 'nowhere.png' in refusal(*given, tmp_path / 'nowhere.png')
    other = tmp_path / 'other.pth'
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), other)
    assert 'does not fit model.architecture' in refusal(
        cls.config, other, cls.image
    )
    det = Case('det', digits, tmp_path)
    assert 'model.architecture is a GFL' in refusal(
        det.config, det.checkpoint, det.image
    )


def test_images_of_data_sets_that_load_rgb(cls):
    """CIFAR's images are RGB in memory, where files are loaded as BGR."""
    cfg = Config.fromfile(cls.config)
    init_default_scope(cfg.default_scope)
    loader = load(TOOL).Loader
    by_file, shown = loader(cfg)(cls.image)
    cfg.test_dataloader.dataset.pipeline = [dict(type='mmpretrain.PackInputs')]
    in_memory, also_shown = loader(cfg)(cls.image)
    assert torch.equal(by_file['inputs'].flip(0), in_memory['inputs'])
    assert np.array_equal(shown, also_shown)
    pixels = mmcv.imread(cls.image, channel_order='rgb') / 255
    np.testing.assert_allclose(shown, pixels)
