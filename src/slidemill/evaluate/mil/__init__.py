"""Models on bags of tiles: many units of a protocol trained side by side."""
