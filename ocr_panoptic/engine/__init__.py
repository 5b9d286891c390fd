"""Training and evaluation with Detectron2's engine."""
