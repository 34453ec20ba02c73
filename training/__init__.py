"""Training of colorizers, started by ``percept train`` as child processes."""
