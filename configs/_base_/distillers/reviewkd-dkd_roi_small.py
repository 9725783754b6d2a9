# ReviewKD on the FPN and DKD on the RoI head, as in DKD's paper.
_base_ = './reviewkd_fpn_small.py'
import mmengine

distiller = mmengine.Config.fromfile(
    '{{ fileDirname }}/dkd_roi_small.py').distiller
