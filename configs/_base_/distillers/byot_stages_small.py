# As byot_stages.py, for a sixteenth of the width and the digits.
_base_ = './byot_stages.py'
distiller = dict(
    distill_losses={
        f'loss_stage{i}': dict(
            in_channels=channels, out_channels=32, num_classes=10)
        for i, channels in ((1, 4), (2, 8), (3, 16))
    })
