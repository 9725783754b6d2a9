# Phases, updates and probes of a level selection over twelve epochs or more.
level_selection = dict(
    type='kdvit_mm.LevelSelectionHook',
    warmup=1,
    policy=1,
    update_interval=64,
    probe_interval=500,
    dump=True)
