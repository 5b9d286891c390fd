"""Cost of context schemes and models: parameters, FLOPs, memory, time."""
