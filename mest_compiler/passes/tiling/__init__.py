"""How each operator of a training step is written over batch tiles: one file a family, a table operator -> handler each."""
