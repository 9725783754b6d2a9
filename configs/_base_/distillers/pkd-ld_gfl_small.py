# PKD on the FPN and LD on the head.
_base_ = './pkd_fpn_small.py'
import mmengine

distiller = mmengine.Config.fromfile(
    '{{ fileDirname }}/ld_gfl_small.py').distiller
