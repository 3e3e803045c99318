"""How each operator of a training step is written over batch tiles: a file and a table a family."""
