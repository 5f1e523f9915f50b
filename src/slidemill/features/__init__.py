"""Features: tiles to vectors by a tile encoder of choice."""
