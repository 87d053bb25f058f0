"""The kinds of training: each is a configuration and the function that trains by it, joined by the registry."""
