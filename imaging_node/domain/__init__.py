"""The words of the node: frozen, typed, without input or output."""
