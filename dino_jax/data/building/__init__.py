"""Any source of images -> ArrayRecord shards."""
