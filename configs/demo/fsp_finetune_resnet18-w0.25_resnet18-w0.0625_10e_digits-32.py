# Written by tools/misc/generate_configs.py
_base_ = './resnet18-w0.0625_10e_digits-32.py'
load_from = 'stage://fsp_stages_resnet18-w0.25_resnet18-w0.0625_10e_digits-32'
