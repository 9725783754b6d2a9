custom_imports = dict(imports=['kdvit_mm'], allow_failed_imports=False)
custom_hooks = [dict(type='kdvit_mm.DistillWatchHook')]
