# CWD on the FPN and DIST on the head.
_base_ = './cwd_fpn_small.py'
import mmengine

distiller = mmengine.Config.fromfile(
    '{{ fileDirname }}/dist_gfl_small.py').distiller
