# As cifar10_classification.py, for models that have their own data preprocessor.
_base_ = './cifar10_classification.py'
data_preprocessor = None
