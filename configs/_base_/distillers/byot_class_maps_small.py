# As byot_class_maps.py, for an eighth of the width and the digits.
_base_ = './byot_class_maps.py'
distiller = dict(
    connectors=dict(
        layer2=dict(in_channel=16, out_channel=11),
        layer3=dict(in_channel=32, out_channel=11)))
