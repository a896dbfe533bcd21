"""How ids are laid out: ranges, patterns, masks, assembled streams. Knows ids and tensors only."""
