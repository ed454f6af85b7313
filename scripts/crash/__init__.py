"""The crash test: a node that is killed, cut off or let down by its disk at numbered points."""
