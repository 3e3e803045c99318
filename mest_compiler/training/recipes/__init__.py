"""The recipes that come with the package; a package of its own so that they are installed with it."""
