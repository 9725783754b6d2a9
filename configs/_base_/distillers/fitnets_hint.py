# The first of FitNets' two stages: the student up to the guided layer learns
# the teacher's hint, without the task's loss.
_base_ = './fitnets_layer2.py'
calculate_student_loss = False
