"""From a folder of recordings to what training reads: prepare (manifests) and tokenize (token shards)."""
