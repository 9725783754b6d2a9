_base_ = './defeat_fpn.py'
distiller = dict(
    connectors={
        f'adapter_{level}': dict(in_channel=48, out_channel=48)
        for level in range(5)
    })
