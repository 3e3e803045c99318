"""The training loop of the PyTorch side: data sets, recipes, schedules, one epoch loop for all engines."""
