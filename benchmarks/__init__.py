"""Speed and memory, ours beside the peers: `make bench`."""
