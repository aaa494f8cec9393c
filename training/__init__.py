"""Online knowledge distillation of pose students and person detectors."""
