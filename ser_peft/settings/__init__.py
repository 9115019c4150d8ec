"""A training's yaml and its command line: read, checked, resolved."""
