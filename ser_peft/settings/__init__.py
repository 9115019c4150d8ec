"""Settings of a training: its yaml and command line, read and checked."""
