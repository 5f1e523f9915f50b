"""The artifact contract: formats, digests, provenance, atomic writing, manifests."""
