"""Many utterances: manifests, token shards, batches, resumable and the same on every run."""
